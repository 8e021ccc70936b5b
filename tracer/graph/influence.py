"""The influence of every node on the targets. Data only.

Influence is ``start @ (A + A² + …)``, where ``A`` has the absolute weights, normalised by row, and
``start`` the probabilities of the targets (circuit-tracer 0.5, `graph.py`; "Circuit Tracing",
Ameisen et al., 2025, appendix on graph pruning).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from tracer.graph.nodes import FloatArray, IntArray, NodeIndex

EPSILON: Final = 1e-10
"""The smallest sum of absolute weights that a row is divided by."""


@dataclass(frozen=True)
class GraphInfluence:
    """Influence in an unpruned graph: computed once, whatever the pruning thresholds."""

    nodes: FloatArray
    """``(n_nodes,)`` float64: the influence of every node."""
    from_errors: FloatArray
    """``(n_nodes,)`` float64: the share of every node's input that comes from errors, 0 to 1."""


def normalized_weights(rows: IntArray, weights: FloatArray, n_nodes: int) -> FloatArray:
    """Return ``(n_edges,)`` |weight| divided by the sum of |weight| in its row.

    >>> normalized_weights(np.array([0, 0, 2]), np.array([1.0, -3.0, 5.0]), n_nodes=3).tolist()
    [0.25, 0.75, 1.0]
    """
    magnitude = np.abs(weights, dtype=np.float64)
    totals = np.bincount(rows, weights=magnitude, minlength=n_nodes)
    return magnitude / np.maximum(totals, EPSILON)[rows]


def node_influence(
    index: NodeIndex,
    rows: IntArray,
    sources: IntArray,
    shares: FloatArray,
    start: FloatArray,
    depths: IntArray | None = None,
) -> FloatArray:
    """Return ``(n_nodes,)`` influence, from entries that are sorted by row.

    ``shares`` are the normalised weights, ``start`` is the influence that starts at each node. One
    pass from the last node of a topological order to the first follows every path. Without
    ``depths`` the order is that of the layers: effects only come from lower layers, and rows are
    ordered by layer with the logits last. A graph with generic nodes has effects within a layer and
    needs :func:`tracer.graph.order.node_depths`.
    """
    if depths is not None:
        return _influence_by_depth(depths, rows, sources, shares, start)
    by_layer = np.searchsorted(index.features[:, 0], np.arange(index.n_layers + 1))
    ends = np.searchsorted(rows, [*by_layer, len(index)]).tolist()
    total = np.zeros(len(index))
    for first, last in zip(reversed(ends[:-1]), reversed(ends[1:]), strict=True):
        part = slice(first, last)
        flow = (total + start)[rows[part]] * shares[part]
        total += np.bincount(sources[part], flow, len(index))
    return total


def _influence_by_depth(
    depths: IntArray, rows: IntArray, sources: IntArray, shares: FloatArray, start: FloatArray
) -> FloatArray:
    levels = depths[rows]
    order = np.argsort(-levels, kind="stable")
    rows, sources, shares, levels = rows[order], sources[order], shares[order], levels[order]
    total = np.zeros(len(depths))
    ends = np.flatnonzero(np.r_[levels[1:] != levels[:-1], True][: len(levels)]) + 1
    first = 0
    for last in ends.tolist():
        part = slice(first, last)
        flow = (total[rows[part]] + start[rows[part]]) * shares[part]
        np.add.at(total, sources[part], flow)
        first = last
    return total


def graph_influence(
    index: NodeIndex,
    rows: IntArray,
    sources: IntArray,
    weights: FloatArray,
    start: FloatArray,
    depths: IntArray | None = None,
) -> GraphInfluence:
    """Return the influence in an unpruned graph, given by its entries sorted by row.

    ``depths`` are those of :func:`node_influence`.
    """
    shares = normalized_weights(rows, weights, len(index))
    errors = index.is_error[sources]
    return GraphInfluence(
        nodes=node_influence(index, rows, sources, shares, start, depths),
        from_errors=np.bincount(rows[errors], shares[errors], len(index)).astype(np.float64),
    )
