// The texts of the figure: names of features, answers, numbers of folded nodes. Plotly measures every
// text it draws, which takes longer than all the rest of a figure. Here they follow its zoom.

const plainText = text => text.replace(/^<b>|<\/b>$/g, '')
  .replaceAll('&lt;', '<').replaceAll('&gt;', '>').replaceAll('&amp;', '&');

Object.assign(Graph.prototype, {
  // Draws the texts of `traces`, and returns what is left for Plotly. The names of tokens and layers
  // are on the overlay, where they stay in view.
  takeTexts(traces) {
    this.texts.replaceChildren();
    this.placed = [];
    this.placedFor = '';
    const others = [];
    for (const trace of traces) {
      if (trace.name === 'axis') continue;
      if (!trace.mode.includes('text')) { others.push(trace); continue; }
      if (trace.mode !== 'text') others.push({ ...trace, mode: 'markers', text: null });
      const { color: fill, size } = trace.textfont;
      const anchor = trace.textposition === 'middle right' ? 'start' : 'middle';
      const group = makeSvg(this.texts, 'g', { fill, 'font-size': size, 'text-anchor': anchor });
      group.dataset.role = trace.name;
      trace.text.forEach((text, i) => {
        const bold = text.startsWith('<b>') ? { 'font-weight': 'bold' } : {};
        const node = makeSvg(group, 'text', bold, plainText(text));
        this.placed.push({ node, x: trace.x[i], y: trace.y[i], down: size / 4 });
      });
    }
    return others;
  },

  placeTexts(map) {
    const { x0, x1, y0, y1, width, height } = map, key = [x0, x1, y0, y1, width, height].join();
    if (key === this.placedFor) return;
    this.placedFor = key;
    for (const { node, x, y, down } of this.placed) {
      node.setAttribute('x', map.x(x).toFixed(1));
      node.setAttribute('y', (map.y(y) + down).toFixed(1));
    }
  },
});
