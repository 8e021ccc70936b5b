"""Scores of a pinned subgraph, against the definition written out with dense matrices."""

from __future__ import annotations

import numpy as np
import pytest

import tracer
from tracer.graph.graph import AttributionGraph
from tracer.graph.subgraph_scores import SubgraphScores, subgraph_scores
from tracer.types import NodeId

PROMPTS = (
    "The capital of the state containing Dallas is",
    "The capital of the state containing Oakland is",
    "The opposite of small is",
    "36 + 59 =",
    "The capital of France is",
)


def dense_scores(graph: AttributionGraph, pinned: set[NodeId]) -> SubgraphScores:
    """Neuronpedia's definition, step by step on the full matrix."""
    index = graph.index
    matrix = graph.to_dense().numpy().astype(np.float64)
    for row in range(index.n_features):
        node = index.node(row)
        if node not in pinned:
            matrix[:, index.error_row(node.layer, node.position)] += matrix[:, row]
            matrix[:, row] = 0
            matrix[row] = 0
    matrix = np.abs(matrix)
    normalized = matrix / np.maximum(matrix.sum(1, keepdims=True), 1e-10)
    influence, flow = np.zeros(len(matrix)), graph.target_weights
    while flow.sum() > 1e-30:
        flow = flow @ normalized
        influence = influence + flow
    tokens = influence[index.token_rows].sum()
    errors = influence[index.error_rows].sum()
    reach = influence + graph.target_weights
    from_errors = normalized[:, index.error_rows].sum(1)
    completeness = ((1 - from_errors) * reach).sum() / reach.sum()
    return SubgraphScores(tokens / (tokens + errors), completeness)


@pytest.fixture(scope="module")
def model() -> tracer.Model:
    return tracer.load("atlas", "cross-layer")


@pytest.mark.parametrize("prompt", PROMPTS)
def test_they_equal_the_dense_definition(model: tracer.Model, prompt: str) -> None:
    graph = tracer.trace(model, prompt, max_features=120)
    nodes = [graph.index.node(row) for row in range(graph.index.n_features)]
    order = np.random.default_rng(0).permutation(len(nodes))
    for share in (0.0, 0.1, 0.5, 1.0):
        pinned = {nodes[i] for i in order[: int(share * len(nodes))]}
        assert subgraph_scores(graph, pinned) == pytest.approx(
            dense_scores(graph, pinned), abs=1e-6
        )


def test_with_every_feature_pinned_they_are_those_of_the_graph(model: tracer.Model) -> None:
    graph = tracer.trace(model, PROMPTS[0], max_features=120)
    everything = [graph.index.node(row) for row in range(graph.index.n_features)]
    pruned = tracer.prune(graph)
    scores = subgraph_scores(graph, everything)
    assert scores.replacement == pytest.approx(pruned.replacement_score, abs=1e-9)
    assert scores.completeness == pytest.approx(pruned.completeness_score, abs=1e-9)


def test_nodes_that_are_not_in_the_graph_change_nothing(model: tracer.Model) -> None:
    graph = tracer.trace(model, PROMPTS[0], max_features=50)
    pinned = [graph.index.node(3), graph.index.node(7)]
    others = [NodeId("feature", 99, 0, 1), NodeId("token", -1, 2, graph.token_ids[2])]
    assert subgraph_scores(graph, [*pinned, *others]) == subgraph_scores(graph, pinned)
