"""The graph of the prompt, in which a click chooses features to edit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import streamlit as st

from charts.edit_groups import Group
from charts.graph_view import GraphView, node_of
from pages.shared import selection
from pages.shared.graph_component import draw_graph
from pages.shared.graph_payloads import view_payload
from pages.shared.session import read_session
from tracer.types import NodeId

_HEIGHT: Final = 400
_SIZE: Final = (1080.0, float(_HEIGHT))


def draw(key: str, view: GraphView, groups: Mapping[str, Group], widget: str) -> None:
    """Draw the graph stored under ``key``; a click adds a node's group to a multiselect.

    ``groups`` are the options of the multiselect with the key ``widget``. A second click removes
    the group. Features that a scenario edits are hollow; chosen ones have a ring.
    """
    payload = view_payload("interventions", key, view, _SIZE, _HEIGHT)
    chosen = [groups[name] for name in st.session_state.get(widget, ()) if name in groups]
    edited = _edited(view)
    shown = selection.chosen(replace(view, selected=None), read_session())
    shown |= {
        "pinned": [str(node) for group in chosen for node in group.nodes],
        "off": [str(node) for node in edited],
        "groups": [],
    }

    def heard(event: dict[str, Any]) -> None:
        for each in selection.not_heard(event):
            node = node_of(each.get("id"))
            if each["type"] in ("select", "pin") and node is not None:
                _choose(node, groups, widget)

    draw_graph("interventions", payload, shown, heard)


def _edited(view: GraphView) -> list[NodeId]:
    """Return the nodes whose features some scenario edits at their position."""
    edited = {
        (edit.feature, position)
        for scenario in read_session().scenarios
        for edit in scenario.edits
        for position in edit.positions(len(view.pruned.graph.tokens))
    }
    return [
        node
        for node in view.pruned.nodes
        if node.kind == "feature" and (node.feature, node.position) in edited
    ]


def _choose(node: NodeId, groups: Mapping[str, Group], widget: str) -> None:
    """Add the first group that has ``node`` to the multiselect, or remove it."""
    name = next((name for name, group in groups.items() if node in group.nodes), None)
    if name is None:
        return
    names = list(st.session_state.get(widget, ()))
    st.session_state[widget] = (
        [other for other in names if other != name] if name in names else [*names, name]
    )
