// The graph as a Streamlit component: one Graph for each place on the page, alive across reruns.

const mounted = (globalThis.circuitMounted ??= new WeakMap());

export default function ({ data, parentElement, setTriggerValue }) {
  let graph = mounted.get(parentElement);
  if (!graph) {
    graph = new Graph(parentElement, event => setTriggerValue('event', event));
    mounted.set(parentElement, graph);
  }
  graph.send = event => setTriggerValue('event', event);
  graph.show(data);
  return () => {
    if (mounted.get(parentElement) !== graph) return;
    graph.destroy();
    mounted.delete(parentElement);
  };
}
