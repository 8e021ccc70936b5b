// The sidebar's prompts, in groups that fold. They are one component rather than a button each,
// because Streamlit spends milliseconds on every element of the page in every run.

const OPEN = (shared.openGroups ??= new Map());    // group -> whether the visitor has it open

function drawGroups(list, groups) {
  list.replaceChildren();
  for (const [number, group] of groups.entries()) {
    const part = make(list, 'details');
    part.open = OPEN.get(group.name) ?? number === 0;
    part.ontoggle = () => OPEN.set(group.name, part.open);
    make(part, 'summary', '', group.name);
    for (const { title, prompt } of group.prompts) {
      const button = make(part, 'button', '', title);
      button.type = 'button';
      button.title = prompt;
      button.onclick = () => list.send({ type: 'prompt', prompt });
    }
  }
}

function mark(list, current) {
  for (const button of list.querySelectorAll('button')) {
    const isCurrent = button.title === current;
    if (!isCurrent) button.removeAttribute('aria-current');
    else if (!button.hasAttribute('aria-current')) {
      button.setAttribute('aria-current', 'true');
      button.parentElement.open = true;
    }
  }
}

export default function ({ data, parentElement, setTriggerValue }) {
  const list = parentElement.querySelector('.prompts') ?? make(parentElement, 'div', 'prompts');
  list.send = event => setTriggerValue('event', event);
  const groups = JSON.stringify(data.groups);
  if (list.groups !== groups) drawGroups(list, data.groups);
  list.groups = groups;
  mark(list, data.current);
}
