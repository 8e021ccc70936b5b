"""The selected node, and the way to it: back and forward through what was clicked."""

from __future__ import annotations

from typing import Any, Final

import streamlit as st

from charts.graph_view import node_of
from pages.shared.session import read_session, update_session
from pages.shared.session_actions import group_pins, pin_all, toggle_pin
from tracer.types import NodeId

_TRAIL: Final = "selection trail"
_SERIAL: Final = "graph serial"
SIZE: Final = "graph size"
_LONGEST: Final = 200
FIRST_SIZE: Final = (800.0, 640.0)
"""Of the graph before the browser has told its own."""


def select(node: NodeId | None) -> None:
    """Select a node, and remember it for :func:`step_back`."""
    trail, place = _trail()
    if node is not None and (not trail or trail[place] != node):
        trail = [*trail[: place + 1], node][-_LONGEST:]
        st.session_state[_TRAIL] = (trail, len(trail) - 1)
    update_session(selected=node)


def can_step(by: int) -> bool:
    """Return whether there is a node ``by`` places further on in what was clicked."""
    trail, place = _trail()
    return 0 <= place + by < len(trail)


def step(by: int) -> None:
    """Select the node ``by`` places further on in what was clicked, without changing the order."""
    trail, place = _trail()
    if 0 <= place + by < len(trail):
        st.session_state[_TRAIL] = (trail, place + by)
        update_session(selected=trail[place + by])


def _trail() -> tuple[list[NodeId], int]:
    trail: tuple[list[NodeId], int] = st.session_state.get(_TRAIL, ([], 0))
    return trail


def serial() -> float:
    """Return the number of the last event that was heard from a graph."""
    return float(st.session_state.get(_SERIAL, 0.0))


def size() -> tuple[float, float]:
    """Return the size that the browser has for the graph."""
    found: tuple[float, float] = st.session_state.get(SIZE, FIRST_SIZE)
    return found


def graph_event(event: dict[str, Any]) -> None:
    """Do what a visitor did in the graph; anything a browser could make up is ignored."""
    number = event.get("serial")
    if isinstance(number, int | float):
        st.session_state[_SERIAL] = float(number)
    kind = event["type"]
    if kind == "size":
        sizes = [event.get("width"), event.get("height")]
        if all(isinstance(value, int | float) and 100 <= value <= 10_000 for value in sizes):
            st.session_state[SIZE] = (float(sizes[0]), float(sizes[1]))  # type: ignore[arg-type]
    elif kind == "select":
        node = node_of(event.get("id"))
        if node is not None or event.get("id") is None:
            select(node)
    elif kind == "pin":
        node = node_of(event.get("id"))
        if node is not None and (node in read_session().all_pinned) != bool(event.get("pinned")):
            toggle_pin(node)
    elif kind in ("group", "pin-all"):
        ids = event.get("ids")
        nodes = tuple(filter(None, map(node_of, ids if isinstance(ids, list) else [])))
        name = str(event.get("name") or "").strip()[:80]
        if nodes and kind == "group" and name:
            group_pins(name, nodes)
        elif nodes and kind == "pin-all":
            pin_all(nodes)
