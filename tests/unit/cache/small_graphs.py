"""A graph that is small and quick to make. Imports no torch: processes start fast with it."""

from __future__ import annotations

import numpy as np

from tracer.graph.graph import AttributionGraph
from tracer.types import Target, TokenProbability


def make_graph(
    prompt: str = "a b", token_ids: tuple[int, ...] = (1, 2, 3), n_edges: int = 7
) -> AttributionGraph:
    """Return a graph of one layer with two features, whose weights depend only on the tokens."""
    n_nodes = 2 + 2 * len(token_ids) + 1
    last, n_edges = len(token_ids) - 1, min(n_edges, n_nodes - 1)
    random = np.random.default_rng(token_ids)
    return AttributionGraph(
        prompt=prompt,
        tokens=tuple(f"t{token}" for token in token_ids),
        token_ids=token_ids,
        n_layers=1,
        features=np.array([[0, min(1, last), 5], [0, min(2, last), 9]], np.int32),
        activations=np.array([0.5, 2.0], np.float32),
        targets=(Target(" x", (7,), 0.9),),
        indptr=np.array([0] * n_nodes + [n_edges], np.int64),
        sources=np.arange(n_edges, dtype=np.int32),
        weights=random.standard_normal(n_edges).astype(np.float32),
        next_tokens=(TokenProbability(" x", 7, 0.9, 3.0),),
        n_active_features=2,
        provenance={"model": "fake"},
    )


def same(left: AttributionGraph | None, right: AttributionGraph) -> bool:
    """Whether two graphs are equal to the last bit."""
    return left is not None and left.to_bytes() == right.to_bytes()
