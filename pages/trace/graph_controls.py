"""Thresholds and filters of the graph. A change shows the new graph before the rest of the page.

The controls are fragments: a change runs only their code, which sends the graph alone, and then
draws the page. So the graph waits neither for the page's other elements to be drawn nor for the
browser to lay them out.
"""

from __future__ import annotations

from dataclasses import replace
from time import sleep
from typing import Final

import streamlit as st
from streamlit import runtime
from streamlit.runtime.scriptrunner import get_script_run_ctx

from charts.graph_view import DENSE, GraphFilter
from charts.text import percent
from pages.shared import kinds, resources, selection
from pages.shared.escape import plain
from pages.shared.graph_component import draw_graph_first
from pages.shared.graph_payloads import view_payload
from pages.shared.graph_view import session_view
from pages.shared.session import heard, read_session, set_widget, update_session
from tracer.graph.pruning import PrunedGraph
from tracer.types import Thresholds

_SHOWN: Final = 0.03
"""Seconds after which a browser that is not busy has begun to draw the graph. If the page were sent
sooner, the browser would draw both at once, the graph last."""


@st.fragment
def thresholds(key: str) -> None:
    """Draw the sliders for the graph stored under ``key``."""
    session = read_session()
    st.slider(
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
    st.slider(
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
    _graph_first("thresholds", key)


def _thresholds_moved() -> None:
    nodes, edges = st.session_state["node threshold"], st.session_state["edge threshold"]
    update_session(thresholds=Thresholds(nodes, edges))


@st.fragment
def filters(key: str, pruned: PrunedGraph) -> None:
    """Draw the switches for the graph stored under ``key``."""
    shown, last = read_session().filter, pruned.graph.n_layers - 1
    set_widget("filter errors", shown.errors)
    st.toggle(
        "Error nodes",
        key="filter errors",
        on_change=heard("filter errors", _filtered),
        help="The part of an MLP's output that the features do not reconstruct. Error nodes have "
        "no inputs.",
    )
    set_widget("filter dense", shown.max_density >= 1)
    st.toggle(
        "Dense features",
        key="filter dense",
        on_change=heard("filter dense", _filtered),
        help=f"Features that are active on more than {percent(DENSE)} of all tokens say little "
        "about one prompt. Only features with examples on this disk have a known density.",
    )
    set_widget("filter negative", shown.negative_only)
    st.toggle(
        "Only negative edges",
        key="filter negative",
        on_change=heard("filter negative", _filtered),
        help="Edges that lower their target: inhibition.",
    )
    generic = kinds.filterable(pruned)
    for entry in generic:
        switch = f"filter {entry.kind}"
        set_widget(switch, entry.kind not in shown.hidden_kinds)
        st.toggle(
            plain(f"{entry.name[:1].upper()}{entry.name[1:]} ({entry.total:,})"),
            key=switch,
            on_change=heard(switch, _kind_filtered),
            args=(entry.kind, switch),
            help="Only the tool that wrote this graph computes these nodes. They keep their part "
            "in influence and scores while they are hidden.",
        )
    if last > 0:
        set_widget("filter layers", shown.layers or (0, last))
        st.slider(
            "Layers",
            0,
            last,
            key="filter layers",
            on_change=heard("filter layers", _filtered),
            args=(last,),
        )
    if shown != GraphFilter():
        st.button("Show everything", key="no filter", on_click=_unfiltered, type="tertiary")
    _graph_first("filters", key)


def _filtered(last: int | None = None) -> None:
    state, before = st.session_state, read_session().filter
    layers = before.layers
    if last is not None:
        low, high = state["filter layers"]
        layers = None if (low, high) == (0, last) else (int(low), int(high))
    update_session(
        filter=replace(
            before,
            errors=bool(state["filter errors"]),
            max_density=1.0 if state["filter dense"] else DENSE,
            negative_only=bool(state["filter negative"]),
            layers=layers,
        )
    )


def _kind_filtered(kind: str, key: str) -> None:
    before = read_session().filter
    hidden = before.hidden_kinds - {kind} if st.session_state[key] else before.hidden_kinds | {kind}
    update_session(filter=replace(before, hidden_kinds=hidden))


def _unfiltered() -> None:
    update_session(filter=GraphFilter())


def _graph_first(name: str, key: str) -> None:
    """If a control was changed, show the graph as it is now, and then draw the page again."""
    context, session = get_script_run_ctx(), read_session()
    if context is None or not context.fragment_ids_this_run:
        draw_graph_first(name, b"")
        return
    if not (session.as_table or session.heads.as_view):
        try:
            view = session_view(session, resources.pruned_graph(key, session.thresholds))
        except KeyError:
            st.rerun()  # the graph has been deleted meanwhile, and the page says so
        draw_graph_first(name, view_payload("trace", key, view, selection.size()))
        if runtime.exists():
            sleep(_SHOWN)
    st.rerun()
