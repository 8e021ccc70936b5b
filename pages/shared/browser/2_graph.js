// One attribution graph. Plotly draws the resting figure once; a click, a hover or a key is answered
// on an overlay above it, without asking Plotly or the server to draw anything again.

const MOST_REPEATED = 20;

class Graph {
  constructor(parent, send) {
    this.name = '';
    this.send = send;
    this.parent = parent;
    this.root = make(parent, 'div', 'graph');
    this.root.tabIndex = 0;
    this.root.setAttribute('role', 'application');
    this.root.setAttribute('aria-label', 'Attribution graph. Down: strongest input. Up: strongest '
      + 'output. Left and right: the next strongest. P: pin. Slash: search. Escape: show all.');
    this.plot = make(this.root, 'div', 'plot');
    this.texts = makeSvg(this.root, 'svg', { class: 'texts' });
    this.overlay = makeSvg(this.root, 'svg', { class: 'overlay' });
    this.tip = make(this.root, 'div', 'tip');
    this.list = make(this.root, 'div', 'list');
    this.finder = make(this.root, 'div', 'finder');
    this.naming = make(this.root, 'div', 'naming');
    this.overview = make(this.root, 'div', 'overview');
    this.spoken = make(this.root, 'div', 'spoken');
    this.spoken.setAttribute('aria-live', 'polite');
    this.view = null;           // what a visitor zoomed to, as shares of the layout
    this.selected = null;       // all of these are places in the table `side`
    this.hovered = null;
    this.pinned = new Set();
    this.marked = new Set();    // by lasso, before they become a supernode
    this.off = new Set();
    this.beads = [];            // on the selected node's edges, as they were painted
    this.groups = [];           // supernodes: { colour, nodes }
    this.serial = 0;
    this.unheard = [];          // events that the server has not answered yet
    this.makeToolbar();
    this.listenToPointer();
    this.root.onkeydown = event => this.key(event);
    this.observer = new ResizeObserver(() => this.fit());
    this.observer.observe(parent.host ?? parent);
    this.onresize = () => this.fit();
    window.addEventListener('resize', this.onresize);
  }

  destroy() {
    if (this.side) shared.views.set(this.name, { graph: this.graph, view: this.view });
    this.observer.disconnect();
    window.removeEventListener('resize', this.onresize);
    globalThis.Plotly?.purge(this.plot);
    this.root.remove();
    if (shared.graphs.get(this.name) === this) shared.graphs.delete(this.name);
  }

  // `bytes`: a digest of 16 characters, then JSON. An unchanged digest is not even parsed.
  async show(bytes) {
    const dark = isDark(this.root), decoder = new TextDecoder();
    const digest = decoder.decode(bytes.subarray(0, 16)) + (dark ? ' dark' : ' light');
    if (digest === this.digest) return;
    const started = performance.now(), isFirst = !this.digest;
    this.digest = digest;
    const content = JSON.parse(this.dress(decoder.decode(bytes.subarray(16)), dark));
    const Plotly = await loadPlotly(content.plotly, () => this.send({ type: 'loader' }));
    if (this.digest !== digest) return;    // overtaken by newer data meanwhile
    const kept = this.side ? this.chosenIds() : null;
    this.name = content.name;
    if (content.graph !== this.graph) {    // another graph is shown at rest, or as it was left
      const left = shared.views.get(this.name);
      this.view = isFirst && left?.graph === content.graph ? left.view : null;
      this.graph = content.graph;
      this.unheard = [];
    }
    this.use(content.side);
    this.fixedHeight = content.fixed_height ?? 0;
    const { width } = this.space(), height = this.heightFor(width);
    this.root.style.height = `${height}px`;
    const layout = { ...content.figure.layout, width, height, hovermode: false, autosize: false };
    this.setRanges(layout, width);
    const config = { displayModeBar: false, scrollZoom: true, doubleClick: false, showTips: false };
    const data = this.takeTexts(content.figure.data);
    await (isFirst ? Plotly.newPlot : Plotly.react)(this.plot, data, layout, config);
    if (isFirst) {
      this.plot.on('plotly_relayouting', () => { this.remember(); this.paint(); });
      this.plot.on('plotly_relayout', () => { this.remember(); this.markRoles(); this.paint(); });
      this.plot.on('plotly_afterplot', () => this.markRoles());
    }
    this.markRoles();
    shared.graphs.set(this.name, this);
    if (kept) this.choose(kept);
    if (shared.wanted.has(this.name)) this.obey(shared.wanted.get(this.name));
    this.paint();
    this.reportSize();
    this.root.dataset.shown = digest.slice(0, 16);
    shared.timings.push(['drawn', performance.now() - started]);
  }

