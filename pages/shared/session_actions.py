"""Changes of the session that more than one page makes: pins, supernodes, scenarios."""

from __future__ import annotations

from dataclasses import replace

from cache import Annotations
from pages.shared.session import read_session, update_session
from tracer.interventions.scenario import Scenario
from tracer.types import NodeId, Supernode


def toggle_pin(node: NodeId) -> None:
    """Pin a node, or unpin it.

    Unpinning also takes it out of its supernode, and removes the supernode if that leaves it empty.
    """
    annotations = read_session().annotations
    pinned = tuple(n for n in annotations.pinned if n != node)
    groups = tuple(
        replace(group, nodes=tuple(n for n in group.nodes if n != node))
        for group in annotations.supernodes
    )
    if (pinned, groups) == (annotations.pinned, annotations.supernodes):
        pinned += (node,)
    update_session(annotations=Annotations(pinned, tuple(group for group in groups if group.nodes)))


def group_pins(name: str, nodes: tuple[NodeId, ...]) -> None:
    """Group nodes into the supernode ``name``, which may exist already.

    They leave the pins, and any supernode they were in.
    """
    annotations, moved = read_session().annotations, set(nodes)
    others = [
        replace(group, nodes=tuple(n for n in group.nodes if n not in moved))
        for group in annotations.supernodes
    ]
    kept = tuple(group for group in others if group.nodes and group.name != name)
    same = next((group.nodes for group in others if group.name == name), ())
    update_session(
        annotations=Annotations(
            tuple(n for n in annotations.pinned if n not in moved),
            (*kept, Supernode(name, (*same, *nodes))),
        )
    )


def ungroup(name: str) -> None:
    """Dissolve a supernode; its nodes stay pinned."""
    annotations = read_session().annotations
    freed = [n for group in annotations.supernodes if group.name == name for n in group.nodes]
    kept = tuple(group for group in annotations.supernodes if group.name != name)
    pinned = tuple(dict.fromkeys((*annotations.pinned, *freed)))
    update_session(annotations=Annotations(pinned, kept))


def rename_supernode(old: str, new: str) -> None:
    """Rename a supernode, unless ``new`` is empty or taken."""
    annotations = read_session().annotations
    if new and new not in {group.name for group in annotations.supernodes}:
        renamed = tuple(
            replace(group, name=new) if group.name == old else group
            for group in annotations.supernodes
        )
        update_session(annotations=replace(annotations, supernodes=renamed))


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
    if number >= len(scenarios) or scenarios[number].edits != scenario.edits:
        return
    scenario = scenarios[number]
    if step == "duplicate":
        scenarios.insert(number + 1, scenario)
    elif step == "remove":
        scenarios.pop(number)
    elif number > 0:
        scenarios[number - 1], scenarios[number] = scenario, scenarios[number - 1]
    update_session(scenarios=tuple(scenarios))
