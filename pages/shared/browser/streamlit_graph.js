// The graph as a Streamlit component.

export default function (component) {
  return keepAlive(component, element => new Graph(element, () => {}));
}
