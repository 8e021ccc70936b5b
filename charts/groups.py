"""Features of a graph that carry the same name: ready-made supernodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from charts.graph_view import GraphView
from charts.wording import token_text
from tracer.graph import AttributionGraph
from tracer.scenarios import Edit, Scenario
from tracer.types import FeatureId, NodeId


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


def group_of(groups: Sequence[Group], name: str) -> Group | None:
    """The group called ``name``."""
    return next((group for group in groups if group.name == name), None)


def transplant(
    graph: AttributionGraph, nodes: Sequence[NodeId], into: AttributionGraph
) -> tuple[Edit, ...]:
    """Set features of ``graph`` to the values they have there, in another prompt.

    Positions are matched from the end of both prompts. Raises ``ValueError`` when one of them lies
    before the beginning of ``into``.
    """
    index = graph.index
    shift = len(into.tokens) - len(graph.tokens)
    edits = []
    for node in nodes:
        position = node.position + shift
        if position < 1:
            raise ValueError(
                f"“{token_text(graph.tokens[node.position])}” stands {-shift} tokens before the "
                "beginning of this prompt: choose one that is no longer"
            )
        value = float(graph.activations[index.row(node)])
        edits.append(Edit(node.feature, position, position + 1, "set", value))
    return tuple(edits)


def edit_lines(
    scenario: Scenario, graph: AttributionGraph, name_of: Callable[[FeatureId], str | None]
) -> list[str]:
    """What a scenario changes, a line per name, operation and token."""
    lines: dict[str, int] = {}
    for edit in scenario.edits:
        inside = 0 <= edit.start < len(graph.tokens)
        token = token_text(graph.tokens[edit.start]) if inside else f"position {edit.start}"
        line = f"{_operation(edit)} {name_of(edit.feature) or edit.feature} at “{token}”"
        lines[line] = lines.get(line, 0) + 1
    return [line if count == 1 else f"{line} ({count} features)" for line, count in lines.items()]


def _operation(edit: Edit) -> str:
    value = f"{edit.value:g}".replace("-", "−")
    if edit.operation == "scale":
        return "off:" if edit.value == 0 else f"{value}×"
    if edit.operation == "set":
        return "off:" if edit.value == 0 else "put in:"
    return f"add {value} to"
