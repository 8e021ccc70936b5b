// A component of Streamlit's whose object lives as long as its place on the page, across reruns.
function keepAlive({ data, parentElement, setTriggerValue }, create) {
  let part = shared.mounted.get(parentElement);
  if (!part) shared.mounted.set(parentElement, part = create(parentElement));
  part.send = event => setTriggerValue('event', event);
  part.show(data);
  return () => {
    if (shared.mounted.get(parentElement) !== part) return;
    part.destroy();
    shared.mounted.delete(parentElement);
  };
}
