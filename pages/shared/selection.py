"""The selected node, back and forward through earlier ones, and events of the graph."""

from __future__ import annotations

from typing import Any, Final

import streamlit as st

from charts.graph_view import GraphView, node_of
from pages.shared.session import read_session, update_session
from pages.shared.session_actions import group_pins, move_box, pin_all, toggle_pin
from pages.shared.session_state import Session
from pages.shared.supernode_colours import colour_of
from tracer.types import NodeId

_TRAIL: Final = "selection trail"
_SERIAL: Final = "graph serial"
SIZE: Final = "graph size"
_LONGEST: Final = 200
FIRST_SIZE: Final = (800.0, 640.0)
"""Size of the graph until the browser has reported its own."""


def select(node: NodeId | None) -> None:
    """Select a node, and remember it for :func:`step`."""
    before = read_session().selected
    for visited in (before, node):  # the first node may come from a link
        trail, place = _trail()
        if visited is not None and (not trail or trail[place] != visited):
            trail = [*trail[: place + 1], visited][-_LONGEST:]
            st.session_state[_TRAIL] = (trail, len(trail) - 1)
    update_session(selected=node)


def can_step(by: int) -> bool:
    """Return whether the trail of selected nodes has one ``by`` steps from here."""
    trail, place = _trail()
    return 0 <= place + by < len(trail)


def step(by: int) -> None:
    """Select the node ``by`` steps along the trail, which stays as it is."""
    trail, place = _trail()
    if 0 <= place + by < len(trail):
        st.session_state[_TRAIL] = (trail, place + by)
        update_session(selected=trail[place + by])


def _trail() -> tuple[list[NodeId], int]:
    trail: tuple[list[NodeId], int] = st.session_state.get(_TRAIL, ([], 0))
    return trail


def serial() -> float:
    """Return the number of the last event received from a graph."""
    return float(st.session_state.get(_SERIAL, 0.0))


def heard(number: float) -> None:
    """Remember the number of an event received from a graph."""
    st.session_state[_SERIAL] = number


def size() -> tuple[float, float]:
    """Return the size the browser has for the graph."""
    found: tuple[float, float] = st.session_state.get(SIZE, FIRST_SIZE)
    return found


def chosen(view: GraphView, session: Session) -> dict[str, Any]:
    """Return the selected, pinned, edited and grouped nodes in the form the component takes."""
    return {
        "selected": None if view.selected is None else str(view.selected),
        "pinned": [str(node) for node in session.pinned],
        "off": [str(node) for node in session.off],
        "groups": [
            {"colour": colour_of(group, number), "ids": [str(node) for node in group.nodes]}
            for number, group in enumerate(session.supernodes)
        ],
        "serial": serial(),
    }


def not_heard(event: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the events of a graph's message that have not been heard yet, and remember them.

    Of two messages that come before the next run, Streamlit passes on the second alone. So each one
    has the events ``before`` it that the browser has no answer to.
    """
    before = event.get("before")
    events = []
    for each in (*(before if isinstance(before, list) else ()), event):
        if not isinstance(each, dict) or not isinstance(each.get("type"), str):
            continue
        number = each.get("serial")
        if isinstance(number, int | float):
            if each is not event and number <= serial():
                continue
            heard(float(number))
        elif each is not event:
            continue
        events.append(each)
    return events


def graph_event(event: dict[str, Any]) -> None:
    """Carry out what a visitor did in the graph; ignore anything else a browser might send."""
    for each in not_heard(event):
        _carry_out(each)


def _carry_out(event: dict[str, Any]) -> None:
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


def head_event(event: dict[str, Any]) -> None:
    """Go back or forward through what was selected, or carry out what the graph would."""
    if event["type"] != "step":
        graph_event(event)
    elif event.get("by") in (-1, 1):
        step(event["by"])


def flow_event(event: dict[str, Any]) -> None:
    """Keep where a box of the flow diagram was dropped, or carry out what the graph would."""
    name, x, y = event.get("name"), event.get("x"), event.get("y")
    if event["type"] != "move":
        graph_event(event)
    elif isinstance(name, str) and isinstance(x, int | float) and isinstance(y, int | float):
        move_box(name[:200], min(1.0, max(0.0, float(x))), min(5000.0, max(0.0, float(y))))
