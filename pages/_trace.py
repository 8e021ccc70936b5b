"""The Trace page's frame: the prompt on top, then the graph beside the panel."""

from __future__ import annotations

import streamlit as st

from cache import ModelChoice
from charts.palette import palette
from charts.wording import percent, token_text
from pages import _explanations, _graph, _panel, _pins, _prompt, _resources, _session
from pages._text import plain
from tracer.graph import AttributionGraph


def draw() -> None:
    """Draw the page for the session as it stands."""
    job = _prompt.traced()
    if job is None:
        _session.mirror()
        return
    _pins.sync(job.key)
    _session.mirror()
    graph, session = job.result(), _session.read()
    if not _resources.is_imported(graph):
        _warm(session.choice)
    if not session.graph:  # it has a headline of its own
        _headline(graph)
    _graph_and_panel(job.key, graph)


def _warm(choice: ModelChoice) -> None:
    """Open the model while a cached graph is being read, so that the next prompt need not wait."""
    if st.session_state.get("warmed") != choice:
        st.session_state["warmed"] = choice
        _resources.backend().warm(choice)


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
        asked = _resources.asked_about(graph, session.choice)
        if asked is not None:
            _explanations.fetch_names(view, key, asked)
        _pins.draw(view, session, theme)
    with right:
        _panel.draw(view, session, theme)
