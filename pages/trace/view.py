"""The layout of the Trace page: the prompt at the top, then the graph next to the panel."""

from __future__ import annotations

import streamlit as st

from cache import ModelChoice
from charts.palette import palette
from charts.text import percent, token_text
from pages.shared import feature_examples, prompt_bar, resources
from pages.shared.annotations_sync import sync_annotations
from pages.shared.escape import plain
from pages.shared.graph_view import session_view
from pages.shared.session import mirror_to_url, read_session, visitor_id
from pages.trace import graph_chart, node_panel, pins
from tracer.graph.graph import AttributionGraph


def draw() -> None:
    """Draw the page for the current session."""
    job = prompt_bar.traced()
    if job is None:
        mirror_to_url()
        return
    sync_annotations(job.key)
    mirror_to_url()
    graph, session = job.result(), read_session()
    if not resources.is_imported(graph):
        _warm(session.choice)
    if not session.graph:  # a stored graph has its own headline
        _headline(graph)
    _graph_and_panel(job.key, graph)


def _warm(choice: ModelChoice) -> None:
    """Open the model while the visitor reads a cached graph, so the next prompt starts sooner."""
    if st.session_state.get("warmed") != choice:
        st.session_state["warmed"] = choice
        resources.backend().warm(choice, visitor_id())


def _headline(graph: AttributionGraph) -> None:
    first = graph.next_tokens[0]
    st.markdown(
        f"{plain(graph.prompt)} **{plain(token_text(first.token))}** "
        f":gray[{percent(first.probability)}]"
    )


def _graph_and_panel(key: str, graph: AttributionGraph) -> None:
    session = read_session()
    theme = palette(st.context.theme.type)
    pruned = resources.pruned_graph(key, session.thresholds)
    view = session_view(session, pruned)
    with st.container(key="workspace"):
        left, right = st.columns([2.1, 1], gap="medium")
    with left:
        graph_chart.draw(view, session, theme)
        source = resources.feature_source(graph, session.choice)
        if source is not None:
            feature_examples.fetch_names(view, key, source)
        pins.draw(view, session, theme)
    with right:
        node_panel.draw(view, session, theme)
