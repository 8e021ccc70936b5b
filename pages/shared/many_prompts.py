"""Many prompts of one visitor: pasted or uploaded, traced in turn, clicked through.

They are read and traced by the same code as ``python -m tracer trace --prompts``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import streamlit as st

from cache import (
    BadLine,
    ManyTraces,
    Prompt,
    StoreError,
    TraceRequest,
    prompts_in,
    prompts_of_lines,
    summary_csv,
)
from charts.text import plural, truncate
from pages.shared import progress, resources
from pages.shared.escape import plain, sentence
from pages.shared.explaining import LOGIT_MASS, Explain
from pages.shared.session import read_session, update_session, visitor_id
from tracer.errors import Cancelled, TracerError

MOST_PROMPTS: Final = 500
_MANY: Final = "many prompts"
_EXPLAIN: Final = "many prompts, explained"
_TROUBLE: Final = "many prompts, trouble"
_TEXT: Final = "pasted prompts"
_FILE: Final = "prompt file"
_NAMED: Final = 3
"""Failures that are named; of others only the number is shown."""


def prompts() -> tuple[str, ...]:
    """Return the prompts to click through; empty where the visitor gave none."""
    many = _many()
    return () if many is None else tuple(prompt.prompt for prompt in many.prompts)


def explained(prompt: str) -> Explain:
    """Return what is explained of a prompt: its own target, or what is explained of all others."""
    many = _many()
    if many is None:
        return read_session().explain
    own = next((each for each in many.prompts if each.prompt == prompt), Prompt(0, prompt))
    return _own(own, st.session_state[_EXPLAIN])


def _own(prompt: Prompt, explain: Explain) -> Explain:
    if not prompt.target:
        return explain
    return replace(explain, kind="token", first=prompt.target, logit_mass=LOGIT_MASS)


def draw_input() -> None:
    """Draw the box and the upload for many prompts."""
    with st.expander("Many prompts", key="write many prompts"):
        st.text_area("One prompt per line", key=_TEXT, height=100)
        st.file_uploader(
            "Or a file: CSV or JSON lines with “prompt”, and optionally “label” and “target”",
            type=["csv", "jsonl", "ndjson"],
            key=_FILE,
            help="“target” is a token to explain, such as “ Austin”; without it the likeliest "
            "tokens are explained.",
        )
        st.button("Trace them in turn", key="trace many", on_click=_start)
        trouble = st.session_state.pop(_TROUBLE, "")
        if trouble:
            st.error(plain(sentence(trouble)))


def draw_progress() -> None:
    """Draw how many prompts are traced, which failed, and a way out."""
    many = _many()
    if many is None:
        return
    _advance(many)
    if many.is_complete:
        _summary(many)
    else:
        _watch(many)


def _many() -> ManyTraces | None:
    many: ManyTraces | None = st.session_state.get(_MANY)
    return many


def _start() -> None:
    try:
        given, bad = prompts_of_lines(st.session_state.get(_TEXT) or "")
        file = st.session_state.get(_FILE)
        if file is not None:
            more, worse = prompts_in(file.getvalue(), file.name)
            given, bad = [*given, *more], [*bad, *worse]
    except TracerError as error:
        st.session_state[_TROUBLE] = str(error)
        return
    unique = list({(prompt.prompt, prompt.target): prompt for prompt in reversed(given)}.values())
    if not unique:
        st.session_state[_TROUBLE] = "there is no prompt yet: paste some, or choose a file"
        return
    if len(unique) > MOST_PROMPTS:
        st.session_state[_TROUBLE] = (
            f"there are {len(unique):,} prompts, at most {MOST_PROMPTS} can be traced here: split "
            "them, or use python -m tracer trace --prompts"
        )
        return
    earlier, session = _many(), read_session()
    if earlier is not None:
        earlier.stop()
    explain, choice = session.explain, session.choice

    def request(prompt: Prompt) -> TraceRequest:
        return _own(prompt, explain).request(prompt.prompt, choice)

    many = ManyTraces(resources.backend(), unique[::-1], request, visitor_id(), bad)
    st.session_state[_MANY], st.session_state[_EXPLAIN] = many, explain
    _advance(many)
    update_session(prompt=many.prompts[0].prompt, explain=explained(many.prompts[0].prompt))


def _advance(many: ManyTraces) -> None:
    try:
        many.advance()
    except Cancelled:  # in the list of what is running
        many.stop()
    except StoreError as error:
        many.stop()
        st.session_state[_TROUBLE] = str(error)


@st.fragment(run_every=progress.POLL)
def _watch(many: ManyTraces) -> None:
    _advance(many)
    if many.is_complete:
        st.rerun()
    text = f"{len(many.rows)} of {len(many.prompts)} prompts traced; ◀ and ▶ step through them"
    with st.container(horizontal=True, vertical_alignment="center"):
        st.progress(len(many.rows) / len(many.prompts), text=plain(text))
        if st.button("Stop", key="stop many"):
            many.stop()
            st.rerun()


def _summary(many: ManyTraces) -> None:
    prompt, all_prompts = read_session().prompt, prompts()
    count = len(all_prompts)
    place = f"Prompt {all_prompts.index(prompt) + 1} of {count}" if prompt in all_prompts else ""
    failed = [row.prompt for row in many.rows if row.state == "failed"]
    missing = [each.prompt for each in many.prompts[len(many.rows) :]]
    parts = [place or plural(count, "prompt")]
    if failed or missing:
        parts.append(
            f"Not traced: {_named([f'“{truncate(text, 40)}”' for text in failed + missing])}"
        )
    if many.bad:
        parts.append(f"Skipped: {_named([_line(each) for each in many.bad])}")
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(plain(f"{'. '.join(parts)}."), width="content")
        st.download_button(
            "Table",
            summary_csv(many.rows),
            "prompts.csv",
            "text/csv",
            key="many table",
            type="tertiary",
            on_click="ignore",
            help="One row per prompt: the likeliest token, the size of the graph, or the error.",
        )
        st.button("Back to the gallery", key="leave many", type="tertiary", on_click=_leave)


def _named(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _line(bad: BadLine) -> str:
    return f"line {bad.number} ({bad.reason})"


def _leave() -> None:
    st.session_state.pop(_MANY, None)
