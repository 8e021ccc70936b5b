"""Small attribution graphs built by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tracer.graph.graph import AttributionGraph
from tracer.graph.nodes import NodeIndex
from tracer.types import FeatureId, NodeId, Target, TokenProbability

DALLAS = "The capital of the state containing Dallas is"
TOKENS = ("<bos>", *(" " + word for word in DALLAS.split()))
TEXAS, CAPITAL, AUSTIN = (
    NodeId("feature", 1, 7, 4),
    NodeId("feature", 0, 2, 9),
    NodeId("feature", 4, 8, 2),
)
CALIFORNIA = NodeId("feature", 1, 8, 6)
NAMES = {
    FeatureId(1, 4): "Texas: Dallas, Houston, Laredo",
    FeatureId(0, 9): "capital",
    FeatureId(4, 2): "say Austin",
    FeatureId(3, 7): "Texas (carried to the last token)",
}


def graph_of(
    features: Sequence[tuple[int, int, int]],
    edges: Mapping[tuple[NodeId, NodeId], float],
    tokens: Sequence[str] = TOKENS,
    targets: Sequence[Target] = (Target(" Austin", (90,), 0.98),),
    n_layers: int = 5,
    prompt: str = DALLAS,
) -> AttributionGraph:
    """Return a graph with the given features and ``(source, target) -> weight`` edges."""
    table = np.array(sorted(features), np.int32).reshape(-1, 3)
    token_ids = tuple(range(10, 10 + len(tokens)))
    index = NodeIndex(table, n_layers, token_ids, tuple(t.token_ids[0] for t in targets))
    rows: dict[int, list[tuple[int, float]]] = {}
    for (source, target), weight in edges.items():
        rows.setdefault(index.row(target), []).append((index.row(source), weight))
    indptr, sources, weights = [0], [], []
    for row in range(len(index)):
        for source_row, weight in sorted(rows.get(row, [])):
            sources.append(source_row)
            weights.append(weight)
        indptr.append(len(sources))
    return AttributionGraph(
        prompt=prompt,
        tokens=tuple(tokens),
        token_ids=token_ids,
        n_layers=n_layers,
        features=table,
        activations=np.linspace(1, 3, len(table)).astype(np.float32),
        targets=tuple(targets),
        indptr=np.array(indptr, np.int64),
        sources=np.array(sources, np.int64),
        weights=np.array(weights, np.float32),
        next_tokens=tuple(
            TokenProbability(t.label, t.token_ids[0], t.probability, 9.0) for t in targets
        ),
        n_active_features=len(table) + 3,
    )


def token(position: int) -> NodeId:
    """Return the token node at ``position`` of a graph made here."""
    return NodeId("token", -1, position, 10 + position)


def dallas_graph() -> AttributionGraph:
    """Dallas -> Texas -> say Austin -> Austin, plus the word "capital" and one error node."""
    carried, austin = NodeId("feature", 3, 8, 7), NodeId("logit", 5, 8, 90)
    error = NodeId("error", 2, 8, -1)
    return graph_of(
        [(1, 7, 4), (0, 2, 9), (4, 8, 2), (3, 8, 7)],
        {
            (token(7), TEXAS): 2.0,
            (token(6), TEXAS): -0.2,
            (token(2), CAPITAL): 1.5,
            (TEXAS, carried): 1.2,
            (error, carried): 0.1,
            (carried, AUSTIN): 1.0,
            (CAPITAL, AUSTIN): 0.8,
            (error, AUSTIN): -0.3,
            (AUSTIN, austin): 4.0,
            (TEXAS, austin): 0.5,
            (token(8), austin): -0.4,
        },
    )


def oakland_graph() -> AttributionGraph:
    """Oakland -> California -> Sacramento: one more word in front, and no "is" at the end."""
    answer, capital = NodeId("logit", 5, 8, 91), NodeId("feature", 0, 3, 9)
    tokens = "<bos> So The capital of the state containing Oakland".replace(" ", "| ").split("|")
    return graph_of(
        [(1, 8, 6), (0, 3, 9)],
        {
            (token(8), CALIFORNIA): 2.0,
            (token(3), capital): 1.5,
            (CALIFORNIA, answer): 3.0,
            (capital, answer): 0.9,
        },
        tokens=tokens,
        targets=(Target(" Sacramento", (91,), 0.9),),
    )


def crowded_graph(
    n_features: int = 240, n_layers: int = 6, n_positions: int = 9, seed: int = 0
) -> AttributionGraph:
    """Many features in few cells with random inputs: the hard case for the layout."""
    random = np.random.default_rng(seed)
    features = set()
    while len(features) < n_features:
        position = int(random.choice([2, 5, n_positions - 1], p=[0.2, 0.4, 0.4]))
        features.add((int(random.integers(n_layers)), position, int(random.integers(1000))))
    tokens = ["<bos>", *(f" word{i}" for i in range(1, n_positions))]
    targets = [Target(f" answer{i}", (200 + i,), 0.5 / 2**i) for i in range(10)]
    logits = [NodeId("logit", n_layers, n_positions - 1, t.token_ids[0]) for t in targets]
    nodes = [NodeId("feature", *f) for f in sorted(features)]
    edges: dict[tuple[NodeId, NodeId], float] = {}
    for target in [*nodes, *logits]:
        below = [n for n in nodes if n.layer < target.layer and n.position <= target.position]
        below += [token(p) for p in range(target.position + 1)]
        for i in random.choice(len(below), min(len(below), 12), replace=False):
            edges[below[int(i)], target] = float(random.normal())
    return graph_of(sorted(features), edges, tokens, targets, n_layers, " ".join(tokens[1:]))
