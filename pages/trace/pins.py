"""Pins and supernodes of a trace: the list, the scores, and the flow diagram."""

from __future__ import annotations

from typing import Final

import streamlit as st

from charts.flow_figure import flow_data, flow_groups
from charts.graph_view import GraphView
from charts.text import percent, place, plural
from pages.shared import selection
from pages.shared.escape import plain
from pages.shared.graph_component import draw_flow
from pages.shared.session_actions import (
    can_redo,
    can_undo,
    change_supernode,
    group_pins,
    redo,
    toggle_pin,
    undo,
    ungroup,
    unpin_all,
)
from pages.shared.session_state import Session
from pages.shared.supernode_colours import colour_of
from pages.trace import link_marks
from tracer.graph.subgraph_scores import subgraph_scores
from tracer.types import NodeId, Supernode

_SCORES: Final = (
    "Scores of the pinned subgraph: every feature that is not pinned counts as error "
    "(Neuronpedia's definition). Pin what matters until they come close to those of the full "
    "graph."
)


def draw(key: str, view: GraphView, session: Session) -> None:
    """Draw the pinned subgraph; without pins, only a hint."""
    link_marks.draw_outcome()
    if not session.annotations:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.caption(
                "**Pin what matters**: shift-click a node, press P, or draw around several with "
                "the ◌ tool to group them into a supernode. Pins are saved with the trace.",
                width="stretch",
            )
            link_marks.draw(view.pruned.graph)
            _undo_buttons()
        return
    with st.container(horizontal=True, vertical_alignment="center", key="pins head"):
        st.markdown("##### Pinned", width="content")
        _scores(view, session)
        link_marks.draw(view.pruned.graph)
        _undo_buttons()
        st.button("Unpin all", key="unpin all", on_click=unpin_all, type="tertiary")
    left, right = st.columns([1, 1.9], gap="medium")
    with left, st.container(key="pins", gap="small"):
        for number, group in enumerate(session.supernodes):
            _supernode(number, group, view)
        _pinned(view, session)
    with right:
        groups = flow_groups(view, session.supernodes)
        if len(groups) > 1:
            positions = {p.name: (p.x, p.y) for p in session.annotations.positions}
            draw_flow("trace", flow_data(view, groups, positions), selection.flow_event)
            st.caption(
                "Direct effects between the boxes, summed over their nodes. Drag a box to move it."
            )


def _undo_buttons() -> None:
    for label, act, possible, title in (
        ("↶", undo, can_undo(), "Undo the last change to the pins"),
        ("↷", redo, can_redo(), "Redo"),
    ):
        st.button(
            label,
            key=f"{act.__name__} pins",
            on_click=act,
            disabled=not possible,
            type="tertiary",
            help=title,
        )


def _scores(view: GraphView, session: Session) -> None:
    scores = subgraph_scores(view.pruned.graph, session.all_pinned)
    st.caption(
        f"replacement **{percent(scores.replacement)}** of "
        f"{percent(view.pruned.replacement_score)} · completeness "
        f"**{percent(scores.completeness)}** of {percent(view.pruned.completeness_score)}",
        help=_SCORES,
        width="stretch",
    )


def _supernode(number: int, group: Supernode, view: GraphView) -> None:
    count = plural(len(group.nodes), "node")
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.color_picker(
            "Colour",
            colour_of(group, number),
            key=f"colour {number} {group.name}",
            label_visibility="collapsed",
            on_change=_coloured,
            args=(group.name, f"colour {number} {group.name}"),
            width="content",
        )
        st.markdown(f"**{plain(group.name)}** :gray[{count}]", width="stretch")
        with st.popover("Edit", key=f"edit supernode {number}", type="tertiary"):
            key = f"supernode {number} {group.name}"
            st.text_input(
                "Name", value=group.name, key=key, on_change=_renamed, args=(group.name, key)
            )
            key = f"expand {number} {group.name} {group.is_expanded}"
            st.toggle(
                "Show each node in the diagram",
                group.is_expanded,
                key=key,
                on_change=_expanded,
                args=(group.name, key),
            )
            for node in group.nodes:
                _node_line(node, view, f"member {number}")
            st.button("Ungroup", key=f"ungroup {number}", on_click=ungroup, args=(group.name,))


def _pinned(view: GraphView, session: Session) -> None:
    index = view.pruned.graph.index
    pinned = [node for node in session.pinned if node in index]
    for node in pinned:
        _node_line(node, view, "pinned")
    if len(pinned) > 1:
        with st.popover("Create supernode", key="create supernode", type="tertiary"):
            st.text_input(
                "Name",
                key="supernode name",
                placeholder="for example: Texas",
                on_change=_grouped,
                args=(tuple(pinned),),
                help="Groups all pinned nodes that are not in a supernode yet.",
            )


def _node_line(node: NodeId, view: GraphView, key: str) -> None:
    known = node in view.pruned.graph.index
    name = view.name(node) if known else str(node)
    where = place(view.pruned.graph, node) if known else "not in this graph"
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.button(
            f"{plain(name)} :gray[{plain(where)}]",
            key=f"{key} {node}",
            type="tertiary",
            on_click=selection.select,
            args=(node,),
            width="stretch",
        )
        st.button(
            "✕", key=f"unpin {key} {node}", type="tertiary", on_click=toggle_pin, args=(node,),
            help="Unpin",
        )  # fmt: skip


def _coloured(name: str, key: str) -> None:
    change_supernode(name, colour=str(st.session_state[key]))


def _expanded(name: str, key: str) -> None:
    is_expanded = st.session_state.get(key)
    if is_expanded is not None:
        change_supernode(name, is_expanded=bool(is_expanded))


def _renamed(name: str, key: str) -> None:
    change_supernode(name, name=str(st.session_state[key]).strip()[:80])


def _grouped(nodes: tuple[NodeId, ...]) -> None:
    name = str(st.session_state["supernode name"]).strip()[:80]
    if name:
        group_pins(name, nodes)
        st.session_state["supernode name"] = ""
