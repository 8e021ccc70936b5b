"""Groups of features that can be edited together, named by the user or by their label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from charts.graph_view import GraphView
from charts.text import place, signed, times, token_text
from tracer.errors import InterventionError
from tracer.graph.graph import AttributionGraph
from tracer.interventions.head_edit import HeadEdit
from tracer.interventions.scenario import Edit, Operation, Scenario
from tracer.types import FeatureId, NodeId, Supernode


@dataclass(frozen=True)
class Group:
    """Features of one graph under one name."""

    name: str
    nodes: tuple[NodeId, ...]
    influence: float
    """Summed over the features, so a path through several of them counts several times."""


def feature_groups(view: GraphView) -> tuple[Group, ...]:
    """Group the kept features by name, most influential group first."""
    by_name: dict[str, list[NodeId]] = {}
    for node in view.pruned.nodes:
        if node.kind == "feature":
            by_name.setdefault(view.name(node), []).append(node)
    groups = [
        Group(name, tuple(sorted(nodes)), sum(view.influence(node) for node in nodes))
        for name, nodes in by_name.items()
    ]
    return tuple(sorted(groups, key=lambda group: (-group.influence, group.name)))


def own_groups(view: GraphView, supernodes: Sequence[Supernode]) -> tuple[Group, ...]:
    """Return the supernodes, then each other pinned or selected feature as its own group.

    Only features have activations to edit, so other nodes are left out, as are nodes the graph
    does not have (from a link to another graph).
    """
    index = view.pruned.graph.index
    named = [(group.name, group.nodes) for group in supernodes]
    grouped = {node for _, nodes in named for node in nodes}
    chosen = [view.selected] if view.selected is not None else []
    alone = dict.fromkeys([*sorted(view.pinned - grouped), *chosen])
    named += [(name, (node,)) for node, name in lone_names(view, alone).items()]
    groups = []
    for name, nodes in named:
        features = tuple(n for n in nodes if n.kind == "feature" and n in index)
        if features:
            influence = sum(view.influence(node) for node in features)
            groups.append(Group(name, features, influence))
    return tuple(groups)


def lone_names(view: GraphView, nodes: Iterable[NodeId]) -> dict[NodeId, str]:
    """Return unique names of single nodes, each with its place."""
    graph = view.pruned.graph
    names = {node: f"{view.name(node)} · {place(graph, node)}" for node in nodes}
    counts = Counter(names.values())
    return {
        node: name if counts[name] == 1 else f"{name} · {node.index}"
        for node, name in names.items()
    }


def group_of(groups: Sequence[Group], name: str) -> Group | None:
    """Return the group called ``name``, or None."""
    return next((group for group in groups if group.name == name), None)


@dataclass(frozen=True)
class EditGroup:
    """Edits of one scenario that change features of one name in the same way at one place."""

    operation: Operation
    value: float
    """The value of ``scale`` and ``add``. For ``set``, where each feature has its own: 0 or 1, for
    whether they are zero."""
    name: str
    token: str
    edits: tuple[Edit, ...]


def edit_groups(
    scenario: Scenario, graph: AttributionGraph, name_of: Callable[[FeatureId], str | None]
) -> tuple[EditGroup, ...]:
    """Group the edits of a scenario by operation, name and place, in the order of the edits."""
    by_kind: dict[tuple[Operation, float, str, str], list[Edit]] = {}
    for edit in scenario.edits:
        value = edit.value if edit.operation != "set" else float(edit.value != 0)
        name = name_of(edit.feature) or str(edit.feature)
        by_kind.setdefault((edit.operation, value, name, _place(edit, graph)), []).append(edit)
    return tuple(EditGroup(*key, tuple(edits)) for key, edits in by_kind.items())


def _place(edit: Edit, graph: AttributionGraph) -> str:
    n_pos = len(graph.tokens)
    start = edit.start + n_pos if edit.start < 0 else edit.start
    if not 0 <= start < n_pos:
        return f"position {edit.start}"
    text = token_text(graph.tokens[start])
    return f"{text} …" if edit.stop is None else text


def edit_line(group: EditGroup) -> str:
    """Describe an edit: ``"−2× about Texas at “Dallas” (3 features)"``."""
    line = f"{_operation(group)} {group.name} at “{group.token}”"
    return line if len(group.edits) == 1 else f"{line} ({len(group.edits)} features)"


def head_line(edit: HeadEdit, tokens: Sequence[str]) -> str:
    """Describe an edit of a head: ``"off: head L4 H0"``."""
    name = f"head L{edit.layer} H{edit.head}"
    if edit.operation != "score":
        return f"{'off' if edit.operation == 'off' else 'pattern frozen'}: {name}"
    try:
        query, key = (token_text(tokens[at]) for at in edit.positions(len(tokens)))
    except InterventionError:
        query, key = f"position {edit.query}", f"position {edit.key}"
    return f"add {signed(edit.value)} to the score of {name} from “{query}” to “{key}”"


def _operation(group: EditGroup) -> str:
    if group.value == 0 and group.operation != "add":
        return "off:"
    if group.operation == "scale":
        return times(group.value)
    return "set:" if group.operation == "set" else f"add {signed(group.value)} to"
