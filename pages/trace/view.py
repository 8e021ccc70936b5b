"""The layout of the Trace page: the prompt at the top, then the graph next to the panel."""

from __future__ import annotations

import streamlit as st

from cache import ModelChoice
from charts.palette import palette
from pages.shared import feature_examples, later, prompt_bar, resources
from pages.shared.annotations_sync import sync_annotations
from pages.shared.graph_view import session_view
from pages.shared.session import mirror_to_url, read_session, visitor_id
from pages.trace import graph_area, node_panel, panels_ahead, pins
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
    _graph_and_panel(job.key, graph)


def _warm(choice: ModelChoice) -> None:
    """Open the model while the visitor reads a cached graph, so the next prompt starts sooner."""
    if st.session_state.get("warmed") != choice:
        st.session_state["warmed"] = choice
        resources.backend().warm(choice, visitor_id())


def _graph_and_panel(key: str, graph: AttributionGraph) -> None:
    session = read_session()
    theme = palette(st.context.theme.type)
    pruned = resources.pruned_graph(key, session.thresholds)
    view = session_view(session, pruned)
    with st.container(key="workspace"):
        left, right = st.columns([2.3, 1], gap="medium")
    if not (session.as_table or session.heads.as_view):
        place = st.container()
        later.draw_later(place, lambda: panels_ahead.draw(key, view, session, theme), last=True)

    def graph_and_pins() -> None:
        graph_area.draw(key, view, session)
        source = resources.feature_source(graph, session.choice)
        if source is not None:
            feature_examples.fetch_names(view, key, source)
        pins.draw(key, view, session)

    # The browser marks a selected node by itself: what a click has to wait for is the panel.
    if view.selected is None:
        with left:
            graph_and_pins()
    else:
        later.draw_later(left, graph_and_pins)
    with right:
        node_panel.draw(key, view, session, theme)
