"""Pins and supernodes of a trace: chosen by click, in the panel or by search, and saved with it."""

from __future__ import annotations

from typing import Final

import streamlit as st

from cache import Annotations
from charts.edit_groups import lone_names
from charts.flow_figure import flow_figure, flow_groups
from charts.graph_view import GraphView
from charts.palette import Palette
from charts.text import plural
from pages.shared.escape import plain
from pages.shared.session import read_session, set_widget, update_session
from pages.shared.session_actions import group_pins, rename_supernode, ungroup
from pages.shared.session_state import Session
from tracer.types import NodeId

_SEARCH: Final = "pinned nodes"
_MEMBERS: Final = "supernode members"
_NAME: Final = "supernode name"
_CONFIG: Final = {"displayModeBar": False, "staticPlot": False}
SUPERNODE: Final = "A supernode is a named group of nodes that is shown and edited as one."


def draw(view: GraphView, session: Session, theme: Palette) -> None:
    """Draw the search, the supernodes, and the flow diagram of everything pinned."""
    annotated = bool(session.annotations)
    st.markdown("##### Pinned nodes" if annotated else "##### Pin nodes")
    if not annotated:
        st.caption(
            "Pin nodes in the panel, with **Pin on click**, or by searching below; group several "
            "into a supernode. They get a diagram of their own and are saved with the trace."
        )
    with st.container(key="pins", gap="small"):
        _search(view, session)
        if session.pinned:
            _group(view, session)
        for number, group in enumerate(session.supernodes):
            _supernode(number, group.name, len(group.nodes))
        groups = flow_groups(view, session.supernodes)
        if annotated and len(groups) > 1:
            figure = flow_figure(view, groups, theme)
            st.plotly_chart(figure, key="flow", theme=None, config=_CONFIG)
            st.caption(
                "Direct effects between pinned nodes and the top next token, summed per box."
            )


def _options(view: GraphView) -> dict[NodeId, str]:
    """Return every node that can be pinned with its name, the drawn ones first."""
    index = view.pruned.graph.index
    rows = [*reversed(view.rows), *range(index.n_features)]
    nodes = dict.fromkeys(index.node(row) for row in rows)
    return lone_names(view, nodes)


def _search(view: GraphView, session: Session) -> None:
    options = _options(view)
    index = view.pruned.graph.index
    set_widget(_SEARCH, [node for node in session.pinned if node in index])
    st.multiselect(
        "Pinned nodes",
        list(options),
        key=_SEARCH,
        format_func=lambda node: options.get(node, str(node)),
        on_change=_searched,
        placeholder="Search features, tokens and next tokens",
        label_visibility="collapsed",
    )


def _searched() -> None:
    pinned = tuple(st.session_state[_SEARCH])
    session = read_session()
    update_session(annotations=Annotations(pinned, session.supernodes))


def _group(view: GraphView, session: Session) -> None:
    group = st.popover("Create supernode", key="name several", on_change="rerun", help=SUPERNODE)
    if not group.open:  # drawn only when open, with the pins of that moment
        return
    with group:
        pinned = [node for node in session.pinned if node in view.pruned.graph.index]
        names = lone_names(view, pinned)
        if _MEMBERS not in st.session_state:
            set_widget(_MEMBERS, pinned)
        st.multiselect(
            "Nodes",
            pinned,
            key=_MEMBERS,
            format_func=lambda node: names.get(node, str(node)),
        )
        st.text_input("Supernode name", key=_NAME, placeholder="for example: Texas")
        st.button("Create", key="make supernode", type="primary", on_click=_create)


def _create() -> None:
    name, nodes = st.session_state[_NAME].strip(), tuple(st.session_state[_MEMBERS])
    if name and nodes:
        group_pins(name, nodes)
        st.session_state[_NAME] = ""


def _supernode(number: int, name: str, size: int) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"**{plain(name)}** :gray[{plural(size, 'node')}]", width="stretch")
        with st.popover("Rename", key=f"rename supernode {number}"):
            key = f"supernode {number} {name}"
            st.text_input("Name", value=name, key=key, on_change=_renamed, args=(name, key))
        st.button("Ungroup", key=f"ungroup {number} {name}", on_click=ungroup, args=(name,))


def _renamed(name: str, key: str) -> None:
    rename_supernode(name, str(st.session_state[key]).strip())
