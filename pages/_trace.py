"""The Trace page's frame: the prompt on top, then the graph beside the panel."""

from __future__ import annotations

import streamlit as st

from cache import Job, ModelChoice, StoreError, TraceRequest
from charts.palette import palette
from charts.wording import percent, token_text
from pages import _graph, _panel, _resources, _session
from pages._text import plain
from tracer.atlas.gallery import gallery
from tracer.errors import TracerError
from tracer.graph import AttributionGraph

_FIRST_WAIT = 0.8
"""Seconds to wait before progress is shown; a warm small model answers within."""
_POLL = 1.0
_BOX = "prompt box"


def draw() -> None:
    """Draw the page for the session as it stands."""
    _session.mirror()
    _prompt_bar()
    session = _session.read()
    try:
        job = _resources.backend().trace(TraceRequest(session.prompt, session.choice))
    except StoreError as error:
        st.error(plain(str(error)))
        return
    if not job.wait(_FIRST_WAIT):
        _progress(job)
        return
    try:
        graph = job.result()
    except TracerError as error:
        _refused(error)
        return
    st.session_state["last traced"] = session.prompt
    _warm(session.choice)
    _headline(graph)
    _graph_and_panel(job.key, graph)


def _warm(choice: ModelChoice) -> None:
    """Open the model while a cached graph is being read, so that the next prompt need not wait."""
    if st.session_state.get("warmed") != choice:
        st.session_state["warmed"] = choice
        _resources.backend().warm(choice)


def _prompt_bar() -> None:
    """Free text, and a step to the previous or next prompt of the gallery."""
    session = _session.read()
    # The box follows the session, which other widgets change too.
    if st.session_state.get(_BOX) != session.prompt:
        st.session_state[_BOX] = session.prompt
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
    _session.write(prompt=st.session_state[_BOX])


def _step(by: int) -> None:
    prompts = [entry.prompt for entry in gallery()]
    here = prompts.index(_session.read().prompt) if _session.read().prompt in prompts else -by
    _session.write(prompt=prompts[(here + by) % len(prompts)])


def _refused(error: TracerError) -> None:
    """What is wrong with the prompt, in one sentence, and a way back."""
    st.error(plain(str(error)[:1].upper() + str(error)[1:] + "."))
    last = st.session_state.get("last traced", gallery()[0].prompt)
    st.button(
        plain(f"Back to “{last}”"), on_click=_session.write, kwargs={"prompt": last}, key="go back"
    )


@st.fragment(run_every=_POLL)
def _progress(job: Job[AttributionGraph]) -> None:
    """How far the work is; ends with a run of the whole page."""
    if job.state not in ("queued", "running"):
        st.rerun()
    done, total, what = job.progress
    st.progress(done / total if total else 0.0, text=plain(f"{what} …"))
    if total:
        st.caption(f"{done} of {total} rows")
    if st.button("Cancel", key="cancel"):
        job.cancel()
        last = st.session_state.get("last traced")
        if last is not None:
            _session.write(prompt=last)
        st.rerun()


def _headline(graph: AttributionGraph) -> None:
    first = graph.next_tokens[0]
    st.markdown(
        f"{plain(graph.prompt)} **{plain(token_text(first.token))}** "
        f":gray[{percent(first.probability)}]"
    )


def _graph_and_panel(key: str, graph: AttributionGraph) -> None:
    session = _session.read()
    theme = palette(st.context.theme.type)
    pruned = _resources.pruned_graph(key, session.thresholds)
    view = _graph.view(session, pruned)
    with st.container(key="workspace"):
        left, right = st.columns([2.1, 1], gap="medium")
    with left:
        _graph.draw(view, session, theme)
    with right:
        _panel.draw(view, session, theme)
