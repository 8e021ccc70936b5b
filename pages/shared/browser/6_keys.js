// The keyboard, the toolbar, and pictures to take away.

const KEY_DELAY = 150;    // a held arrow key walks far before Python hears of it once

Object.assign(Graph.prototype, {
  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.side) return;
    if (event.target.closest('input')) return;
    const walk = i => {
      if (i === undefined) return;
      shared.clickedAt = performance.now();
      this.select(i, KEY_DELAY);
    };
    const along = (edges, ends) => {
      const nodes = [...new Set(edges.map(edge => ends[edge]))];
      if (!nodes.length) return;
      this.trail = { nodes, at: 0 };
      walk(nodes[0]);
    };
    const side = this.side, here = this.selected;
    const actions = {
      ArrowDown: () => here === null ? this.walkFromTop(walk) : along(this.inputs[here], side.source),
      ArrowUp: () => here !== null && along(this.outputs[here], side.target),
      ArrowRight: () => this.trail && this.trail.at + 1 < this.trail.nodes.length
        && walk(this.trail.nodes[++this.trail.at]),
      ArrowLeft: () => this.trail && this.trail.at > 0 && walk(this.trail.nodes[--this.trail.at]),
      p: () => here !== null && this.pin(here),
      l: () => this.toggleLasso(),
      '0': () => this.showWhole(),
      '+': () => this.zoomBy(1.4, this.map().width / 2, this.map().height / 2),
      '-': () => this.zoomBy(1 / 1.4, this.map().width / 2, this.map().height / 2),
      '/': () => this.openFinder(),
      Escape: () => this.escape(),
    };
    if (!Object.hasOwn(actions, event.key)) return;
    event.preventDefault();
    event.stopPropagation();
    actions[event.key]();
  },

  walkFromTop(walk) {    // with nothing selected, down begins at the likeliest answer
    const answers = this.rank.filter(i => this.side.kind[i] === 'logit');
    walk(answers[0] ?? this.rank[0]);
  },

  escape() {
    const isOpen = this.list.style.display === 'block' || this.finder.style.display === 'block';
    if (isOpen) this.closeLists();
    else if (this.marked.size || this.isLasso) {
      this.marked.clear();
      this.closeNaming();
      this.toggleLasso(false);
      this.paint();
    } else this.select(null);
    this.root.focus({ preventScroll: true });
  },

  makeToolbar() {
    this.toolbar = make(this.root, 'div', 'toolbar');
    const tool = (name, text, title, act) => {
      const button = make(this.toolbar, 'button', '', text);
      button.dataset.tool = name;
      button.title = title;
      button.setAttribute('aria-label', title);
      button.onclick = () => { act(); this.root.focus({ preventScroll: true }); };
    };
    tool('find', '⌕', 'Find a node (/)', () => setTimeout(() => this.openFinder()));
    tool('lasso', '◌', 'Draw around nodes to group them (L)', () => this.toggleLasso());
    tool('whole', '⤢', 'Show the whole graph (0)', () => this.showWhole());
    tool('png', 'PNG', 'Download this picture as PNG', () => this.download('png'));
    tool('svg', 'SVG', 'Download this picture as SVG', () => this.download('svg'));
    make(this.toolbar, 'span', 'keys', '↓↑ strongest input, output · ←→ next · P pin · Esc all');
  },

  // Plotly's picture with the overlay laid into it, so that the selection is in the file as well.
  async download(format) {
    const { width, height } = this.map();
    const url = await Plotly.toImage(this.plot, { format: 'svg', width, height });
    const text = decodeURIComponent(url.slice(url.indexOf(',') + 1));
    const picture = new DOMParser().parseFromString(text, 'image/svg+xml').documentElement;
    const style = getComputedStyle(this.root), paper = style.getPropertyValue('--st-background-color');
    const ground = document.createElementNS(SVG, 'rect');
    for (const [name, value] of Object.entries({ width, height, fill: paper || '#fff' })) {
      ground.setAttribute(name, value);
    }
    picture.prepend(ground);
    this.hideForPicture(picture);
    const layer = document.createElementNS(SVG, 'g');
    layer.setAttribute('font-family', style.fontFamily);
    layer.setAttribute('fill', style.color);
    const halo = `paint-order:stroke;stroke:${paper};stroke-width:3px`;
    for (const group of this.texts.children) {
      const { opacity } = getComputedStyle(group), copy = group.cloneNode(true);
      if (opacity === '0') continue;
      copy.setAttribute('opacity', opacity);
      if (group.dataset.role !== 'chips') copy.setAttribute('style', halo);
      layer.append(copy);
    }
    for (const child of this.overlay.children) {
      const copy = child.cloneNode(true), drawn = getComputedStyle(child);
      if (copy.tagName === 'text') {
        copy.setAttribute('style', `font-size:${drawn.fontSize};font-weight:${drawn.fontWeight};`
          + `fill:${drawn.fill};${halo}`);
      } else if (copy.tagName === 'path') copy.setAttribute('fill', 'none');
      layer.append(copy);
    }
    picture.append(layer);
    const svg = new XMLSerializer().serializeToString(picture);
    const blob = new Blob([svg], { type: 'image/svg+xml' });
    if (format === 'svg') save(blob, `${this.name}.svg`);
    else save(await rasterise(blob, width, height), `${this.name}.png`);
  },

  hideForPicture(picture) {    // what the style sheet hides or fades on the page
    const onPage = this.plot.querySelectorAll('.scatterlayer > .trace');
    picture.querySelectorAll('.scatterlayer > .trace').forEach((trace, i) => {
      trace.style.opacity = getComputedStyle(onPage[i]).opacity;
    });
    if (this.selected === null) return;
    [...picture.querySelectorAll('.shapelayer path')].forEach((path, i) => {
      if (this.plot.layout.shapes[i]?.name === 'edges') path.remove();
    });
  },
});

function save(blob, name) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(blob);
  link.download = name.replace(/[^\w.-]+/g, '-');
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

async function rasterise(blob, width, height) {
  const image = new Image(), url = URL.createObjectURL(blob);
  image.src = url;
  await image.decode();
  const canvas = document.createElement('canvas');
  canvas.width = 2 * width;
  canvas.height = 2 * height;
  canvas.getContext('2d').drawImage(image, 0, 0, 2 * width, 2 * height);
  URL.revokeObjectURL(url);
  return new Promise(done => canvas.toBlob(done, 'image/png'));
}
