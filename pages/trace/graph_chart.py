"""The graph, its thresholds, and what a click on it means."""

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
_PINNING = "clicks pin"
_CONFIG = {"displayModeBar": False, "scrollZoom": False, "doubleClick": "reset"}
REPLACEMENT = (
    "Replacement score: how much of the influence on the answer starts at the prompt's tokens "
    "rather than at errors, the part of the MLPs that the features do not explain."
)
COMPLETENESS = (
    "Completeness score: how much of what reaches the nodes, weighted by influence, comes from "
    "features and tokens rather than from errors."
)


def draw(view: GraphView, session: Session, palette: Palette) -> None:
    """The figure, and under it how much of the whole it shows."""
    reading, pinning = st.columns([4.4, 1], gap="small")
    if view.selected is None:
        reading.caption(
            "Read it upwards: the tokens below feed features (circles), which feed the next token "
            "on top. Green raises, red lowers. **Click a node** to see what it is."
        )
    else:
        reading.button(
            "✕ Show the whole graph",
            key="deselect",
            type="tertiary",
            on_click=update_session,
            kwargs={"selected": None},
        )
    pinning.toggle(
        "Clicks pin",
        key=_PINNING,
        help="While this is on, a click on a node pins it, and a second click takes the pin "
        "away: the quickest way to mark several.",
    )
    st.plotly_chart(
        graph_figure(view, palette),
        key=_CHART,
        on_select=_clicked,
        selection_mode="points",
        theme=None,
        config=_CONFIG,
        alt="Attribution graph: tokens at the bottom, layers of features, next tokens on top",
    )
    _thresholds(view, session)


def _clicked() -> None:
    node = decode_click(st.session_state.get(_CHART))
    if node is None:  # a second click on a node empties the selection: keep it
        return
    if st.session_state.get(_PINNING):
        toggle_pin(node)
    else:
        update_session(selected=node)


def _thresholds(view: GraphView, session: Session) -> None:
    nodes, edges, replacement, completeness = st.columns([1, 1, 0.8, 0.9], gap="medium")
    nodes.slider(
        "Influence kept by nodes",
        0.1,
        1.0,
        session.thresholds.node,
        0.01,
        key="node threshold",
        on_change=_thresholds_moved,
        help="Nodes are kept, strongest first, until they carry this share of the influence.",
    )
    edges.slider(
        "Influence kept by edges",
        0.5,
        1.0,
        session.thresholds.edge,
        0.01,
        key="edge threshold",
        on_change=_thresholds_moved,
        help="Of the kept nodes' edges, the strongest that carry this share are kept.",
    )
    replacement.metric("Replacement", percent(view.pruned.replacement_score), help=REPLACEMENT)
    completeness.metric("Completeness", percent(view.pruned.completeness_score), help=COMPLETENESS)
    st.caption(shown_sentence(view))


def _thresholds_moved() -> None:
    update_session(
        thresholds=Thresholds(
            st.session_state["node threshold"], st.session_state["edge threshold"]
        )
    )
