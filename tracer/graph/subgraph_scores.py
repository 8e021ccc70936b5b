"""How much of the answer a chosen set of features accounts for: the scores of a pinned subgraph.

Everything that is not pinned counts as error. This is the definition of Neuronpedia's graph page
(its `score.worker.ts`), so that numbers can be compared: the signed effects of each unpinned
feature are added to those of the error node at its layer and position, its own inputs are dropped,
and replacement and completeness are computed again.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from tracer.graph.graph import AttributionGraph
from tracer.graph.influence import graph_influence
from tracer.graph.nodes import FloatArray
from tracer.types import NodeId


class SubgraphScores(NamedTuple):
    """Scores of a graph in which everything unpinned counts as error, each in 0..1."""

    replacement: float
    """Share of the influence of tokens and errors together that starts at tokens."""
    completeness: float
    """Influence-weighted share of each node's input that does not come from errors."""


def subgraph_scores(graph: AttributionGraph, pinned: Collection[NodeId]) -> SubgraphScores:
    """Return the replacement and completeness of the subgraph of the ``pinned`` features.

    Tokens, errors and targets always take part; nodes in ``pinned`` that are not features, or not
    in the graph, change nothing. With every feature pinned the scores are those of the graph.

    >>> import tracer
    >>> graph = tracer.trace(tracer.load("atlas"), "The capital of Texas is", max_features=50)
    >>> everything = [graph.index.node(row) for row in range(graph.index.n_features)]
    >>> round(subgraph_scores(graph, everything).replacement, 6) == round(
    ...     tracer.prune(graph).replacement_score, 6
    ... )
    True
    >>> subgraph_scores(graph, []).replacement < subgraph_scores(graph, everything).replacement
    True
    """
    index = graph.index
    is_pinned = np.ones(graph.n_nodes, np.bool_)
    is_pinned[index.feature_rows] = False
    is_pinned[[index.row(node) for node in pinned if node in index]] = True
    stand_in = np.arange(graph.n_nodes)
    features = index.features.astype(np.int64)
    error_rows = index.error_rows.start + features[:, 0] * index.n_positions + features[:, 1]
    unpinned = ~is_pinned[index.feature_rows]
    stand_in[index.feature_rows][unpinned] = error_rows[unpinned]

    kept = is_pinned[graph.rows]
    rows, sources = graph.rows[kept], stand_in[graph.sources[kept]]
    # effects of one stand-in on one target add up with their signs, before anything is absolute
    places, inverse = np.unique(rows * graph.n_nodes + sources, return_inverse=True)
    weights: FloatArray = np.zeros(len(places))
    np.add.at(weights, inverse, graph.weights[kept].astype(np.float64))
    rows, sources = places // graph.n_nodes, places % graph.n_nodes
    influence = graph_influence(index, rows, sources, weights, graph.target_weights)

    tokens = influence.nodes[index.token_rows].sum()
    errors = influence.nodes[index.error_rows].sum()
    reach = influence.nodes + graph.target_weights
    total = reach.sum()
    explained = ((1 - influence.from_errors) * reach).sum()
    return SubgraphScores(
        float(tokens / (tokens + errors)) if tokens + errors > 0 else 1.0,
        float(explained / total) if total > 0 else 1.0,
    )
