// The panel next to a graph: two parts, with widgets of Streamlit's between them. A click in the
// graph fills them at once with what was sent ahead; the server's answer then takes its place.

const panel = (shared.panel ??= {
  parts: {},      // head and lists: objects with `root` and `show`
  digest: '',     // of the panels that were sent ahead
  bytes: null,
  panels: null,
  expected: 0,    // the serial of the click that the server has not answered yet
  since: 0,
});
const PATIENCE = 10_000;

// The server's data are shown unless they are older than what the visitor has clicked since. A
// server that never answers, because it was started anew, is not waited for.
function showNews(part, data) {
  const isOld = panel.expected && data.serial !== null && data.serial < panel.expected
    && performance.now() - panel.since < PATIENCE;
  if (!isOld) part.show(data);
  return !isOld;
}

function showAhead(graph) {
  const { head, lists } = panel.parts, { side, selected } = graph;
  if (graph.name !== 'trace' || selected === null || !panel.bytes || !head?.root.isConnected) return;
  const id = side.id[selected];
  panel.panels ??= JSON.parse(new TextDecoder().decode(panel.bytes));
  const known = panel.panels[id];
  if (!known || head.shown.id === id) return;
  const column = head.root.closest('[data-testid=stVerticalBlock]');
  const { keeps, widgets, id: before } = head.shown, isBare = !keeps && !(before && known.widgets);
  panel.expected = graph.serial;
  panel.since = performance.now();
  column.dataset.ahead = isBare ? 'bare' : 'next';
  const isPinned = graph.pinned.has(selected) || graph.groups.some(group => group.nodes.has(selected));
  head.show({ ...known, id, name: side.name[selected], pinned: isPinned,
    back: head.shown.back || Boolean(before), forward: false, keeps });
  lists.root.dataset.room = widgets && !isBare ? 0 : known.widgets;
  lists.show({ graph: graph.name, node: id, lists: known.lists, examples: known.examples });
}
shared.showAhead = showAhead;

// The lists are the first part below the widgets: with them, the widgets are those of the node.
function answered(part) {
  panel.expected = 0;
  part.root.dataset.room = 0;
  delete part.root.closest('[data-testid=stVerticalBlock]')?.dataset.ahead;
}
