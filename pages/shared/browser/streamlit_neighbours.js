// A node's inputs and outputs as two lists with bars. A click walks to the node at the other end:
// the graph answers at once, and Python hears of it from the graph.

const FIRST = 6;
const open = (globalThis.circuitOpenLists ??= new Set());    // lists that were unfolded, by title

const add = (parent, tag, className, text) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
};

const percent = share => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;
const signed = value => (value < 0 ? '−' : '+') + Number(Math.abs(value).toPrecision(3));

export default function ({ data, parentElement, setTriggerValue }) {
  let root = parentElement.querySelector('.neighbours');
  root ??= add(parentElement, 'div', 'neighbours');
  const draw = () => {
    root.replaceChildren();
    for (const list of data.lists) drawList(root, list);
    if (data.empty) add(root, 'div', 'none', data.empty);
  };
  const drawList = (parent, list) => {
    if (!list.rows.length) return;
    const isOpen = open.has(list.title), strongest = Math.abs(list.rows[0].weight) || 1;
    const head = add(parent, 'div', 'head');
    add(head, 'b', '', list.title);
    add(head, 'span', '', list.note);
    if (list.count) add(parent, 'div', 'count', list.count);
    for (const entry of isOpen ? list.rows : list.rows.slice(0, FIRST)) {
      const row = add(parent, 'button', 'entry');
      row.dataset.node = entry.id;
      const isShare = list.unit === 'percent';
      row.title = isShare ? `${entry.name}, ${entry.where}` : `${entry.name}, ${entry.where}: `
        + `${signed(entry.weight)}, ${percent(entry.share)} of this side`;
      const sign = isShare ? 'share' : entry.weight > 0 ? 'positive' : 'negative';
      const bar = add(add(row, 'span', 'bar'), 'i', sign);
      bar.style.width = `${Math.max(3, 100 * Math.abs(entry.weight) / strongest)}%`;
      add(row, 'span', 'weight', isShare ? percent(entry.weight) : signed(entry.weight));
      add(row, 'span', 'name', entry.name);
      add(row, 'span', 'where', entry.where);
      row.onclick = () => {
        const graph = globalThis.circuitGraphs?.graphs.get(data.graph);
        globalThis.circuitGraphs && (globalThis.circuitGraphs.clickedAt = performance.now());
        if (!graph?.selectId(entry.id)) setTriggerValue('event', { type: 'select', id: entry.id });
      };
    }
    if (list.rows.length > FIRST) {
      const more = add(parent, 'button', 'more',
        isOpen ? 'Show fewer' : `Show all ${list.rows.length}`);
      more.onclick = () => { isOpen ? open.delete(list.title) : open.add(list.title); draw(); };
    }
  };
  draw();
}
