// What all graphs of a page share: Plotly, once, and the nodes that lists outside a graph point at.
//
// These files are joined in the order of their names and sent as one script. Nothing here knows
// Streamlit: a graph lives in any element, and tells its host what happened through `send`.

const SVG = 'http://www.w3.org/2000/svg';
const shared = (globalThis.circuitGraphs ??= {
  graphs: new Map(),    // name -> Graph, for lists and remotes that name one
  views: new Map(),     // name -> zoom of a graph whose page was left
  wanted: new Map(),    // name -> state that came before its graph was drawn
  beads: new Map(),     // name -> edges into the selected node that one attention head carries
  mounted: new WeakMap(),    // element -> what lives in it
  serial: 0,            // the number of the last event of any graph
  timings: [],          // what the benchmarks read
});

const make = (parent, tag, className, text) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
};

const makeSvg = (parent, tag, attributes, text) => {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
};

// Plotly is a file of this server, or comes with a loader component where there is no such file.
function loadPlotly(source, askForLoader) {
  if (globalThis.Plotly) return Promise.resolve(globalThis.Plotly);
  return (shared.loading ??= importFirst(source).catch(() => {
    askForLoader();
    return new Promise(done => { shared.loaded = () => done(globalThis.Plotly); });
  }));
}

async function importFirst(path) {
  if (!path) throw new Error('no path');
  // Relative to the page, then to the server: a base path may come before the page's own name.
  for (const base of [document.baseURI, location.origin]) {
    try {
      await import(new URL(path, base).href);
      if (globalThis.Plotly) return globalThis.Plotly;
    } catch { /* try the next */ }
  }
  throw new Error('Plotly is not served here');
}

const isDark = element => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  canvas.fillStyle = getComputedStyle(element).getPropertyValue('--st-background-color') || '#fff';
  canvas.fillRect(0, 0, 1, 1);
  const [red, green, blue] = canvas.getImageData(0, 0, 1, 1).data;
  return 0.3 * red + 0.6 * green + 0.1 * blue < 128;
};

const unbroken = text => text.replaceAll(' %', '\u00a0%');    // no line ends before the sign
const signed = value => (value < 0 ? '−' : '+') + Number(Math.abs(value).toPrecision(3));
// As `charts.text.percent` does: never rounded to 0 % or 100 %.
const percent = share => {
  const value = 100 * share;
  if (value > 0 && value < 0.05) return '<0.1 %';
  if (value < 9.95) return `${value.toFixed(1).replace('.0', '')} %`;
  return value >= 99.5 && value < 100 ? `${Math.min(value, 99.9).toFixed(1)} %` : `${value.toFixed(0)} %`;
};

// An example of a feature: its text, shaded where the feature is active.
function drawExample(parent, example, largest, colour) {
  const line = make(parent, 'div', 'example');
  if (example.before) line.append('…');
  for (const [text, activation] of example.parts) {
    if (activation === 0) { line.append(text); continue; }
    const token = make(line, 'span', 'on', text), share = Math.min(1, activation / largest);
    token.title = `activation ${activation.toFixed(2)}`;
    token.style.background = `color-mix(in srgb, ${colour} ${12 + 60 * share}%, transparent)`;
  }
  if (example.after) line.append('…');
  if (example.source) make(line, 'div', 'source', example.source);
}

// Anything on the page with `data-node` belongs to a node: hovering it lights the node, and the
// other way round. One listener for the whole page.
if (!shared.listening) {
  shared.listening = true;
  document.addEventListener('pointerover', event => {
    const row = event.target.closest?.('[data-node]');
    const id = row?.dataset.node ?? null;
    if (id === shared.pointed) return;
    shared.pointed = id;
    for (const graph of shared.graphs.values()) graph.hoverFromList(id);
    lightRows(id);
  });
}

function lightRows(id) {
  for (const row of document.querySelectorAll('[data-node].lit')) row.classList.remove('lit');
  if (id === null) return;
  for (const row of document.querySelectorAll(`[data-node="${CSS.escape(id)}"]`)) {
    row.classList.add('lit');
  }
}
