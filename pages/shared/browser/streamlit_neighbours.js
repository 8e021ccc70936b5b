// A node's inputs and outputs as two lists with bars, and examples below them. A click walks to the
// node at the other end: the graph answers at once, and Python hears of it from the graph.

const FIRST = 6;
const open = (globalThis.circuitOpenLists ??= new Set());    // lists that were unfolded, by title

class Lists {
  constructor(parent) { this.root = make(parent, 'div', 'neighbours'); }

  show(data) {
    this.shown = data;
    this.root.replaceChildren();
    for (const list of data.lists) this.drawList(list);
    if (data.empty) make(this.root, 'div', 'none', data.empty);
    if (data.examples) this.drawExamples(data.examples);
  }

  drawList(list) {
    if (!list.rows.length) return;
    const isOpen = open.has(list.title), strongest = Math.abs(list.rows[0].weight) || 1;
    const head = make(this.root, 'div', 'head');
    make(head, 'b', '', list.title);
    make(head, 'span', '', list.note);
    if (list.count) make(this.root, 'div', 'count', list.count);
    for (const entry of isOpen ? list.rows : list.rows.slice(0, FIRST)) {
      this.drawRow(entry, list.unit === 'percent', strongest);
    }
    const total = list.total ?? list.rows.length;
    if (total > FIRST) {
      const more = make(this.root, 'button', 'more', isOpen ? 'Show fewer' : `Show all ${total}`);
      more.onclick = () => {
        isOpen ? open.delete(list.title) : open.add(list.title);
        this.show(this.shown);
      };
    }
  }

  drawExamples({ name, examples, largest, colour }) {
    const part = make(this.root, 'div', 'examples');
    part.dataset.of = this.shown.node;
    make(part, 'b', '', name);
    for (const example of examples) drawExample(part, example, largest, colour);
  }

  drawRow(entry, isShare, strongest) {
    const row = make(this.root, 'button', 'entry');
    row.dataset.node = entry.id;
    row.title = isShare ? `${entry.name}, ${entry.where}` : `${entry.name}, ${entry.where}: `
      + `${signed(entry.weight)}, ${percent(entry.share)} of this side`;
    const sign = isShare ? 'share' : entry.weight > 0 ? 'positive' : 'negative';
    const bar = make(make(row, 'span', 'bar'), 'i', sign);
    bar.style.width = `${Math.max(3, 100 * Math.abs(entry.weight) / strongest)}%`;
    make(row, 'span', 'weight', isShare ? percent(entry.weight) : signed(entry.weight));
    make(row, 'span', 'name', entry.name);
    make(row, 'span', 'where', entry.where);
    row.onclick = () => {
      shared.clickedAt = performance.now();
      const graph = shared.graphs.get(this.shown.graph);
      if (!graph?.selectId(entry.id)) this.send({ type: 'select', id: entry.id });
    };
  }
}

export default function ({ data, parentElement, setTriggerValue }) {
  const lists = (parentElement.circuitLists ??= new Lists(parentElement));
  lists.send = event => setTriggerValue('event', event);
  if (data.serial === null) { lists.show(data); return; }    // no part of a node's panel
  panel.parts.lists = lists;
  if (showNews(lists, data)) answered(lists);
}
