// What lies above the figure: the selected node's edges, rings, names, token and layer names.
// Names are only ever written as text; markup is made of numbers and palette colours alone.

const MOST_OWN_EDGES = 400;
const HOVERED_EDGES = 24;
const NAMED_NEIGHBOURS = 7;
const NAMED_WHEN_ZOOMED = 90;

// How far an edge between nodes above each other bends to the side, so that it passes those between.
const bowOf = (x0, y0, x1, y1) =>
  Math.abs(x1 - x0) < 14 ? Math.min(34, 5 + 0.09 * Math.abs(y1 - y0)) : 0;

Object.assign(Graph.prototype, {
  paint() {
    if (!this.side || !this.plot._fullLayout) return;
    const started = performance.now(), side = this.side, map = this.map(), parts = [];
    const focus = this.selected ?? this.hovered;
    const at = i => [map.x(side.x[i]), map.y(side.y[i])];
    this.root.classList.toggle('has-selection', this.selected !== null);
    let named = [];
    this.beads = [];
    if (focus !== null) {
      const own = [...this.inputs[focus], ...this.outputs[focus]].sort((a, b) => a - b);
      const shown = own.slice(0, this.selected !== null ? MOST_OWN_EDGES : HOVERED_EDGES);
      const strongest = own.length ? Math.abs(side.weight[own[0]]) : 1;
      for (const edge of shown.slice().reverse()) parts.push(this.curve(edge, at, strongest));
      if (this.selected !== null) {
        const ends = new Set(shown.flatMap(edge => [side.source[edge], side.target[edge]]));
        ends.add(focus);
        for (const i of ends) parts.push(this.dot(i, at(i), false));
        this.beads = this.placeBeads(shown, at);
        for (const bead of this.beads) parts.push(this.bead(bead));
        named = [focus, ...this.inputs[focus].slice(0, NAMED_NEIGHBOURS).map(e => side.source[e]),
          ...this.outputs[focus].slice(0, NAMED_NEIGHBOURS).map(e => side.target[e])];
      }
    }
    for (const i of this.pinned) parts.push(this.ring(i, at(i), side.palette.text));
    for (const group of this.groups) {
      for (const i of group.nodes) parts.push(this.ring(i, at(i), group.colour));
    }
    for (const i of this.off) parts.push(this.hollow(i, at(i)));
    for (const i of this.marked) parts.push(this.ring(i, at(i), side.palette.selected));
    if (this.selected !== null) parts.push(this.dot(focus, at(focus), true));
    if (this.hovered !== null && this.hovered !== this.selected) {
      parts.push(this.ring(this.hovered, at(this.hovered), side.palette.selected));
    }
    this.overlay.innerHTML = parts.join('');
    this.placeTexts(map);
    this.writeNames(named, map, at);
    this.writeAxes(map);
    this.drawOverview(map);
    this.drawLasso?.();
    shared.paint = performance.now() - started;
  },

  // A bead in the middle of a curve: one attention head carries more than half of the edge. Where
  // two would touch, the stronger edge has it; zooming in makes room for both.
  placeBeads(edges, at) {
    const { node, edges: carried } = shared.beads.get(this.name) ?? {}, side = this.side;
    if (node !== side.id[this.selected]) return [];
    const heads = new Map(carried.map(entry => [entry.source, entry])), beads = [];
    for (const edge of edges) {
      const entry = side.target[edge] === this.selected && heads.get(side.id[side.source[edge]]);
      if (!entry) continue;
      const [x0, y0] = at(side.source[edge]), [x1, y1] = at(this.selected);
      const x = (x0 + x1) / 2 - 0.75 * bowOf(x0, y0, x1, y1), y = (y0 + y1) / 2;
      const isFree = beads.every(other => Math.abs(other.x - x) > 11 || Math.abs(other.y - y) > 8);
      if (isFree) beads.push({ ...entry, edge, x, y });
    }
    return beads;
  },

  bead({ edge, x, y }) {
    return `<rect class="bead" x="${(x - 5).toFixed(1)}" y="${(y - 3).toFixed(1)}" width="10" `
      + `height="6" rx="3" style="fill:${this.edgeColour(edge)}" `
      + `stroke="${this.side.palette.background}" stroke-width="1.5"/>`;
  },

  edgeColour(edge) {
    const side = this.side;
    if (side.edge_colour.length) return side.edge_colour[edge];
    return side.weight[edge] > 0 ? side.palette.positive : side.palette.negative;
  },

  curve(edge, at, strongest) {
    const side = this.side;
    const [x0, y0] = at(side.source[edge]), [x1, y1] = at(side.target[edge]);
    const weight = side.weight[edge], share = Math.abs(weight) / (strongest || 1);
    const bend = Math.abs(y1 - y0) / 2, bow = bowOf(x0, y0, x1, y1);
    const colour = this.edgeColour(edge);
    const dash = weight < 0 && !side.edge_colour.length ? ' stroke-dasharray="5 3"' : '';
    const points = [x0, y0, x0 - bow, y0 - bend, x1 - bow, y1 + bend, x1, y1].map(v => v.toFixed(1));
    return `<path d="M${points[0]},${points[1]}C${points.slice(2).join(',')}" stroke="${colour}"`
      + ` stroke-width="${(0.7 + 3 * share).toFixed(1)}"`
      + ` stroke-opacity="${(0.26 + 0.66 * share).toFixed(2)}"${dash}/>`;
  },

  dot(i, [x, y], isMain) {
    const side = this.side, colours = side.palette;
    const radius = Math.max(3, side.size[i] / 2) + (isMain ? 1.5 : 0);
    if (side.chip_of[i] >= 0 && !isMain) {
      return `<circle cx="${x.toFixed(1)}" cy="${y.toFixed(1)}" r="9" fill="none" `
        + `stroke="${colours.muted}"/>`;
    }
    const line = isMain ? `stroke="${colours.selected}" stroke-width="3"`
      : `stroke="${colours.background}" stroke-width="1"`;
    const style = `style="fill:${side.colour[i]}" ${line}`;
    const point = (dx, dy) => `${(x + dx).toFixed(1)},${(y + dy).toFixed(1)}`;
    const r = radius + 1;
    switch (side.symbol[i]) {
      case 'circle':
        return `<circle cx="${x.toFixed(1)}" cy="${y.toFixed(1)}" r="${radius}" ${style}/>`;
      case 'diamond':
        return `<polygon points="${point(0, -r)} ${point(r, 0)} ${point(0, r)} ${point(-r, 0)}" ${style}/>`;
      case 'square':
        return `<rect x="${(x - radius).toFixed(1)}" y="${(y - radius).toFixed(1)}" `
          + `width="${2 * radius}" height="${2 * radius}" ${style}/>`;
      default: {
        const corners = { 'triangle-up': 3, pentagon: 5 }[side.symbol[i]] ?? 6, points = [];
        for (let corner = 0; corner < corners; corner++) {
          const turn = 2 * Math.PI * corner / corners;
          points.push(point(r * Math.sin(turn), -r * Math.cos(turn)));
        }
        return `<polygon points="${points.join(' ')}" ${style}/>`;
      }
    }
  },

  hollow(i, [x, y]) {    // a feature that is switched off
    const radius = Math.max(3, this.side.size[i] / 2), colours = this.side.palette;
    return `<circle cx="${x.toFixed(1)}" cy="${y.toFixed(1)}" r="${radius}" stroke-width="2" `
      + `stroke="${colours.negative}" style="fill:${colours.background}"/>`;
  },

  ring(i, [x, y], colour) {
    const radius = Math.max(4, this.side.size[i] / 2) + 3;
    return `<circle cx="${x.toFixed(1)}" cy="${y.toFixed(1)}" r="${radius}" fill="none" `
      + `stroke="${colour}" stroke-width="2"/>`;
  },

  // The selected node and its strongest neighbours are named; zoomed in, whatever finds room is,
  // the most influential first.
  writeNames(named, map, at) {
    const side = this.side, boxes = [];
    const taken = box => boxes.some(other => box[0] < other[2] && box[2] > other[0]
      && box[1] < other[3] && box[3] > other[1]);
    const write = (i, className, must, rightOnly) => {
      const [x, y] = at(i), gap = Math.max(3, side.size[i] / 2) + 4, text = this.name_(i);
      if (x < 0 || x > map.width || y < 0 || y > map.height) return false;
      const shown = text.length > 48 ? `${text.slice(0, 47)}…` : text;
      const width = shown.length * (className === 'main' ? 6.7 : 6) + 4;
      const sides = rightOnly ? [1] : [1, -1];
      for (const direction of sides) {
        const edge = x + direction * gap;
        const box = direction > 0 ? [edge, y - 7, edge + width, y + 7]
          : [edge - width, y - 7, edge, y + 7];
        if (box[2] > map.width + 2 || box[0] < 0 || (taken(box) && !must)) continue;
        boxes.push(box);
        makeSvg(this.overlay, 'text', { x: edge, y: y + 4, class: className,
          'text-anchor': direction > 0 ? 'start' : 'end' }, shown);
        return true;
      }
      return false;
    };
    const inner = i => side.kind[i] !== 'token' && side.kind[i] !== 'logit';
    if (named.length && inner(named[0])) write(named[0], 'main', true);
    for (const i of new Set(named.slice(1))) {
      if (inner(i) && side.symbol[i] !== 'diamond') write(i, 'near', false);
    }
    const isZoomed = map.zoom > 1.25;
    const isClose = isZoomed || map.width < 0.97 * Math.min(side.width, map.x1 - map.x0);
    this.root.classList.toggle('is-close', isClose);
    if (this.selected !== null || !isClose) return;
    const visible = this.rank.filter(i => {
      const [x, y] = at(i);
      return side.chip_of[i] < 0 && x > -4 && x < map.width && y > -4 && y < map.height;
    });
    for (const i of visible) {
      const [x, y] = at(i);
      boxes.push([x - 4, y - 4, x + 4, y + 4]);
    }
    let count = 0;
    for (const i of visible) {
      if (!inner(i) || side.symbol[i] === 'diamond' || !(isZoomed || side.named[i])) continue;
      if (write(i, 'extra', false, true) && ++count >= NAMED_WHEN_ZOOMED) break;
    }
  },

  writeAxes(map) {    // they stay at the edges whatever the zoom
    let last = -99;
    for (const [name, start, stop] of this.side.columns) {
      const low = Math.max(map.x(start), 30), high = Math.min(map.x(stop), map.width);
      const centre = (low + high) / 2;
      if (high - low < 12 || centre - last < 14) continue;
      last = centre;
      const room = Math.max(2, Math.floor((high - low) / 6.6));
      const text = name.length > room ? `${name.slice(0, room - 1)}…` : name;
      makeSvg(this.overlay, 'text',
        { x: centre, y: map.height - 5, class: 'axis token', 'text-anchor': 'middle' }, text);
    }
    let below = map.height;
    for (const [name, start, stop] of this.side.rows) {
      const y = map.y((start + stop) / 2);
      if (y > map.height - 16 || y < 8 || below - y < 11) continue;
      below = y;
      makeSvg(this.overlay, 'text', { x: 24, y: y + 4, class: 'axis layer', 'text-anchor': 'end' }, name);
    }
  },

  drawOverview(map) {    // a scroll bar for prompts that are wider than the window
    const part = (map.x1 - map.x0) / this.side.width;
    this.overview.style.display = part < 0.97 && map.zoom <= 1.25 ? 'block' : 'none';
    if (!this.overview.firstChild) make(this.overview, 'div', 'thumb');
    const thumb = this.overview.firstChild;
    thumb.style.left = `${100 * Math.max(0, map.x0 / this.side.width)}%`;
    thumb.style.width = `${100 * Math.min(1, part)}%`;
  },
});
