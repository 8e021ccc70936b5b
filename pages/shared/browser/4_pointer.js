// Mouse, pen and touch. The hit test is our own, nearest node first, so edges are never in the way.

const NEAR = 8;             // pixels from a node's edge within which it is hit
const FINGER = 16;          // the same for a finger
const LONG_PRESS = 550;     // milliseconds after which a touch pins

Object.assign(Graph.prototype, {
  listenToPointer() {
    const root = this.root;
    root.onpointerdown = event => this.press(event);
    root.onpointermove = event => this.move(event);
    root.onpointerleave = () => { if (this.side) this.hover(null); };
    root.addEventListener('wheel', event => this.wheel(event), { capture: true, passive: false });
    root.addEventListener('touchstart', event => this.pinchStart(event), { passive: true });
    root.addEventListener('touchmove', event => this.pinchMove(event), { passive: false });
    this.overview.onpointerdown = event => this.dragOverview(event);
  },

  isInside() {
    const active = this.root.getRootNode().activeElement;
    return this.root === active || this.root.contains(active);
  },

  // The wheel scrolls the page unless the graph has the focus or ctrl is held; sideways it pans.
  wheel(event) {
    if (!this.side || event.target.closest('.list, .finder')) return;
    const map = this.map(), sideways = Math.abs(event.deltaX) > Math.abs(event.deltaY) || event.shiftKey;
    if (sideways && (map.x1 - map.x0) < 0.97 * this.side.width) {
      event.preventDefault();
      event.stopPropagation();
      this.panTo(map.x0 + (event.deltaX || event.deltaY) / map.width * (map.x1 - map.x0));
    } else if (!event.ctrlKey && !event.metaKey && !this.isInside()) {
      event.stopPropagation();
    }
  },

  panTo(start) {
    const map = this.map(), width = map.x1 - map.x0;
    const low = Math.max(0, Math.min(this.side.width - width, start));
    this.look([low, low + width], [map.y0, map.y1]);
  },

  dragOverview(event) {
    event.stopPropagation();
    const box = this.overview.getBoundingClientRect(), map = this.map();
    const move = e => this.panTo((e.clientX - box.left) / box.width * this.side.width
      - (map.x1 - map.x0) / 2);
    move(event);
    window.addEventListener('pointermove', move);
    window.addEventListener('pointerup',
      () => window.removeEventListener('pointermove', move), { once: true });
  },

  pinchStart(event) {
    this.pinch = event.touches.length === 2 ? this.spread(event) : null;
  },

  pinchMove(event) {
    if (!this.pinch || event.touches.length !== 2) return;
    event.preventDefault();
    const now = this.spread(event), box = this.root.getBoundingClientRect();
    if (Math.abs(now.size / this.pinch.size - 1) < 0.03) return;
    this.zoomBy(now.size / this.pinch.size, now.x - box.left, now.y - box.top);
    this.pinch = now;
  },

  spread({ touches: [a, b] }) {
    return { size: Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY) || 1,
      x: (a.clientX + b.clientX) / 2, y: (a.clientY + b.clientY) / 2 };
  },

  hit(event) {
    const box = this.root.getBoundingClientRect(), map = this.map(), side = this.side;
    const x = event.clientX - box.left, y = event.clientY - box.top;
    let best = null, least = event.pointerType === 'touch' ? FINGER : NEAR;
    for (let i = 0; i < side.id.length; i++) {
      if (side.chip_of[i] >= 0 && i !== this.selected) continue;
      const distance = Math.hypot(map.x(side.x[i]) - x, map.y(side.y[i]) - y) - side.size[i] / 2;
      if (distance < least) { least = distance; best = { node: i }; }
    }
    side.chips.forEach((chip, number) => {
      const distance = Math.max(Math.abs(map.x(chip.x) - x) - 11, Math.abs(map.y(chip.y) - y) - 7);
      if (distance < Math.min(least, 4)) { least = distance; best = { chip: number }; }
    });
    return best;
  },

  press(event) {
    if (event.button !== 0 || !this.side) return;
    if (event.target.closest?.('.list, .finder, .naming, .toolbar, .overview')) return;
    this.root.focus({ preventScroll: true });
    this.closeLists();
    if (this.isLasso) { this.lassoFrom(event); return; }
    const { clientX, clientY, shiftKey, ctrlKey, metaKey } = event, pressed = performance.now();
    const isTouch = event.pointerType === 'touch', target = this.hit(event);
    // Plotly covers the page while the button is down: the root never sees the release.
    window.addEventListener('pointerup', release => {
      if (Math.hypot(release.clientX - clientX, release.clientY - clientY) > (isTouch ? 12 : 4)) return;
      const long = isTouch && performance.now() - pressed > LONG_PRESS;
      shared.clickedAt = pressed;
      if (target?.chip !== undefined) this.openChip(target.chip);
      else if (target && (shiftKey || long)) this.pin(target.node);
      else if (target && (ctrlKey || metaKey)) this.mark(target.node);
      else if (target) this.select(target.node);
      else this.pressedNothing();
    }, { once: true, capture: true });
  },

  pressedNothing() {    // Plotly lets no dblclick event through: two presses within 0.4 s are one
    const now = performance.now();
    if (now - (this.emptyAt ?? -1e9) < 400) this.showWhole();
    this.emptyAt = now;
    this.marked.clear();
    this.closeNaming();
    this.select(null);
  },

  move(event) {
    if (!this.side || event.buttons || event.pointerType === 'touch') return;
    if (event.target.closest?.('.list, .finder, .naming, .toolbar')) return;
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => {
      const target = this.hit(event);
      this.plot.style.cursor = this.isLasso ? 'crosshair' : target ? 'pointer' : '';
      this.hover(target?.node ?? null);
    });
  },

  hover(i) {
    if (i === this.hovered) return;
    this.hovered = i;
    this.paint();
    lightRows(i === null ? null : this.side.id[i]);
    if (i === null || i === this.selected) this.tip.style.display = 'none';
    else this.showTip(i);
  },

  hoverFromList(id) {
    if (!this.side) return;
    const i = id === null ? null : this.index.get(id) ?? null;
    if (i === this.hovered) return;
    this.hovered = i;
    this.tip.style.display = 'none';
    this.paint();
  },

  showTip(i) {
    const side = this.side, map = this.map(), x = map.x(side.x[i]), y = map.y(side.y[i]);
    this.tip.replaceChildren();
    make(this.tip, 'b', '', this.name_(i));
    const influence = side.kind[i] === 'logit' ? '' : ` · influence ${percent(side.influence[i])}`;
    make(this.tip, 'span', '', side.place[i] + influence);
    const lists = [['from', this.inputs[i], side.source], ['to', this.outputs[i], side.target]];
    for (const [word, edges, ends] of lists) {
      for (const edge of edges.slice(0, 3)) {
        const line = make(this.tip, 'span', 'edge',
          `${word} ${this.name_(ends[edge])}  ${signed(side.weight[edge])}`);
        line.style.color = side.weight[edge] > 0 ? side.palette.positive : side.palette.negative;
      }
    }
    this.tip.style.display = 'block';
    const { offsetWidth, offsetHeight } = this.tip;
    this.tip.style.left = `${x + 18 + offsetWidth > map.width ? x - offsetWidth - 18 : x + 18}px`;
    this.tip.style.top = `${Math.max(2, Math.min(map.height - offsetHeight - 2, y - offsetHeight / 2))}px`;
  },
});
