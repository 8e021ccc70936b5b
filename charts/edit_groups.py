"""Groups of a graph's features that can be edited together: named by a person, or by a label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from charts.graph_view import GraphView
from charts.text import place, token_text
from tracer.graph.graph import AttributionGraph
from tracer.interventions.scenario import Edit, Operation, Scenario
from tracer.types import FeatureId, NodeId, Supernode


@dataclass(frozen=True)
class Group:
    """Kept features of one graph that share a name."""

    name: str
    nodes: tuple[NodeId, ...]
    influence: float
    """Summed over its features, so that paths through several of them count several times."""


def feature_groups(view: GraphView) -> tuple[Group, ...]:
    """The kept features by name, the group of most influence first."""
    found: dict[str, list[NodeId]] = {}
    for node in view.pruned.nodes:
        if node.kind == "feature":
            found.setdefault(view.name(node), []).append(node)
    groups = [
        Group(name, tuple(sorted(nodes)), sum(view.influence(node) for node in nodes))
        for name, nodes in found.items()
    ]
    return tuple(sorted(groups, key=lambda group: (-group.influence, group.name)))


def own_groups(view: GraphView, supernodes: Sequence[Supernode]) -> tuple[Group, ...]:
    """What a person marked: supernodes, then each other pinned or selected feature alone.

    Only features have activations, so a group holds only those; nodes that the graph does not have
    (the link is from another one) are left out.
    """
    index = view.pruned.graph.index
    found = [(group.name, group.nodes) for group in supernodes]
    grouped = {node for _, nodes in found for node in nodes}
    chosen = [view.selected] if view.selected is not None else []
    alone = dict.fromkeys([*sorted(view.pinned - grouped), *chosen])
    found += [(name, (node,)) for node, name in lone_names(view, alone).items()]
    groups = []
    for name, nodes in found:
        features = tuple(n for n in nodes if n.kind == "feature" and n in index)
        if features:
            influence = sum(view.influence(node) for node in features)
            groups.append(Group(name, features, influence))
    return tuple(groups)


def lone_names(view: GraphView, nodes: Iterable[NodeId]) -> dict[NodeId, str]:
    """Names of nodes that stand for themselves: each with its place, and no two alike."""
    graph = view.pruned.graph
    names = {node: f"{view.name(node)} · {place(graph, node)}" for node in nodes}
    counts = Counter(names.values())
    return {
        node: name if counts[name] == 1 else f"{name} · {node.index}"
        for node, name in names.items()
    }


def group_of(groups: Sequence[Group], name: str) -> Group | None:
    """The group called ``name``."""
    return next((group for group in groups if group.name == name), None)


@dataclass(frozen=True)
class EditGroup:
    """Edits of one scenario that do the same to features of one name at one place."""

    operation: Operation
    value: float
    """Of ``scale`` and ``add``; for ``set``, where every feature has its own, 0 or not."""
    name: str
    token: str
    edits: tuple[Edit, ...]


def edit_groups(
    scenario: Scenario, graph: AttributionGraph, name_of: Callable[[FeatureId], str | None]
) -> tuple[EditGroup, ...]:
    """What a scenario changes, by name, operation and place, in the order of the edits."""
    found: dict[tuple[Operation, float, str, str], list[Edit]] = {}
    for edit in scenario.edits:
        value = edit.value if edit.operation != "set" else float(edit.value != 0)
        name = name_of(edit.feature) or str(edit.feature)
        found.setdefault((edit.operation, value, name, _place(edit, graph)), []).append(edit)
    return tuple(EditGroup(*key, tuple(edits)) for key, edits in found.items())


def _place(edit: Edit, graph: AttributionGraph) -> str:
    n_pos = len(graph.tokens)
    start = edit.start + n_pos if edit.start < 0 else edit.start
    if not 0 <= start < n_pos:
        return f"position {edit.start}"
    text = token_text(graph.tokens[start])
    return f"{text} …" if edit.stop is None else text


def edit_line(group: EditGroup) -> str:
    """``"−2× about Texas at “Dallas” (3 features)"``."""
    line = f"{_operation(group)} {group.name} at “{group.token}”"
    return line if len(group.edits) == 1 else f"{line} ({len(group.edits)} features)"


def _operation(group: EditGroup) -> str:
    value = f"{group.value:g}".replace("-", "−")
    if group.operation == "scale":
        return "off:" if group.value == 0 else f"{value}×"
    if group.operation == "set":
        return "off:" if group.value == 0 else "put in:"
    return f"add {value} to"
