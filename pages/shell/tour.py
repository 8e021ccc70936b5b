"""A tour of five steps on a visitor's first visit, which can be closed for good.

It lives in the browser alone: whether it was closed is kept there, and the server is never asked.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any, Final

import streamlit as st

STEPS: Final = (
    (
        "A prompt and its graph",
        "The graph shows which features of the model lead from the words of a prompt to its next "
        "token. Choose a prompt on the left, or write your own.",
    ),
    (
        "Click a node",
        "Its strongest inputs and outputs light up, and the panel shows what it fires on. Arrow "
        "keys walk along the edges, / searches.",
    ),
    (
        "Pin and group",
        "Shift-click pins a node. Group pinned nodes into a supernode and name it: the diagram "
        "below the graph then tells the story in a few boxes.",
    ),
    (
        "Test it",
        "On the Interventions page, switch features off or steer them, and see whether the answer "
        "changes as the graph predicts.",
    ),
    (
        "Keep and share",
        "The Library keeps every graph. Share one as a single file that opens in any browser, or "
        "import graphs from Neuronpedia and circuit-tracer.",
    ),
)

_STYLE: Final = """
.tour { position: fixed; left: 14px; bottom: 14px; z-index: 1000; width: 262px; padding: 12px 14px;
  box-sizing: border-box; color: var(--st-text-color); background: var(--st-background-color);
  border: 1px solid var(--st-border-color); border-radius: 8px; font-family: var(--st-font);
  font-size: 0.875rem; line-height: 1.45; box-shadow: 0 4px 18px rgb(0 0 0 / 0.18); }
.tour h2 { margin: 0 0 4px; font-size: 0.95rem; font-weight: 600; }
.tour p { margin: 0 0 10px; }
.tour div { display: flex; gap: 8px; align-items: center; }
.tour span { flex: 1; opacity: 0.65; font-size: 0.8125rem; }
.tour button { padding: 3px 10px; font: inherit; color: inherit; background: none; cursor: pointer;
  border: 1px solid var(--st-border-color); border-radius: 5px; }
.tour button.next { color: var(--st-background-color); background: var(--st-primary-color);
  border-color: var(--st-primary-color); }
.tour button:focus-visible { outline: 2px solid var(--st-primary-color); outline-offset: 1px; }
"""

_SCRIPT: Final = """
const KEY = 'circuit-tour';
const read = () => { try { return localStorage.getItem(KEY); } catch { return 'closed'; } };
const write = value => { try { localStorage.setItem(KEY, value); } catch { /* private window */ } };

export default function ({ parentElement, data }) {
  const steps = data.steps;
  // Not the parent itself: the style sheet is among its children.
  const root = parentElement.querySelector('.tour-root')
    ?? parentElement.appendChild(document.createElement('div'));
  root.className = 'tour-root';
  const make = (parent, tag, text) => {
    const made = parent.appendChild(document.createElement(tag));
    made.textContent = text;
    return made;
  };
  const draw = () => {
    root.replaceChildren();
    const state = read();
    if (state === 'closed') return;
    const number = Math.min(Math.max(parseInt(state, 10) || 0, 0), steps.length - 1);
    const card = make(root, 'section', '');
    card.className = 'tour';
    card.setAttribute('aria-label', 'Tour');
    make(card, 'h2', steps[number][0]);
    make(card, 'p', steps[number][1]);
    const row = make(card, 'div', '');
    make(row, 'span', `${number + 1} of ${steps.length}`);
    const close = make(row, 'button', 'Close');
    close.title = 'Close the tour for good';
    close.onclick = () => { write('closed'); draw(); };
    const last = number === steps.length - 1;
    const next = make(row, 'button', last ? 'Done' : 'Next');
    next.className = 'next';
    next.onclick = () => { write(last ? 'closed' : String(number + 1)); draw(); };
  };
  draw();
}
"""


@cache
def _component() -> Callable[..., Any]:
    """Register the component once for the whole process."""
    mount: Callable[..., Any] = st.components.v2.component(
        "circuit_tour", html="<!---->", css=_STYLE, js=_SCRIPT
    )
    return mount


def draw() -> None:
    """Draw the tour where the browser has not closed it yet."""
    _component()(key="tour", data={"steps": json.loads(json.dumps(STEPS))}, height="content")
