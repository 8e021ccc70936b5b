"""The graph with its thresholds and filters, as a picture or as tables."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import streamlit as st

from charts.graph_table import edge_table, node_table
from charts.graph_view import GraphFilter, GraphView, shown_sentence
from charts.text import percent
from pages.shared import graph_download, kinds, selection, stored_graph
from pages.shared.escape import plain
from pages.shared.graph_component import draw_graph
from pages.shared.graph_payloads import view_payload
from pages.shared.session import heard, read_session, set_widget, update_session
from pages.shared.session_state import Session
from pages.trace import carried_by, graph_controls, heads_view

REPLACEMENT: Final = (
    "Replacement score: share of the influence on the output that starts at prompt tokens rather "
    "than at error nodes, the part of the MLPs' output that the features do not reconstruct. "
    "Higher is better."
)
COMPLETENESS: Final = (
    "Completeness score: share of the input to the graph's nodes, weighted by their influence, "
    "that comes from features and tokens rather than from error nodes. Higher is better."
)


def draw(key: str, view: GraphView, session: Session) -> None:
    """Draw the controls, the graph or its tables, and how much of the graph is shown."""
    with st.container(horizontal=True, vertical_alignment="center", key="graph tools", gap="small"):
        with st.popover("Thresholds", key="thresholds", type="tertiary"):
            graph_controls.thresholds(key)
        active = session.filter != GraphFilter()
        with st.popover("Filters •" if active else "Filters", key="filters", type="tertiary"):
            graph_controls.filters(key, view.pruned)
        set_widget("graph as", _shown(session))
        st.segmented_control(
            "Show as",
            ["Graph", "Table", "Heads"],
            key="graph as",
            required=True,
            label_visibility="collapsed",
            on_change=heard("graph as", _shown_as),
        )
        _share(key, session)
        text = "\n\n".join((REPLACEMENT, COMPLETENESS, *kinds.score_notes(view.pruned)))
        st.caption(_scores(view), help=text, width="stretch")
    if session.heads.as_view:
        heads_view.draw(key, view, session)
    elif session.as_table:
        _table(view)
    else:
        payload = view_payload("trace", key, view, selection.size())
        draw_graph("trace", payload, selection.chosen(view, session), carried_by.graph_event)
    kinds.draw_legend(view.pruned)
    computed = stored_graph.computed_sentence(view.pruned.graph)
    st.caption(plain(f"{shown_sentence(view)} {computed}"))


def _share(key: str, session: Session) -> None:
    thresholds, annotations = session.thresholds, session.annotations

    def content() -> bytes:
        """Build the file, only when the button is clicked."""
        return graph_download.shared_file(key, thresholds, annotations)

    st.download_button(
        "Share as one file",
        content,
        "graph.html",
        "text/html",
        key="share graph",
        type="tertiary",
        on_click="ignore",
        help="One file with this graph, its feature cards, pins and supernodes. It opens in any "
        "browser, without a server or network.",
    )


def _scores(view: GraphView) -> str:
    replacement = percent(view.pruned.replacement_score)
    return f"Replacement {replacement} · completeness {percent(view.pruned.completeness_score)}"


def _shown(session: Session) -> str:
    if session.heads.as_view:
        return "Heads"
    return "Table" if session.as_table else "Graph"


def _shown_as() -> None:
    chosen, heads = st.session_state["graph as"], read_session().heads
    heads = replace(heads, as_view=chosen == "Heads")
    update_session(as_table=chosen == "Table", heads=heads)


def _table(view: GraphView) -> None:
    """Draw the same nodes and edges as tables, for screen readers and for copying."""
    nodes, edges = node_table(view), edge_table(view)
    share = st.column_config.ProgressColumn
    picked = st.dataframe(
        nodes.drop(columns="id"),
        key="node table",
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        height=420,
        column_config={
            "influence": share(format="percent", min_value=0.0, max_value=1.0),
            "activation": st.column_config.NumberColumn(format="%.2f"),
        },
    )
    rows = picked["selection"]["rows"]
    if rows:
        node = view.pruned.graph.index.node(view.rows[int(nodes.index[rows[0]])])
        if node != view.selected:
            selection.select(node)
            st.rerun()
    st.dataframe(
        edges,
        key="edge table",
        hide_index=True,
        height=300,
        column_config={"weight": st.column_config.NumberColumn(format="%.3g")},
    )
