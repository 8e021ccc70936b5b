"""The graph, its thresholds, and clicks on it."""

from __future__ import annotations

import streamlit as st

from charts.graph_figure import graph_figure
from charts.graph_view import GraphView, decode_click, shown_sentence
from charts.palette import Palette
from charts.text import percent
from pages.shared.session import update_session
from pages.shared.session_actions import toggle_pin
from pages.shared.session_state import Session
from tracer.types import Thresholds

_CHART = "graph"
_PINNING = "pin on click"
_CONFIG = {"displayModeBar": False, "scrollZoom": False, "doubleClick": "reset"}
REPLACEMENT = (
    "Share of the influence on the output that starts at prompt tokens rather than at error "
    "nodes, the part of the MLPs' output that the features do not reconstruct. Higher is better."
)
COMPLETENESS = (
    "Share of the input to the graph's nodes, weighted by their influence, that comes from "
    "features and tokens rather than from error nodes. Higher is better."
)


def draw(view: GraphView, session: Session, palette: Palette) -> None:
    """Draw the figure and, below it, how much of the graph it shows."""
    reading, pinning = st.columns([3.2, 1], gap="small")
    if view.selected is None:
        reading.caption(
            "Read from the bottom up: prompt tokens drive features (circles), which drive the next "
            "tokens at the top. Green edges raise, red edges lower. **Click a node** for details."
        )
    else:
        reading.button(
            "✕ Show the full graph",
            key="deselect",
            type="tertiary",
            on_click=update_session,
            kwargs={"selected": None},
        )
    pinning.toggle(
        "Pin on click",
        key=_PINNING,
        help="While this is on, clicking a node pins or unpins it: the quickest way to pin "
        "several nodes.",
    )
    st.plotly_chart(
        graph_figure(view, palette),
        key=_CHART,
        on_select=_clicked,
        selection_mode="points",
        theme=None,
        config=_CONFIG,
        alt="Attribution graph: tokens at the bottom, layers of features, next tokens at the top",
    )
    _thresholds(view, session)


def _clicked() -> None:
    node = decode_click(st.session_state.get(_CHART))
    if node is None:  # a second click on a node clears Plotly's selection: keep ours
        return
    if st.session_state.get(_PINNING):
        toggle_pin(node)
    else:
        update_session(selected=node)


def _thresholds(view: GraphView, session: Session) -> None:
    nodes, edges, replacement, completeness = st.columns([0.9, 0.9, 1, 1], gap="small")
    nodes.slider(
        "Node threshold",
        0.1,
        1.0,
        session.thresholds.node,
        0.01,
        key="node threshold",
        on_change=_thresholds_moved,
        help="Pruning keeps the most influential nodes that together carry this share of the "
        "influence on the output.",
    )
    edges.slider(
        "Edge threshold",
        0.5,
        1.0,
        session.thresholds.edge,
        0.01,
        key="edge threshold",
        on_change=_thresholds_moved,
        help="Among the edges between kept nodes, pruning keeps the strongest that together carry "
        "this share of the influence.",
    )
    replacement.metric(
        "Replacement score", percent(view.pruned.replacement_score), help=REPLACEMENT
    )
    completeness.metric(
        "Completeness score", percent(view.pruned.completeness_score), help=COMPLETENESS
    )
    st.caption(shown_sentence(view))


def _thresholds_moved() -> None:
    update_session(
        thresholds=Thresholds(
            st.session_state["node threshold"], st.session_state["edge threshold"]
        )
    )
