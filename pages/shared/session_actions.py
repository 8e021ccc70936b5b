"""Changes of the session that more than one page makes: pins, supernodes, scenarios."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import streamlit as st

from cache import Annotations, BoxPosition
from pages.shared.session import read_session, update_session
from tracer.interventions.scenario import Scenario
from tracer.types import NodeId, Supernode

_HISTORY: Final = "annotation history"
_HISTORY_OF: Final = "annotation history of"
_LONGEST_HISTORY: Final = 100


def toggle_pin(node: NodeId) -> None:
    """Pin a node, or remove its pin, also from a supernode; an empty supernode is removed too."""
    before = read_session().annotations
    after = _without(before, {node})
    if after == before:
        after = replace(before, pinned=(*before.pinned, node))
    annotate(after)


def pin_all(nodes: Sequence[NodeId]) -> None:
    """Pin every node that is not pinned yet."""
    session = read_session()
    added = tuple(node for node in nodes if node not in session.all_pinned)
    annotate(replace(session.annotations, pinned=(*session.pinned, *added)))


def group_pins(name: str, nodes: Sequence[NodeId]) -> None:
    """Make a supernode; its nodes leave the pins and any supernode they were in.

    Where a supernode of that name exists, the nodes are added to it.
    """
    before = read_session().annotations
    others = _without(before, set(nodes))
    same = next((group for group in before.supernodes if group.name == name), Supernode(name, ()))
    members = tuple(dict.fromkeys((*same.nodes, *nodes)))
    kept = tuple(group for group in others.supernodes if group.name != name)
    annotate(replace(others, supernodes=(*kept, replace(same, nodes=members))))


def ungroup(name: str) -> None:
    """Dissolve a supernode; its nodes stay pinned."""
    before = read_session().annotations
    freed = [n for group in before.supernodes if group.name == name for n in group.nodes]
    kept = tuple(group for group in before.supernodes if group.name != name)
    pinned = tuple(dict.fromkeys((*before.pinned, *freed)))
    annotate(replace(before, pinned=pinned, supernodes=kept))


def change_supernode(old: str, **changes: Any) -> None:
    """Rename, colour, expand or collapse a supernode.

    A new name that is empty or taken changes nothing.
    """
    before = read_session().annotations
    new = changes.get("name", old)
    taken = {group.name for group in before.supernodes} - {old}
    if not new or new in taken:
        return
    groups = tuple(
        replace(group, **changes) if group.name == old else group for group in before.supernodes
    )
    positions = tuple(p._replace(name=new) if p.name == old else p for p in before.positions)
    annotate(replace(before, supernodes=groups, positions=positions))


def move_box(name: str, x: float, y: float) -> None:
    """Keep where a box of the flow diagram was left."""
    before = read_session().annotations
    others = tuple(p for p in before.positions if p.name != name)
    annotate(replace(before, positions=(*others, BoxPosition(name, x, y))))


def unpin_all() -> None:
    """Remove every pin and supernode."""
    annotate(Annotations())


def _without(annotations: Annotations, nodes: set[NodeId]) -> Annotations:
    groups = (
        replace(group, nodes=tuple(n for n in group.nodes if n not in nodes))
        for group in annotations.supernodes
    )
    return replace(
        annotations,
        pinned=tuple(n for n in annotations.pinned if n not in nodes),
        supernodes=tuple(group for group in groups if group.nodes),
    )


def annotate(annotations: Annotations) -> None:
    """Change the annotations of the open graph, so that it can be undone."""
    before = read_session().annotations
    if annotations == before:
        return
    done, _ = _history()
    st.session_state[_HISTORY] = ([*done, before][-_LONGEST_HISTORY:], [])
    update_session(annotations=annotations)


def can_undo() -> bool:
    """Return whether a change of the annotations can be undone."""
    return bool(_history()[0])


def can_redo() -> bool:
    """Return whether an undone change can be made again."""
    return bool(_history()[1])


def undo() -> None:
    """Take back the latest change of the annotations."""
    done, undone = _history()
    if done:
        st.session_state[_HISTORY] = (done[:-1], [*undone, read_session().annotations])
        update_session(annotations=done[-1])


def redo() -> None:
    """Make the change again that was undone last."""
    done, undone = _history()
    if undone:
        st.session_state[_HISTORY] = ([*done, read_session().annotations], undone[:-1])
        update_session(annotations=undone[-1])


def _history() -> tuple[list[Annotations], list[Annotations]]:
    """Earlier annotations of the open graph, and those that were undone."""
    key = read_session().annotations_of
    if st.session_state.get(_HISTORY_OF) != key:
        st.session_state[_HISTORY_OF], st.session_state[_HISTORY] = key, ([], [])
    history: tuple[list[Annotations], list[Annotations]] = st.session_state[_HISTORY]
    return history


def change_scenario(number: int, old: Scenario, new: Scenario) -> None:
    """Replace ``old``, which the visitor saw in column ``number``, with ``new``.

    Does nothing if the column has changed meanwhile: two clicks can arrive at once.
    """
    scenarios = list(read_session().scenarios)
    if scenarios[number : number + 1] == [old]:
        scenarios[number] = new
        update_session(scenarios=tuple(scenarios))


def arrange_scenario(number: int, scenario: Scenario, step: str) -> None:
    """``duplicate`` or ``remove`` the scenario in column ``number``, or move it to the ``left``.

    Does nothing if the column has changed meanwhile.
    """
    scenarios = list(read_session().scenarios)
    if number >= len(scenarios) or _edited(scenarios[number]) != _edited(scenario):
        return
    scenario = scenarios[number]
    if step == "duplicate":
        scenarios.insert(number + 1, scenario)
    elif step == "remove":
        scenarios.pop(number)
    elif number > 0:
        scenarios[number - 1], scenarios[number] = scenario, scenarios[number - 1]
    update_session(scenarios=tuple(scenarios))


def _edited(scenario: Scenario) -> object:
    return scenario.edits, scenario.head_edits
