"""Two compared graphs as one drawing: columns are aligned tokens, colours say whose a node is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from charts.drawing import Drawing, DrawnNode
from charts.text import percent, target_number, token_text, truncate
from tracer.graph.comparison import ComparedNode, Comparison
from tracer.graph.generic import is_error_kind
from tracer.graph.kinds import kind_name
from tracer.types import COMPUTED_KINDS

Name = Callable[[ComparedNode], str]


def comparison_drawing(comparison: Comparison, name: Name) -> Drawing:
    """Return the merged graph; a node's id is ``merged-`` and its place in ``comparison.nodes``.

    An edge has the weight of the graph in which it is stronger, and the colour of the graph that
    has it: dark where both do.
    """
    left, right = comparison.left_weights, comparison.right_weights
    sides = np.where(left == 0, "right", np.where(right == 0, "left", "both"))
    return Drawing(
        nodes=tuple(
            _drawn(comparison, number, node, name) for number, node in enumerate(comparison.nodes)
        ),
        columns=tuple(column_text(column) for column in comparison.columns),
        n_layers=max(comparison.left.graph.n_layers, comparison.right.graph.n_layers),
        sources=comparison.sources,
        targets=comparison.targets,
        weights=np.where(np.abs(left) >= np.abs(right), left, right),
        edge_groups=tuple(sides.tolist()),
    )


def column_text(column: str, between: str = " / ") -> str:
    """Return the tokens of a column, cleaned up: ``"Dallas / Oakland"``."""
    return between.join(token_text(part) for part in column.split(" / "))


def _drawn(comparison: Comparison, number: int, node: ComparedNode, name: Name) -> DrawnNode:
    text, label = name(node), ""
    sides = {"both": "both", "left": "left only", "right": "right only"}
    place = sides[node.side]
    if node.kind == "logit":
        label = f"{truncate(text, 24)} {_probabilities(comparison, node)}"
    elif node.kind == "feature":
        label = text
        place += f" · layer {node.layer} · {node.feature}"
        place += f" · activation {_activation(node.activation[0])} → "
        place += _activation(node.activation[1])
    elif node.kind not in COMPUTED_KINDS:
        label = "" if is_error_kind(node.kind) else text
        place += f" · layer {node.layer} · {kind_name(node.kind)}"
    if node.kind != "token":
        place += f" · influence {percent(node.influence[0])} → {percent(node.influence[1])}"
    return DrawnNode(
        id=f"merged-{number}",
        kind=node.kind,
        layer=node.layer,
        position=node.slot,
        influence=max(node.influence),
        name=text,
        label=label,
        place=place,
        group=node.side,
    )


def _activation(value: float) -> str:
    return "unknown" if np.isnan(value) else f"{value:.2f}"


def _probabilities(comparison: Comparison, node: ComparedNode) -> str:
    """The probability of an answer: in both graphs where both explain it."""
    texts = []
    for pruned, nodes in ((comparison.left, node.left), (comparison.right, node.right)):
        graph = pruned.graph
        texts += [percent(graph.targets[target_number(graph, n)].probability) for n in nodes]
    return " / ".join(texts)