  // Python always draws for a light page; on a dark one its colours are swapped here, so a change
  // of theme needs no rerun.
  dress(text, dark) {
    if (!dark) return text;
    const start = text.indexOf('"dark":{') + 7;
    const swap = JSON.parse(text.slice(start, text.indexOf('}', start) + 1));
    return text.replace(/#[0-9a-f]{6}/g, colour => swap[colour] ?? colour);
  }

  use(side) {
    this.side = side;
    this.index = new Map(side.id.map((id, i) => [id, i]));
    this.inputs = side.id.map(() => []);
    this.outputs = side.id.map(() => []);
    this.rank = side.influence.map((value, i) => [value, i])
      .sort((a, b) => b[0] - a[0]).map(pair => pair[1]);
    for (let edge = 0; edge < side.source.length; edge++) {    // strongest first
      this.inputs[side.target[edge]].push(edge);
      this.outputs[side.source[edge]].push(edge);
    }
    this.selected = this.hovered = null;
    this.pinned = new Set();
    this.marked = new Set();
    this.off = new Set();
    this.groups = [];
    this.root.style.setProperty('--dot', side.palette.feature);
  }

  chosenIds() {
    const ids = nodes => [...nodes].map(i => this.side.id[i]);
    return { selected: this.selected === null ? null : this.side.id[this.selected],
      pinned: ids(this.pinned), off: ids(this.off),
      groups: this.groups.map(group => ({ colour: group.colour, ids: ids(group.nodes) })) };
  }

  choose({ selected, pinned, off, groups }) {
    const places = ids => new Set(ids.map(id => this.index.get(id)).filter(i => i !== undefined));
    this.selected = this.index.get(selected) ?? null;
    this.pinned = places(pinned);
    this.off = places(off ?? []);
    this.groups = (groups ?? []).map(({ colour, ids }) => ({ colour, nodes: places(ids) }));
  }

  // What the server says is chosen. It may be older than the visitor's latest click, and is ignored
  // until it has heard of that.
  obey(state) {
    shared.wanted.set(this.name, state);
    this.unheard = this.unheard.filter(event => event.serial > state.serial);
    if (!this.side || state.serial < this.serial) return;
    this.choose(state);
    this.paint();
  }

  // Of two messages that come before the server's next run, it hears the second alone. So each one
  // repeats those that have not been answered. Events of the same millisecond have growing numbers.
  tell(event, delay = 0) {
    this.serial = shared.serial = Math.max(Date.now(), shared.serial + 0.01);
    clearTimeout(this.telling);
    const own = { ...event, serial: this.serial };
    const message = { ...own, before: this.unheard };
    this.unheard = [...this.unheard, own].slice(-MOST_REPEATED);
    if (delay) this.telling = setTimeout(() => this.send(message), delay);
    else this.send(message);
  }

  // Size. The height is what is left of the window below the graph, at least 420 px.
  space() {
    const host = this.parent.host ?? this.parent;
    const box = host.getBoundingClientRect();
    let scroller = host;
    while (scroller && scroller.scrollTop === 0 && scroller !== document.body) {
      scroller = scroller.parentElement;
    }
    const top = box.top + (scroller?.scrollTop ?? 0);
    const height = Math.max(420, Math.round(window.innerHeight - top - 62));
    return { width: Math.max(300, Math.round(box.width)), height: this.fixedHeight || height };
  }

  heightFor(width) {    // a small graph takes less than there is
    const { height } = this.space();
    const scale = Math.min(1.15, width / Math.min(this.side.width, width));
    return Math.round(Math.min(height, Math.max(260, this.side.height * scale)));
  }

  fit() {
    if (!this.side || !globalThis.Plotly) return;
    clearTimeout(this.fitting);
    this.fitting = setTimeout(async () => {
      const { width } = this.space(), height = this.heightFor(width), now = this.plot.layout;
      if (!now || (Math.abs(now.width - width) < 2 && Math.abs(now.height - height) < 2)) return;
      this.root.style.height = `${height}px`;
      await Plotly.relayout(this.plot, { width, height });
      this.markRoles();
      this.paint();
      this.reportSize();
    }, 60);
  }

  reportSize() {    // Python lays out for a size; it hears the real one when it is off by over 4 %
    if (this.fixedHeight) return;
    const { width, height } = this.space();
    const off = (real, wanted) => Math.abs(real / wanted - 1) > 0.04;
    const size = `${width}x${height}`;
    const { asked } = this.side;
    if ((off(width, asked[0]) || off(height, asked[1])) && size !== this.reported) {
      this.reported = size;
      this.send({ type: 'size', width, height });
    }
  }

  // A prompt wider than the window starts at its end, where the answer is; others are shown whole.
  // What a visitor zoomed to stays, as a share of the layout, whose size may have changed. Plotly's
  // own memory of zooms is switched off by a revision that is always new.
  setRanges(layout, width) {
    const { side, view } = this;
    layout.uirevision = this.digest;
    const start = side.width > 1.02 * side.asked[0] ? side.width - width : 0;
    this.atRest = [[start, side.width], [0, side.height]];
    const [x, y] = view
      ? [view[0].map(share => share * side.width), view[1].map(share => share * side.height)]
      : this.atRest;
    layout.xaxis = { ...layout.xaxis, range: x };
    layout.yaxis = { ...layout.yaxis, range: y };
  }

  ranges() {
    const layout = this.plot._fullLayout;
    return layout && [[...layout.xaxis.range], [...layout.yaxis.range]];
  }

  // Figures can follow each other faster than Plotly draws them, so what the visitor zoomed to is
  // noted as it happens rather than read from the plot when the next figure comes.
  remember() {
    const now = this.ranges(), { width, height } = this.side;
    const near = (values, others) => values.every((v, i) => Math.abs(v - others[i]) < 1);
    this.view = now.every((range, i) => near(range, this.atRest[i])) ? null
      : [now[0].map(x => x / width), now[1].map(y => y / height)];
  }

  look(x, y) {
    Plotly.relayout(this.plot, { 'xaxis.range': x, 'yaxis.range': y });
    this.remember();
  }

  showWhole() { this.look([0, this.side.width], [0, this.side.height]); }

  zoomBy(factor, x, y) {
    const map = this.map();
    const at = [map.x0 + x / map.width * (map.x1 - map.x0),
      map.y0 + (1 - y / map.height) * (map.y1 - map.y0)];
    const range = (low, high, centre) =>
      [centre - (centre - low) / factor, centre + (high - centre) / factor];
    this.look(range(map.x0, map.x1, at[0]), range(map.y0, map.y1, at[1]));
  }

  markRoles() {    // so that the style sheet can fade or hide what belongs together
    this.plot.querySelectorAll('.scatterlayer > .trace').forEach((trace, i) => {
      trace.dataset.role = this.plot.data[i]?.name ?? '';
    });
    for (const path of this.plot.querySelectorAll('.shapelayer path')) {
      path.dataset.role = this.plot.layout.shapes[+path.dataset.index]?.name ?? '';
    }
  }

  // Figure coordinates to pixels. The margins are 0, so the ranges say it all.
  map() {
    const layout = this.plot._fullLayout, [x0, x1] = layout.xaxis.range, [y0, y1] = layout.yaxis.range;
    const { width, height } = layout;
    return { x0, x1, y0, y1, width, height,
      x: value => (value - x0) / (x1 - x0) * width,
      y: value => height - (value - y0) / (y1 - y0) * height,
      zoom: Math.min(this.side.width, Math.max(width, 1)) / (x1 - x0) };
  }

  name_(i) { return this.side.name[i]; }
}
