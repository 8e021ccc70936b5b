// The head of a node's panel: its name, what can be done with it, and the facts about it. It stays
// the same element from node to node, so that a button keeps the keyboard's focus.

const HELP = {
  back: 'Back through the nodes you selected',
  forward: 'Forward through the nodes you selected',
  pin: 'Pinned nodes stay visible at any threshold, have their own diagram, and can be grouped into '
    + 'supernodes.',
  close: 'Show the full graph (Esc)',
};

class Head {
  constructor(parent) {
    this.root = make(parent, 'div', 'node-head');
    this.shown = { id: '' };
    const line = make(this.root, 'div', 'line');
    this.name = make(line, 'h4');
    this.back = this.button(line, '←', HELP.back, () => ({ type: 'step', by: -1 }));
    this.forward = this.button(line, '→', HELP.forward, () => ({ type: 'step', by: 1 }));
    this.pin = this.button(line, 'Pin', HELP.pin,
      () => ({ type: 'pin', id: this.shown.id, pinned: !this.shown.pinned }));
    this.pin.className = 'framed';
    this.button(line, '✕', HELP.close, () => ({ type: 'select', id: null }));
    const facts = make(this.root, 'div', 'facts');
    this.facts = make(facts, 'span');
    const end = make(facts, 'span', 'end');    // the "?" stays on the line of the last number
    this.last = make(end, 'span');
    this.help = make(end, 'button', 'help', '?');
    this.help.type = 'button';
    this.help.onclick = () => this.help.focus();
    this.source = make(this.root, 'div', 'facts');
  }

  button(parent, text, help, event) {
    const button = make(parent, 'button', '', text);
    button.type = 'button';
    button.title = help;
    button.onclick = () => this.send(event());
    return button;
  }

  show(data) {
    this.shown = data;
    this.root.hidden = !data.id;
    if (!data.id) return;
    this.name.textContent = data.name;
    this.back.disabled = !data.back;
    this.forward.disabled = !data.forward;
    this.pin.textContent = data.pinned ? 'Unpin' : 'Pin';
    const end = data.facts.lastIndexOf(' ', data.facts.lastIndexOf(' ') - 1) + 1;
    this.facts.textContent = unbroken(data.facts.slice(0, end));
    this.last.textContent = data.facts.slice(end);
    this.help.hidden = !data.help;
    this.help.dataset.tip = data.help;
    this.help.setAttribute('aria-label', data.help);
    this.source.replaceChildren(...(data.source ? [data.source] : []));
    if (data.link) {
      if (data.source) this.source.append(' · ');
      const link = make(this.source, 'a', '', 'Neuronpedia');
      Object.assign(link, { href: data.link, target: '_blank', rel: 'noopener noreferrer' });
    }
  }
}

export default function ({ data, parentElement, setTriggerValue }) {
  const head = (parentElement.circuitHead ??= new Head(parentElement));
  head.send = event => setTriggerValue('event', event);
  panel.parts.head = head;
  showNews(head, data);
}
