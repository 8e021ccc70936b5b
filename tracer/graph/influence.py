"""How much of the targets flows through every node: the one influence solver. Data only.

A node's influence is ``start @ (A + A² + …)``, ``A`` the row-normalised absolute weights and
``start`` the targets' probabilities (circuit-tracer 0.5, `graph.py`; "Circuit Tracing", Ameisen et
al., 2025, appendix on graph pruning).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from tracer.graph.nodes import FloatArray, IntArray, NodeIndex

EPSILON: Final = 1e-10
"""Rows whose absolute weights sum to less are left unscaled instead of divided by nothing."""


@dataclass(frozen=True)
class WholeInfluence:
    """What thresholds do not change, so that a slider does not compute it again."""

    nodes: FloatArray
    """``(n_nodes,)`` influence in the unpruned graph."""
    from_errors: FloatArray
    """``(n_nodes,)`` share of a node's input that comes from errors."""


def normalized_weights(rows: IntArray, weights: FloatArray, n_nodes: int) -> FloatArray:
    """|weight| divided by the sum of |weight| over its target's row."""
    magnitude = np.abs(weights, dtype=np.float64)
    totals = np.bincount(rows, weights=magnitude, minlength=n_nodes)
    return magnitude / np.maximum(totals, EPSILON)[rows]


def node_influence(
    index: NodeIndex, rows: IntArray, sources: IntArray, shares: FloatArray, start: FloatArray
) -> FloatArray:
    """Influence of every node, from stored entries whose ``rows`` ascend.

    Effects only come from lower layers and rows are ordered by layer, targets last; so one pass
    over the entries from the back sees every path.
    """
    by_layer = np.searchsorted(index.features[:, 0], np.arange(index.n_layers + 1))
    ends = np.searchsorted(rows, [*by_layer, len(index)]).tolist()
    total = np.zeros(len(index))
    for first, last in zip(reversed(ends[:-1]), reversed(ends[1:]), strict=True):
        part = slice(first, last)
        flow = (total + start)[rows[part]] * shares[part]
        total += np.bincount(sources[part], flow, len(index))
    return total


def whole_influence(
    index: NodeIndex, rows: IntArray, sources: IntArray, weights: FloatArray, start: FloatArray
) -> WholeInfluence:
    """Of an unpruned graph given by its stored entries."""
    shares = normalized_weights(rows, weights, len(index))
    errors = (sources >= index.error_rows.start) & (sources < index.error_rows.stop)
    return WholeInfluence(
        nodes=node_influence(index, rows, sources, shares, start),
        from_errors=np.bincount(rows[errors], shares[errors], len(index)).astype(np.float64),
    )
