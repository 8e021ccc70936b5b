// Tells a graph on the page what is chosen, without touching the graph's own data.

export default function ({ data }) {
  shared.wanted.set(data.name, data);
  shared.graphs.get(data.name)?.obey(data);
}
