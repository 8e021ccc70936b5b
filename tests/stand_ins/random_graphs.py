"""Random attribution graphs that obey every rule of the format."""

from __future__ import annotations

import numpy as np

from tracer.graph.graph import AttributionGraph
from tracer.types import Target, TokenProbability


def random_graph(
    seed: int, n_layers: int = 4, n_pos: int = 6, n_features: int = 60
) -> AttributionGraph:
    """Return a causal graph in which effects run from any lower layer to any higher one."""
    rng = np.random.default_rng(seed)
    places = sorted(
        {
            (int(layer), int(position), int(index))
            for layer, position, index in zip(
                rng.integers(0, n_layers, n_features),
                rng.integers(1, n_pos, n_features),
                rng.integers(0, 500, n_features),
                strict=True,
            )
        }
    )
    features = np.array(places, np.int32)
    targets = (Target(" a", (4,), 0.6), Target(" b", (5,), 0.3))
    n = len(features)
    n_nodes = n + n_layers * n_pos + n_pos + len(targets)
    dense = np.zeros((n_nodes, n_nodes), np.float32)
    layers = np.concatenate(
        [features[:, 0], np.repeat(np.arange(n_layers), n_pos), np.full(n_pos, -1), [n_layers] * 2]
    )
    positions = np.concatenate(
        [features[:, 1], np.tile(np.arange(n_pos), n_layers), np.arange(n_pos), [n_pos - 1] * 2]
    )
    for target in [*range(n), n_nodes - 2, n_nodes - 1]:
        allowed = (layers < layers[target]) & (positions <= positions[target])
        drawn = allowed & (rng.random(n_nodes) < 0.5)
        dense[target, drawn] = rng.standard_normal(int(drawn.sum())) ** 3
    rows, sources = dense.nonzero()
    return AttributionGraph(
        prompt="x",
        tokens=tuple(f"t{i}" for i in range(n_pos)),
        token_ids=tuple(range(1, n_pos + 1)),
        n_layers=n_layers,
        features=features,
        activations=rng.random(n).astype(np.float32),
        targets=targets,
        indptr=np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n_nodes))]),
        sources=sources.astype(np.int32),
        weights=dense[rows, sources],
        next_tokens=(TokenProbability(" a", 4, 0.6, 1.0),),
        n_active_features=n,
    )
