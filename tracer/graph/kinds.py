"""The kinds of nodes in a graph: readable names and counts, for legends, filters and lists."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

from tracer.graph.generic import GenericNode, is_error_kind
from tracer.graph.pruning import PrunedGraph
from tracer.types import COMPUTED_KINDS, NodeKind

_NAMES: Final = {
    "feature": ("feature", "features"),
    "error": ("MLP error", "MLP errors"),
    "token": ("token", "tokens"),
    "logit": ("logit", "logits"),
    "lorsa": ("attention feature (Lorsa)", "attention features (Lorsa)"),
    "lorsa error": ("attention error (Lorsa)", "attention errors (Lorsa)"),
    "bias": ("bias", "biases"),
    "unknown": ("source of an unknown kind", "sources of an unknown kind"),
}


@dataclass(frozen=True)
class KindCount:
    """A kind of node, and how many of them a graph has and keeps."""

    kind: NodeKind
    name: str
    """As a person reads it, in the plural."""
    kept: int
    """Nodes that pruning keeps."""
    total: int
    """Nodes in the graph; errors of MLPs only where they have an effect."""
    is_error: bool
    is_generic: bool
    """Whether only other tools compute it."""


def kind_name(kind: NodeKind, count: int = 1) -> str:
    """Return what a kind of node is called; a kind that is new here keeps its published name.

    >>> kind_name("lorsa"), kind_name("lorsa error", 2), kind_name("crosscoder", 3)
    ('attention feature (Lorsa)', 'attention errors (Lorsa)', 'crosscoder nodes')
    """
    if kind in _NAMES:
        return _NAMES[kind][count != 1]
    return f"{kind} node" if count == 1 else f"{kind} nodes"


def kind_counts(pruned: PrunedGraph) -> tuple[KindCount, ...]:
    """Return every kind of node that a graph has, in the order in which to list them.

    Features come first, then generic nodes by name, errors, tokens and logits.

    >>> import tracer
    >>> graph = tracer.trace(tracer.load("atlas"), "The opposite of hot is")
    >>> [entry.kind for entry in kind_counts(tracer.prune(graph))]
    ['feature', 'error', 'token', 'logit']
    """
    index = pruned.graph.index
    totals: Counter[NodeKind] = Counter(node.node.kind for node in index.generic)
    generic = sorted(totals, key=lambda kind: (is_error_kind(kind), kind))
    touched = {*pruned.graph.sources.tolist(), *pruned.rows.tolist()}
    totals["feature"] = index.n_features
    totals["error"] = sum(index.error_rows.start <= row < index.error_rows.stop for row in touched)
    totals["token"], totals["logit"] = index.n_positions, len(index.target_ids)
    kept = Counter(node.kind for node in pruned.nodes)
    feature, *others = COMPUTED_KINDS
    return tuple(
        KindCount(
            kind=kind,
            name=kind_name(kind, 2),
            kept=kept[kind],
            total=totals[kind],
            is_error=kind == "error" or (kind in generic and is_error_kind(kind)),
            is_generic=kind in generic,
        )
        for kind in (feature, *generic, *others)
        if totals[kind]
    )


def generic_name(node: GenericNode) -> str:
    """Return what to call a generic node: its published label, or its kind and number.

    >>> generic_name(GenericNode("lorsa", 3, 8, 417, "3_lor_417_8"))
    'attention feature (Lorsa) 417'
    >>> generic_name(GenericNode("bias", 3, 8, -1, "3_bias_attn_bO_8", "L3 Bias (attn_bO)"))
    'L3 Bias (attn_bO)'
    """
    if node.is_error:
        return f"{kind_name(node.kind)} of layer {node.layer}"
    if node.label.strip():
        return node.label.strip()
    name = kind_name(node.kind)
    return f"{name} {node.index}" if node.index >= 0 else f"{name} of layer {node.layer}"
