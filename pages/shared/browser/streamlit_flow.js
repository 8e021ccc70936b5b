// The pinned part of a graph as boxes and curves. Boxes can be dragged; where they were left is kept.

const NS = 'http://www.w3.org/2000/svg';
const svg = (parent, tag, attributes, text) => {
  const node = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
};
const HALF = 18;

export default function ({ data, parentElement, setTriggerValue }) {
  let root = parentElement.querySelector('.flow');
  if (!root) {
    root = document.createElement('div');
    root.className = 'flow';
    parentElement.append(root);
  }
  root.replaceChildren();
  const picture = svg(root, 'svg', { height: data.height, viewBox: `0 0 ${data.width} ${data.height}`,
    role: 'img', 'aria-label': data.summary });
  const tip = document.createElement('div');
  tip.className = 'tip';
  root.append(tip);
  const curves = svg(picture, 'g', {}), boxes = svg(picture, 'g', {});
  const style = getComputedStyle(root);
  const colour = name => style.getPropertyValue(`--circuit-${name}`) || data.colours[name];
  const at = data.boxes.map(box => ({ x: box.x, y: box.y }));

  const drawCurves = () => {
    curves.replaceChildren();
    for (const edge of data.edges) {
      const from = at[edge.source], to = at[edge.target];
      const y0 = from.y - HALF, y1 = to.y + HALF, bend = Math.max(24, Math.abs(y0 - y1) / 2);
      const line = `M${from.x},${y0}C${from.x},${y0 - bend},${to.x},${y1 + bend},${to.x},${y1}`;
      svg(curves, 'path', { d: line, stroke: colour(edge.weight > 0 ? 'positive' : 'negative'),
        'stroke-width': 1.2 + 4 * edge.strength, 'stroke-opacity': 0.3 + 0.6 * edge.strength,
        ...(edge.weight > 0 ? {} : { 'stroke-dasharray': '5 3' }) });
      const hit = svg(curves, 'path', { d: line, class: 'hit' });
      hit.onpointermove = event => showTip(event, edge.text);
      hit.onpointerleave = () => { tip.style.display = 'none'; };
    }
  };

  const showTip = (event, text) => {
    const frame = root.getBoundingClientRect();
    tip.textContent = text;
    tip.style.display = 'block';
    tip.style.left = `${Math.min(event.clientX - frame.left + 12, frame.width - tip.offsetWidth)}px`;
    tip.style.top = `${event.clientY - frame.top - 28}px`;
  };

  data.boxes.forEach((box, i) => {
    const group = svg(boxes, 'g', { class: 'box', tabindex: 0, role: 'button', 'aria-label': box.text });
    if (box.id) group.dataset.node = box.id;
    const place = () => group.setAttribute('transform', `translate(${at[i].x},${at[i].y})`);
    svg(group, 'rect', { x: -box.width / 2, y: -HALF, width: box.width, height: 2 * HALF, rx: 6,
      stroke: box.colour || colour('feature'), 'stroke-opacity': 0.25 + 0.75 * box.share, ...(box.dashed ? { 'stroke-dasharray': '4 3' } : {}) });
    svg(group, 'text', { y: -2, opacity: 0.4 + 0.6 * box.share }, box.name);
    svg(group, 'text', { y: 12, class: 'note' }, box.note);
    place();
    group.onpointerenter = event => showTip(event, box.text);
    group.onpointerleave = () => { tip.style.display = 'none'; };
    group.onpointerdown = event => {
      const scale = data.width / picture.getBoundingClientRect().width;
      const start = { x: event.clientX, y: event.clientY, ...{ bx: at[i].x, by: at[i].y } };
      let moved = false;
      group.setPointerCapture(event.pointerId);
      group.onpointermove = move => {
        const dx = (move.clientX - start.x) * scale, dy = (move.clientY - start.y) * scale;
        if (!moved && Math.hypot(dx, dy) < 4) return;
        moved = true;
        at[i] = { x: Math.max(box.width / 2, Math.min(data.width - box.width / 2, start.bx + dx)),
          y: Math.max(HALF + 2, Math.min(data.height - HALF - 2, start.by + dy)) };
        place();
        drawCurves();
      };
      group.onpointerup = () => {
        group.onpointermove = group.onpointerup = null;
        if (moved) {
          setTriggerValue('event', { type: 'move', name: box.key,
            x: Math.round(at[i].x) / data.width, y: Math.round(at[i].y) });
        } else if (box.id) choose(box.id);
      };
    };
    group.onkeydown = event => { if (event.key === 'Enter' && box.id) choose(box.id); };
  });

  const choose = id => {
    const graph = globalThis.circuitGraphs?.graphs.get(data.graph);
    if (!graph?.selectId(id)) setTriggerValue('event', { type: 'select', id });
  };
  drawCurves();
}
