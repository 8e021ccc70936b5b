// The page of a shared file: the graph, and a panel that answers clicks without any server.

const read = id => JSON.parse(document.getElementById(id).textContent);
const page = read('page-data');
const panel = document.getElementById('panel');
const dark = matchMedia('(prefers-color-scheme: dark)');

const showTheme = () => document.documentElement.classList.toggle('dark', dark.matches);
showTheme();

const graph = new Graph(document.getElementById('graph'), event => {
  if (event.type === 'select') draw(event.id);
  if (event.type === 'pin' || event.type === 'pin-all' || event.type === 'group') annotate(event);
});
const bytes = new TextEncoder().encode(document.getElementById('graph-data').textContent.trim());
const ready = graph.show(bytes).then(() => {
  obey(page.selected);
  draw(page.selected);
});
dark.addEventListener('change', () => { showTheme(); ready.then(() => graph.show(bytes)); });

function obey(selected) {
  graph.obey({ selected, pinned: page.pinned, off: [], groups: page.groups, serial: Infinity });
}

// What a reader pins lives until the page is closed; the file is not changed by it.
function annotate(event) {
  const pinned = new Set(page.pinned);
  if (event.type === 'pin') event.pinned ? pinned.add(event.id) : pinned.delete(event.id);
  if (event.type === 'pin-all') event.ids.forEach(id => pinned.add(id));
  if (event.type === 'group') {
    page.groups.push({ name: event.name, colour: page.colours[page.groups.length % page.colours.length],
      ids: event.ids });
  }
  page.pinned = [...pinned];
  const selected = graph.selected === null ? null : graph.side.id[graph.selected];
  obey(selected);
  draw(selected);
}

function draw(id) {
  panel.replaceChildren();
  const i = id === null ? undefined : graph.index.get(id);
  if (i === undefined) { drawStart(); return; }
  const side = graph.side;
  make(panel, 'h2', '', side.name[i]);
  const influence = side.kind[i] === 'logit' ? '' : ` · influence ${percent(side.influence[i])}`;
  make(panel, 'p', 'muted', unbroken(side.place[i] + influence));
  drawEdges('Inputs', graph.inputs[i], side.source);
  drawEdges('Outputs', graph.outputs[i], side.target);
  const card = page.cards[id];
  if (card) drawCard(card);
}

function drawStart() {
  if (page.notes) make(panel, 'p', '', page.notes);
  make(panel, 'h2', '', 'Next token');
  for (const [token, probability] of page.next_tokens) {
    const row = make(panel, 'div', 'token');
    make(row, 'span', 'name', token);
    make(make(row, 'span', 'bar'), 'i', 'positive').style.width = `${100 * probability}%`;
    make(row, 'span', 'value', percent(probability));
  }
  if (page.groups.length || page.pinned.length) {
    make(panel, 'h2', '', 'Pinned');
    const shown = id => graph.side.name[graph.index.get(id)] ?? id;
    for (const group of page.groups) {
      const line = make(panel, 'p', 'group');
      make(line, 'b', '', group.name).style.color = group.colour;
      for (const member of group.ids) jump(make(line, 'span', 'member'), member, shown(member));
    }
    if (page.pinned.length) {
      const line = make(panel, 'p', 'group');
      for (const member of page.pinned) jump(make(line, 'span', 'member'), member, shown(member));
    }
  }
  make(panel, 'h2', '', 'Most influential features');
  const features = graph.rank.filter(i => graph.side.kind[i] === 'feature').slice(0, 8);
  for (const i of features) {
    const row = make(panel, 'div', 'token');
    jump(make(row, 'span', 'name'), graph.side.id[i], graph.side.name[i]);
    make(row, 'span', 'value', percent(graph.side.influence[i]));
  }
  make(panel, 'p', 'muted', 'Click a node to see what drives it, what it drives, and what it fires '
    + 'on. Arrow keys walk along the strongest edges.');
}

function jump(parent, id, text) {
  const link = make(parent, 'button', 'jump', text);
  link.dataset.node = id;
  link.onclick = () => graph.selectId(id);
}

function drawEdges(title, edges, ends) {
  if (!edges.length) return;
  const side = graph.side, strongest = Math.abs(side.weight[edges[0]]) || 1;
  const part = make(panel, 'details');
  part.open = true;
  make(part, 'summary', '', `${title} (${edges.length})`);
  edges.slice(0, 60).forEach((edge, place) => {
    const row = make(part, 'div', place < 6 ? 'edge' : 'edge more');
    const weight = side.weight[edge], sign = weight > 0 ? 'positive' : 'negative';
    make(make(row, 'span', 'bar'), 'i', sign).style.width = `${100 * Math.abs(weight) / strongest}%`;
    make(row, 'span', 'value', signed(weight));
    jump(make(row, 'span', 'name'), side.id[ends[edge]], side.name[ends[edge]]);
  });
  if (edges.length > 6) {
    const all = make(part, 'button', 'jump', `Show all ${Math.min(edges.length, 60)}`);
    all.onclick = () => { part.classList.add('open'); all.remove(); };
  }
}

function drawCard(card) {
  for (const group of card.groups) {
    const part = make(panel, 'details');
    part.open = group === card.groups[0];
    make(part, 'summary', '', group.name);
    for (const example of group.examples) {
      drawExample(part, example, card.largest, 'var(--shade-colour)');
    }
  }
  for (const [title, tokens, sign] of [['Promotes', card.promoted, 'positive'],
    ['Suppresses', card.suppressed, 'negative']]) {
    if (!tokens.length) continue;
    const line = make(panel, 'p', 'chips');
    make(line, 'b', '', title);
    for (const token of tokens) make(line, 'span', sign, token);
  }
}
