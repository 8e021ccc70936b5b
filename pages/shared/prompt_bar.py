"""The prompt at the top of a page and its trace: finished, in progress, cancelled or refused."""

from __future__ import annotations

from typing import Final

import streamlit as st

from cache import Job, ModelChoice, StoreError, TraceRequest
from pages.shared import progress, resources, stored_graph, visits
from pages.shared.escape import plain, sentence
from pages.shared.navigation import page_script
from pages.shared.session import read_session, set_text_widget, update_session, visitor_id
from tracer.atlas.gallery import gallery
from tracer.catalog.resolve import ATLAS
from tracer.errors import EmptyPromptError, ModelError, TracerError, TranscoderError
from tracer.graph.graph import AttributionGraph

_BOX: Final = "prompt box"
_LAST: Final = "last traced"
_CANCELLED: Final = "cancelled trace"


def traced() -> Job[AttributionGraph] | None:
    """Draw the prompt bar and return the finished trace of the session's prompt.

    A stored graph that is open takes its place. Returns None when something else was drawn in
    place of a graph: progress, or an error.
    """
    session = read_session()
    if session.graph:
        return stored_graph.opened(session.graph)
    _bar()
    request = TraceRequest(session.prompt, session.choice)
    if st.session_state.get(_CANCELLED) == request:
        _cancelled()
        return None
    st.session_state.pop(_CANCELLED, None)
    try:
        job = resources.backend().trace(request, visitor_id())
    except StoreError as error:
        st.error(plain(sentence(error)))
        return None
    visits.only_this(job, "trace")
    if not job.wait(progress.PATIENCE):
        _progress(job, request)
        return None
    try:
        job.result()
    except TracerError as error:
        _refused(error)
        if job.key and not isinstance(error, EmptyPromptError):
            visits.retry_button(job)
        return None
    st.session_state[_LAST] = session.prompt
    return job


def _bar() -> None:
    """Draw a text box, and buttons for the previous and next prompt of the gallery."""
    session = read_session()
    # The box follows the session, which other widgets change too.
    set_text_widget(_BOX, session.prompt)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.text_input(
            "Prompt (the graph explains its next token)",
            key=_BOX,
            on_change=_prompt_typed,
            placeholder="The capital of the state containing Dallas is",
        )
        st.button("◀", key="previous", help="Previous prompt", on_click=_step, args=(-1,))
        st.button("▶", key="next", help="Next prompt", on_click=_step, args=(1,))


def _prompt_typed() -> None:
    # An empty box means that it was not filled yet when the visitor clicked, or that the visitor
    # cleared it: keep the prompt rather than complain.
    if st.session_state[_BOX]:
        update_session(prompt=st.session_state[_BOX])


def _step(by: int) -> None:
    prompts = [entry.prompt for entry in gallery()]
    number = prompts.index(read_session().prompt) if read_session().prompt in prompts else -by
    update_session(prompt=prompts[(number + by) % len(prompts)])


def _refused(error: TracerError) -> None:
    """Say in one sentence what is wrong with the prompt, and offer a way back."""
    st.error(plain(sentence(error)))
    if isinstance(error, ModelError | TranscoderError):
        with st.container(horizontal=True):
            if st.button("Models", key="to models", type="primary"):
                st.switch_page(page_script("models"))
            _back_to_atlas()
        return
    session = read_session()
    last = st.session_state.get(_LAST, gallery()[0].prompt)
    if session.choice.model != ATLAS and last == session.prompt:
        st.caption(
            "The prompts in the sidebar were written for atlas: type one that suits this model."
        )
        _back_to_atlas()
        return
    st.button(
        plain(f"Back to “{last}”"), on_click=update_session, kwargs={"prompt": last}, key="go back"
    )


def _back_to_atlas() -> None:
    st.button(
        "Back to atlas",
        key="back to atlas",
        on_click=update_session,
        kwargs={"choice": ModelChoice()},
    )


def _cancelled() -> None:
    st.info("Tracing was cancelled.")
    st.button("Trace this prompt", key="trace again", type="primary", on_click=_trace_again)


def _trace_again() -> None:
    st.session_state.pop(_CANCELLED, None)


@st.fragment(run_every=progress.POLL)
def _progress(job: Job[AttributionGraph], request: TraceRequest) -> None:
    """Show how far the trace is; redraw the page when it has ended."""
    if not progress.is_active(job):
        st.rerun()
    progress.bar(job)
    if st.button("Cancel", key="cancel"):
        progress.cancel(job)
        st.session_state[_CANCELLED] = request
        last = st.session_state.get(_LAST)
        if last is not None and last != read_session().prompt:
            update_session(prompt=last)
        st.rerun()
