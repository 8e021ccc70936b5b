// Tells a graph on the page what is chosen and which edges have beads, without touching the graph's
// own data.

export default function ({ data, parentElement }) {
  const { name, beads } = data, graph = () => shared.graphs.get(name);
  if (!beads) {
    shared.wanted.set(name, data);
    graph()?.obey(data);
    return;
  }
  shared.beads.set(name, { ...beads, owner: parentElement });
  graph()?.paint();
  return () => {    // the element has left the page, and its beads go with it
    if (shared.beads.get(name)?.owner !== parentElement) return;
    shared.beads.delete(name);
    graph()?.paint();
  };
}
