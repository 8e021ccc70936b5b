"""Many prompts of one visitor: pasted or uploaded, traced in turn, clicked through."""

from __future__ import annotations

from typing import Any, Final

import streamlit as st

from cache import Job, StoreError
from pages.shared import progress, resources
from pages.shared.escape import plain, sentence
from pages.shared.many_prompts import PromptFileError, prompts_of, prompts_of_file
from pages.shared.session import read_session, update_session, visitor_id

_PROMPTS: Final = "many prompts"
_JOBS: Final = "many prompts, jobs"
_TROUBLE: Final = "many prompts, trouble"
_TEXT: Final = "pasted prompts"
_FILE: Final = "prompt file"


def prompts() -> tuple[str, ...]:
    """Return the prompts to click through; empty where the visitor gave none."""
    known: tuple[str, ...] = st.session_state.get(_PROMPTS, ())
    return known


def draw_input() -> None:
    """Draw the box and the upload for many prompts."""
    with st.expander("Many prompts"):
        st.text_area("One prompt per line", key=_TEXT, height=100)
        st.file_uploader(
            "Or a file: CSV with a column “prompt”, JSON lines, or a line each",
            type=["csv", "jsonl", "txt"],
            key=_FILE,
        )
        st.button("Trace them in turn", key="trace many", on_click=_start)
        trouble = st.session_state.pop(_TROUBLE, "")
        if trouble:
            st.error(plain(sentence(trouble)))


def _start() -> None:
    file = st.session_state.get(_FILE)
    try:
        given = prompts_of_file(file.getvalue(), file.name) if file is not None else ()
        given = tuple(dict.fromkeys((*prompts_of(st.session_state.get(_TEXT) or ""), *given)))
    except PromptFileError as error:
        st.session_state[_TROUBLE] = str(error)
        return
    if not given:
        st.session_state[_TROUBLE] = "there is no prompt yet: paste some, or choose a file"
        return
    session = read_session()
    backend, visitor = resources.backend(), visitor_id()
    try:
        jobs = [
            backend.trace(session.explain.request(prompt, session.choice), visitor)
            for prompt in given
        ]
    except StoreError as error:
        st.session_state[_TROUBLE] = str(error)
        return
    st.session_state[_PROMPTS], st.session_state[_JOBS] = given, jobs
    update_session(prompt=given[0])


def draw_progress() -> None:
    """Draw how many prompts are traced, which failed, and a way out."""
    jobs: list[Job[Any]] = st.session_state.get(_JOBS, [])
    if not jobs:
        return
    if any(map(progress.is_active, jobs)):
        _watch(jobs)
    else:
        _summary(jobs)


@st.fragment(run_every=progress.POLL)
def _watch(jobs: list[Job[Any]]) -> None:
    if not any(map(progress.is_active, jobs)):
        st.rerun()
    ended = sum(not progress.is_active(job) for job in jobs)
    text = f"{ended} of {len(jobs)} prompts traced; ◀ and ▶ step through them"
    with st.container(horizontal=True, vertical_alignment="center"):
        st.progress(ended / len(jobs), text=plain(text))
        if st.button("Stop", key="stop many"):
            for job in jobs:
                progress.cancel(job)
            st.rerun()


def _summary(jobs: list[Job[Any]]) -> None:
    failed = [job for job in jobs if job.state != "done"]
    prompt, all_prompts = read_session().prompt, prompts()
    place = (
        f"Prompt {all_prompts.index(prompt) + 1} of {len(jobs)}" if prompt in all_prompts else ""
    )
    text = place or f"{len(jobs)} prompts"
    if failed:
        names = ", ".join(f"“{job.title[:40]}”" for job in failed[:3])
        more = f" and {len(failed) - 3} more" if len(failed) > 3 else ""
        text += f". Not traced: {names}{more}"
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(plain(f"{text}."), width="content")
        st.button("Back to the gallery", key="leave many", type="tertiary", on_click=_leave)


def _leave() -> None:
    for name in (_PROMPTS, _JOBS):
        st.session_state.pop(name, None)
