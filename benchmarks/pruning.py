"""How long a threshold slider waits: pruning a large graph at a new threshold.

    python benchmarks/pruning.py

A random graph of 4,096 features on 12 layers and 12 positions, with 4.8 million edges, as many as a
random model of that shape has. The first pruning computes the influence of every node; the later
ones, at new thresholds, find it there. Beside it, the whole of it computed anew each time.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tracer import AttributionGraph, Target, prune

N_LAYERS, N_POSITIONS, N_FEATURES = 12, 12, 4096


def random_graph() -> AttributionGraph:
    """Causal, with heavy-tailed weights as real ones have."""
    rng = np.random.default_rng(0)
    places = np.stack(
        [
            rng.integers(0, N_LAYERS, N_FEATURES),
            rng.integers(1, N_POSITIONS, N_FEATURES),
            rng.permutation(N_FEATURES),
        ],
        axis=1,
    )
    features = places[np.lexsort(places.T[::-1])].astype(np.int32)
    targets = tuple(Target(f" {i}", (i,), 0.09) for i in range(10))
    errors = np.repeat(np.arange(N_LAYERS), N_POSITIONS)
    tokens, logits = np.full(N_POSITIONS, -1), np.full(len(targets), N_LAYERS)
    layers = np.concatenate([features[:, 0], errors, tokens, logits])
    at_errors = np.tile(np.arange(N_POSITIONS), N_LAYERS)
    ends = np.full(len(targets), N_POSITIONS - 1)
    positions = np.concatenate([features[:, 1], at_errors, np.arange(N_POSITIONS), ends])
    counts, sources, weights = np.zeros(len(layers), np.int64), [], []
    for row in [*range(N_FEATURES), *range(len(layers) - len(targets), len(layers))]:
        found = np.flatnonzero((layers < layers[row]) & (positions <= positions[row]))
        counts[row] = len(found)
        sources.append(found)
        weights.append(rng.standard_normal(len(found)) ** 3)
    return AttributionGraph(
        prompt="random",
        tokens=("t",) * N_POSITIONS,
        token_ids=tuple(range(N_POSITIONS)),
        n_layers=N_LAYERS,
        features=features,
        activations=rng.random(N_FEATURES).astype(np.float32),
        targets=targets,
        indptr=np.concatenate([[0], np.cumsum(counts)]),
        sources=np.concatenate(sources).astype(np.int32),
        weights=np.concatenate(weights).astype(np.float32),
        next_tokens=(),
        n_active_features=N_FEATURES,
    )


def main() -> None:
    graph = random_graph()
    print(f"{graph.n_nodes:,} nodes, {graph.n_edges:,} edges")
    anew, again = [], []
    print(f"{'threshold':>9} {'kept':>6} {'anew ms':>8} {'again ms':>9}")
    for threshold in (0.5, 0.6, 0.7, 0.8, 0.9, 0.95):
        fresh = dataclasses.replace(graph)
        start = time.perf_counter()
        kept = int(prune(fresh, threshold, 0.98).node_mask.sum())
        anew.append(1000 * (time.perf_counter() - start))
        graph.influence  # noqa: B018  (computed once, as the first pruning of a graph does)
        start = time.perf_counter()
        prune(graph, threshold, 0.98)
        again.append(1000 * (time.perf_counter() - start))
        print(f"{threshold:>9} {kept:>6} {anew[-1]:>8.0f} {again[-1]:>9.1f}")
    ratio = statistics.median(anew) / statistics.median(again)
    print(f"slowest again: {max(again):.0f} ms; median {ratio:.0f} times as fast as anew")


if __name__ == "__main__":
    main()
