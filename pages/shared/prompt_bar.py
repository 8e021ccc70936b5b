"""The prompt on top of a page, and its trace: waited for, shown in progress, or refused."""

from __future__ import annotations

import streamlit as st

from cache import Job, ModelChoice, StoreError, TraceRequest
from pages.shared import progress, resources, stored_graph
from pages.shared.escape import plain, sentence
from pages.shared.navigation import page_script
from pages.shared.session import read_session, set_text_widget, update_session
from tracer.atlas.gallery import gallery
from tracer.catalog.resolve import ATLAS
from tracer.errors import ModelError, TracerError, TranscoderError
from tracer.graph.graph import AttributionGraph

_BOX = "prompt box"


def traced() -> Job[AttributionGraph] | None:
    """Draw the prompt bar; the finished trace of the session's prompt, or the stored graph that is
    looked at instead. None when what there is to see in its place (progress, an error) is drawn."""
    session = read_session()
    if session.graph:
        return stored_graph.opened(session.graph)
    _bar()
    try:
        job = resources.backend().trace(TraceRequest(session.prompt, session.choice))
    except StoreError as error:
        st.error(plain(str(error)))
        return None
    if not job.wait(progress.PATIENCE):
        _progress(job)
        return None
    try:
        job.result()
    except TracerError as error:
        _refused(error)
        return None
    st.session_state["last traced"] = session.prompt
    return job


def _bar() -> None:
    """Free text, and a step to the previous or next prompt of the gallery."""
    session = read_session()
    # The box follows the session, which other widgets change too.
    set_text_widget(_BOX, session.prompt)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.text_input(
            "Prompt: the text whose next token is explained",
            key=_BOX,
            on_change=_prompt_typed,
            placeholder="The capital of the state containing Dallas is",
        )
        st.button("◀", key="previous", help="Previous prompt", on_click=_step, args=(-1,))
        st.button("▶", key="next", help="Next prompt", on_click=_step, args=(1,))


def _prompt_typed() -> None:
    # A click that comes before the browser has filled the box reports it as emptied; and a person
    # who empties it gets the prompt back rather than a complaint.
    if st.session_state[_BOX]:
        update_session(prompt=st.session_state[_BOX])


def _step(by: int) -> None:
    prompts = [entry.prompt for entry in gallery()]
    here = prompts.index(read_session().prompt) if read_session().prompt in prompts else -by
    update_session(prompt=prompts[(here + by) % len(prompts)])


def _refused(error: TracerError) -> None:
    """What is wrong with the prompt, in one sentence, and a way back."""
    st.error(plain(sentence(error)))
    if isinstance(error, ModelError | TranscoderError):
        with st.container(horizontal=True):
            if st.button("Models", key="to models", type="primary"):
                st.switch_page(page_script("models"))
            _back_to_atlas()
        return
    session = read_session()
    last = st.session_state.get("last traced", gallery()[0].prompt)
    if session.choice.model != ATLAS and last == session.prompt:
        st.caption("The prompts on the left are made for atlas: type one that this model knows.")
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


@st.fragment(run_every=progress.POLL)
def _progress(job: Job[AttributionGraph]) -> None:
    """How far the work is; ends with a run of the whole page."""
    if not progress.going_on(job):
        st.rerun()
    progress.bar(job)
    if st.button("Cancel", key="cancel"):
        job.cancel()
        last = st.session_state.get("last traced")
        if last is not None:
            update_session(prompt=last)
        st.rerun()
