// Sent behind plotly.js where the server does not serve it as a file.

export default function () {
  globalThis.circuitGraphs?.loaded?.();
}
