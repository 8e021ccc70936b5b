"""Pruning: the nodes and edges of a graph that matter, and its scores. Data only, no model.

The definitions are those of circuit-tracer 0.5 (`graph.py`), after "Circuit Tracing: Revealing
Computational Graphs in Language Models" (Ameisen et al., 2025, appendix on graph pruning). Here
they work on sparse rows, fast enough to be called on every move of a threshold slider.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from tracer.graph.graph import AttributionGraph
from tracer.graph.influence import node_influence, normalized_weights
from tracer.graph.nodes import BoolArray, FloatArray, IntArray
from tracer.types import NodeId, Thresholds


@dataclass(frozen=True)
class PrunedGraph:
    """The part of a graph that carries most of the influence on its targets.

    The arrays cover all rows (``node_*``) or all edges (``edge_*``) of ``graph``, so that what was
    pruned away can still be counted and shown.

    >>> import tracer
    >>> graph = tracer.trace(tracer.load("atlas", device="cpu"), "The capital of France is")
    >>> pruned = tracer.prune(graph)
    >>> 0 < len(pruned.nodes) < graph.n_nodes, pruned.replacement_score > 0.5
    (True, True)
    """

    graph: AttributionGraph
    thresholds: Thresholds
    node_mask: BoolArray
    """``(n_nodes,)``: whether each node is kept."""
    edge_mask: BoolArray
    """``(n_edges,)``: whether each edge is kept."""
    influence: FloatArray
    """``(n_nodes,)``: summed over all paths to the targets, which are weighted by probability."""
    cumulative_influence: FloatArray
    """``(n_nodes,)``: the share of all influence that this node and all stronger ones have; small
    means important. Neuronpedia calls it ``influence``."""
    replacement_score: float
    """The influence of tokens as a share of that of tokens and errors, 0 to 1, before pruning.
    Errors of generic nodes count as well."""
    completeness_score: float
    """The share of input that does not come from errors, 0 to 1, averaged over all nodes weighted
    by influence, before pruning."""

    @cached_property
    def rows(self) -> IntArray:
        """The kept rows of ``graph``, ascending."""
        return np.flatnonzero(self.node_mask)

    @cached_property
    def nodes(self) -> tuple[NodeId, ...]:
        """The kept nodes, in row order."""
        return tuple(self.graph.index.node(int(row)) for row in self.rows)

    @cached_property
    def edges(self) -> tuple[IntArray, IntArray, FloatArray]:
        """``(sources, targets, weights)`` of the kept edges, by rows of ``graph``."""
        kept = self.edge_mask
        return self.graph.sources[kept], self.graph.rows[kept], self.graph.weights[kept]

    def inputs(self, node: NodeId, limit: int | None = None) -> list[tuple[NodeId, float]]:
        """Return the kept edges into ``node`` as (source, weight), strongest first.

        Raises ``KeyError`` when the graph does not have the node.
        """
        sources, targets, weights = self.edges
        chosen = targets == self.graph.index.row(node)
        return self._strongest(sources[chosen], weights[chosen], limit)

    def outputs(self, node: NodeId, limit: int | None = None) -> list[tuple[NodeId, float]]:
        """Return the kept edges out of ``node`` as (target, weight), strongest first.

        Raises ``KeyError`` when the graph does not have the node.
        """
        sources, targets, weights = self.edges
        chosen = sources == self.graph.index.row(node)
        return self._strongest(targets[chosen], weights[chosen], limit)

    def _strongest(
        self, rows: IntArray, weights: FloatArray, limit: int | None
    ) -> list[tuple[NodeId, float]]:
        order = np.argsort(-np.abs(weights), kind="stable")[:limit]
        return [(self.graph.index.node(int(rows[i])), float(weights[i])) for i in order]


def prune(
    graph: AttributionGraph, node_threshold: float = 0.8, edge_threshold: float = 0.98
) -> PrunedGraph:
    """Keep the fewest nodes, then edges, that carry the given shares of the influence.

    Tokens and logits are always kept. Then features that lost their inputs, and features and errors
    without outputs, are removed until none is left. Generic nodes are treated as features, those
    that never had an input (their errors, biases) as errors.

    Raises :class:`tracer.errors.ThresholdError` for a threshold outside 0 to 1.

    >>> import tracer
    >>> graph = tracer.trace(tracer.load("atlas"), "The opposite of hot is")
    >>> few, more = prune(graph, node_threshold=0.5), prune(graph)
    >>> len(few.nodes) < len(more.nodes) < graph.n_nodes
    True
    >>> logit = few.nodes[-1]
    >>> source, weight = few.inputs(logit)[0]
    >>> (logit, weight) in few.outputs(source)
    True
    """
    thresholds = Thresholds(node_threshold, edge_threshold)
    n_nodes, index = graph.n_nodes, graph.index
    start = graph.target_weights
    influence = graph.influence.nodes

    node_mask = influence >= _threshold_score(influence, thresholds.node)
    node_mask[index.token_rows.start :] = True

    kept = _edges_between(graph, node_mask)
    rows, sources = graph.rows[kept], graph.sources[kept]
    shares = normalized_weights(rows, graph.weights[kept], n_nodes)
    reach = node_influence(index, rows, sources, shares, start, graph.depths) + start
    edge_scores = shares * reach[rows]
    strong = edge_scores >= _threshold_score(edge_scores, thresholds.edge)

    strong = _without_dead_ends(graph, node_mask, rows, sources, strong)
    edge_mask = np.zeros(graph.n_edges, bool)
    edge_mask[kept[strong]] = True
    replacement, completeness = _scores(graph)
    return PrunedGraph(
        graph=graph,
        thresholds=thresholds,
        node_mask=node_mask,
        edge_mask=edge_mask,
        influence=influence,
        cumulative_influence=_cumulative(influence),
        replacement_score=replacement,
        completeness_score=completeness,
    )


def without_pruning(graph: AttributionGraph) -> PrunedGraph:
    """Return a graph with everything kept, for graphs of other tools, which are pruned already.

    Only errors of MLPs without an edge are left out; dead ends stay.

    >>> import tracer
    >>> graph = tracer.trace(tracer.load("atlas"), "The opposite of hot is")
    >>> without_pruning(graph).edge_mask.all(), without_pruning(graph).thresholds
    (np.True_, Thresholds(node=1.0, edge=1.0))
    """
    index = graph.index
    touched = np.zeros(graph.n_nodes, bool)
    touched[graph.sources] = touched[graph.rows] = True
    touched[: index.error_rows.start] = True
    touched[index.token_rows.start :] = True
    replacement, completeness = _scores(graph)
    return PrunedGraph(
        graph=graph,
        thresholds=Thresholds(1.0, 1.0),
        node_mask=touched,
        edge_mask=np.ones(graph.n_edges, bool),
        influence=graph.influence.nodes,
        cumulative_influence=_cumulative(graph.influence.nodes),
        replacement_score=replacement,
        completeness_score=completeness,
    )


def with_nodes(pruned: PrunedGraph, nodes: Iterable[NodeId]) -> PrunedGraph:
    """Return the pruned graph with more nodes kept, and their edges to all kept nodes.

    Nodes that the graph does not have are ignored.

    >>> import tracer
    >>> graph = tracer.trace(tracer.load("atlas"), "The opposite of hot is")
    >>> pruned = tracer.prune(graph, node_threshold=0.3)
    >>> node = next(n for n in tracer.prune(graph).nodes if n not in pruned.nodes)
    >>> node in with_nodes(pruned, [node]).nodes
    True
    """
    graph = pruned.graph
    added = np.zeros(graph.n_nodes, bool)
    added[[graph.index.row(node) for node in nodes if node in graph.index]] = True
    added &= ~pruned.node_mask
    kept = pruned.node_mask | added
    new = (added[graph.rows] | added[graph.sources]) & kept[graph.rows] & kept[graph.sources]
    return replace(pruned, node_mask=kept, edge_mask=pruned.edge_mask | new)


def _threshold_score(scores: FloatArray, share: float) -> float:
    """Return the smallest of the fewest scores that together reach ``share`` of the sum."""
    if not len(scores):
        return 0.0
    descending = np.sort(scores)[::-1]
    total = descending.sum()
    if total <= 0:
        return 0.0
    reached = np.searchsorted(np.cumsum(descending) / total, share)
    return float(descending[min(int(reached), len(descending) - 1)])


def _edges_between(graph: AttributionGraph, node_mask: BoolArray) -> IntArray:
    """Return ``(n_kept,)`` edges, ascending, whose ends are both kept and whose weight is not 0.

    It goes row by row because most rows of a large graph are not kept.
    """
    parts = []
    for row in np.flatnonzero(node_mask & (np.diff(graph.indptr) > 0)):
        start, stop = graph.indptr[row], graph.indptr[row + 1]
        kept = node_mask[graph.sources[start:stop]] & (graph.weights[start:stop] != 0)
        parts.append(start + np.flatnonzero(kept))
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _without_dead_ends(
    graph: AttributionGraph,
    node_mask: BoolArray,
    rows: IntArray,
    sources: IntArray,
    strong: BoolArray,
) -> BoolArray:
    """Remove nodes that nothing flows through from ``node_mask``, in place.

    Nodes that are sources by nature need no inputs: errors, and generic nodes that have none in the
    unpruned graph. Returns the mask of the edges that remain.
    """
    index = graph.index
    n_nodes, inner = len(index), slice(0, index.token_rows.start)
    needs_input = np.zeros(n_nodes, bool)
    needs_input[index.feature_rows] = True
    needs_input[index.generic_rows] = (np.diff(graph.indptr) > 0)[index.generic_rows]
    while True:
        before = int(node_mask.sum())
        strong = strong & node_mask[rows] & node_mask[sources]
        has_output = np.bincount(sources[strong], minlength=n_nodes) > 0
        has_input = np.bincount(rows[strong], minlength=n_nodes) > 0
        node_mask[inner] &= has_output[inner]
        node_mask &= has_input | ~needs_input
        if int(node_mask.sum()) == before:
            return strong


def _cumulative(influence: FloatArray) -> FloatArray:
    total = influence.sum()
    cumulative = np.ones_like(influence)
    if total > 0:
        order = np.argsort(-influence, kind="stable")
        cumulative[order] = np.cumsum(influence[order]) / total
    return cumulative


def _scores(graph: AttributionGraph) -> tuple[float, float]:
    """Return the replacement and completeness scores of the unpruned graph, 0 to 1."""
    index, influence = graph.index, graph.influence.nodes
    tokens = influence[index.token_rows].sum()
    errors = influence[index.is_error].sum()
    reach = influence + graph.target_weights
    replacement = tokens / (tokens + errors) if tokens + errors > 0 else 1.0
    explained = (1 - graph.influence.from_errors) * reach
    completeness = explained.sum() / reach.sum() if reach.sum() > 0 else 1.0
    return float(replacement), float(completeness)
