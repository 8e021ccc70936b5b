// What a visitor does with nodes: select, pin, search, open a folded cell, group by lasso.

const AFTER_LIT = 40;    // milliseconds: two frames are painted before Streamlit is told of a click

Object.assign(Graph.prototype, {
  select(i, delay = 0) {
    if (i === this.selected) return;
    this.selected = i;
    this.tip.style.display = 'none';
    this.paint();
    const pressed = shared.clickedAt;
    requestAnimationFrame(() => requestAnimationFrame(() => requestAnimationFrame(() => {
      shared.lit = performance.now() - pressed;
      shared.timings.push(['lit', shared.lit, shared.paint]);
      shared.showAhead?.(this);
    })));
    this.speak(i);
    this.tell({ type: 'select', id: i === null ? null : this.side.id[i] }, delay || AFTER_LIT);
  },

  selectId(id) {
    const i = id === null ? null : this.index.get(id);
    if (i !== undefined) this.select(i);
    return i !== undefined;
  },

  speak(i) {
    if (i === null) { this.spoken.textContent = 'No node selected'; return; }
    const side = this.side, input = this.inputs[i][0], output = this.outputs[i][0];
    let text = `${this.name_(i)}, ${side.place[i]}, influence ${percent(side.influence[i])}`;
    if (input !== undefined) text += `; strongest input ${this.name_(side.source[input])}`;
    if (output !== undefined) text += `; strongest output ${this.name_(side.target[output])}`;
    this.spoken.textContent = text;
  },

  pin(i) {
    const isPinned = this.pinned.has(i);
    if (isPinned) this.pinned.delete(i);
    else this.pinned.add(i);
    this.paint();
    this.tell({ type: 'pin', id: this.side.id[i], pinned: !isPinned });
  },

  mark(i) {
    if (this.marked.has(i)) this.marked.delete(i);
    else this.marked.add(i);
    this.paint();
    this.askForName();
  },

  closeLists() {
    this.list.style.display = 'none';
    this.finder.style.display = 'none';
  },

  row(parent, i, pick) {
    const side = this.side, row = make(parent, 'button', 'row');
    row.dataset.node = side.id[i];
    make(row, 'span', 'name', this.name_(i));
    make(row, 'span', 'where', side.place[i].split(' · ')[0]);
    const bar = make(row, 'i');
    bar.style.width = `${2 + 40 * Math.sqrt(side.influence[i] / (side.influence[this.rank[0]] || 1))}px`;
    row.onclick = () => { this.closeLists(); this.root.focus({ preventScroll: true }); pick(); };
    return row;
  },

  openChip(number) {
    const chip = this.side.chips[number], map = this.map();
    this.list.replaceChildren();
    const column = this.side.columns[chip.position]?.[0] ?? '';
    const where = chip.layer < this.side.rows.length ? `layer ${chip.layer}` : 'the answers';
    make(this.list, 'div', 'head', `${chip.members.length} more in ${where}, “${column}”`);
    for (const i of chip.members) {
      this.row(this.list, i, () => { shared.clickedAt = performance.now(); this.select(i); });
    }
    this.list.style.display = 'block';
    const { offsetWidth, offsetHeight } = this.list, x = map.x(chip.x), y = map.y(chip.y);
    this.list.style.left = `${Math.max(2, Math.min(x + 14, map.width - offsetWidth - 4))}px`;
    this.list.style.top = `${Math.max(4, Math.min(y - offsetHeight / 2, map.height - offsetHeight - 4))}px`;
    this.list.querySelector('button')?.focus();
  },

  openFinder() {
    this.finder.replaceChildren();
    const input = make(this.finder, 'input'), rows = make(this.finder, 'div', 'rows');
    input.placeholder = 'Find a node by name, token or id';
    input.setAttribute('aria-label', input.placeholder);
    let matches = [], at = 0;
    const pick = i => { shared.clickedAt = performance.now(); this.select(i); };
    const draw = () => {
      const wanted = input.value.trim().toLowerCase(), side = this.side;
      matches = wanted ? this.rank.filter(i => `${side.name[i]} ${side.place[i]} ${side.id[i]}`
        .toLowerCase().includes(wanted)).slice(0, 10) : [];
      at = Math.max(0, Math.min(at, matches.length - 1));
      rows.replaceChildren();
      matches.forEach((i, k) => this.row(rows, i, () => pick(i)).classList.toggle('on', k === at));
      if (wanted && !matches.length) make(rows, 'div', 'head', 'No node matches');
    };
    input.oninput = () => { at = 0; draw(); };
    input.onkeydown = event => {
      event.stopPropagation();
      const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (event.key === 'Escape') { this.closeLists(); this.root.focus({ preventScroll: true }); }
      else if (event.key === 'Enter' && matches.length) {
        this.closeLists();
        this.root.focus({ preventScroll: true });
        pick(matches[at]);
      } else if (step) { at += step; draw(); event.preventDefault(); }
    };
    this.finder.style.display = 'block';
    input.focus();
  },

  // Lasso: nodes inside the drawn line are marked, and can be named as one.
  toggleLasso(on = !this.isLasso) {
    this.isLasso = on;
    this.root.classList.toggle('is-lasso', on);
    this.toolbar.querySelector('[data-tool=lasso]').classList.toggle('on', on);
  },

  lassoFrom(event) {
    event.stopPropagation();
    event.preventDefault();
    const box = this.root.getBoundingClientRect();
    const point = e => [e.clientX - box.left, e.clientY - box.top];
    this.lasso = [point(event)];
    const move = e => { this.lasso.push(point(e)); this.paint(); };
    window.addEventListener('pointermove', move);
    window.addEventListener('pointerup', release => {
      window.removeEventListener('pointermove', move);
      const line = this.lasso, map = this.map(), side = this.side;
      this.lasso = null;
      if (!event.shiftKey) this.marked.clear();
      for (let i = 0; i < side.id.length; i++) {
        if (inPolygon(map.x(side.x[i]), map.y(side.y[i]), line)) this.marked.add(i);
      }
      this.toggleLasso(false);
      this.paint();
      this.askForName();
    }, { once: true, capture: true });
  },

  drawLasso() {
    if (!this.lasso || this.lasso.length < 2) return;
    const points = this.lasso.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(' ');
    makeSvg(this.overlay, 'polygon', { points, class: 'lasso' });
  },

  askForName() {
    this.naming.replaceChildren();
    if (!this.marked.size) { this.closeNaming(); return; }
    const ids = () => [...this.marked].map(i => this.side.id[i]);
    const count = this.marked.size;
    make(this.naming, 'span', '', count === 1 ? '1 node' : `${count} nodes`);
    const input = make(this.naming, 'input');
    input.placeholder = 'Name of the supernode';
    input.setAttribute('aria-label', input.placeholder);
    const done = type => {
      const name = input.value.trim();
      if (type === 'group' && !name) { input.focus(); return; }
      const event = type === 'group' ? { type, name, ids: ids() } : { type, ids: ids() };
      this.marked.clear();
      this.closeNaming();
      this.paint();
      this.tell(event);
    };
    input.onkeydown = event => {
      event.stopPropagation();
      if (event.key === 'Enter') done('group');
      if (event.key === 'Escape') { this.marked.clear(); this.closeNaming(); this.paint(); }
    };
    make(this.naming, 'button', 'primary', 'Create supernode').onclick = () => done('group');
    make(this.naming, 'button', '', 'Pin').onclick = () => done('pin-all');
    this.naming.style.display = 'flex';
    input.focus({ preventScroll: true });
  },

  closeNaming() { this.naming.style.display = 'none'; },
});

function inPolygon(x, y, line) {
  let inside = false;
  for (let i = 0, j = line.length - 1; i < line.length; j = i++) {
    const [xi, yi] = line[i], [xj, yj] = line[j];
    if (yi > y !== yj > y && x < (xj - xi) * (y - yi) / (yj - yi) + xi) inside = !inside;
  }
  return inside;
}
