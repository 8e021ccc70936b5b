"""Pruning on sparse rows gives what the definitions give on a dense matrix."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from random_graphs import random_graph

import tracer
from tracer.errors import ThresholdError
from tracer.graph.graph import AttributionGraph
from tracer.graph.pruning import with_nodes, without_pruning
from tracer.model.model import Model
from tracer.types import NodeId


def dense_pruning(
    graph: AttributionGraph, node_threshold: float, edge_threshold: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[float, float]]:
    """Apply the definitions to the dense matrix: nodes, edges, influence and the two scores."""
    A = graph.to_dense().numpy().astype(np.float64)
    start = graph.target_weights

    def normalized(matrix: np.ndarray) -> np.ndarray:
        magnitude = np.abs(matrix)
        return magnitude / np.maximum(magnitude.sum(1, keepdims=True), 1e-10)

    def influence_of(shares: np.ndarray) -> np.ndarray:
        return start @ (np.linalg.inv(np.eye(len(shares)) - shares) - np.eye(len(shares)))

    def cut(scores: np.ndarray, share: float) -> float:
        ordered = np.sort(scores)[::-1]
        place = np.searchsorted(np.cumsum(ordered) / ordered.sum(), share)
        return float(ordered[min(place, len(ordered) - 1)])

    n, index = len(A), graph.index
    influence = influence_of(normalized(A))
    nodes = influence >= cut(influence, node_threshold)
    nodes[index.token_rows.start :] = True
    kept = A * nodes[:, None] * nodes[None, :]
    scores = normalized(kept) * (influence_of(normalized(kept)) + start)[:, None]
    edges = (scores >= cut(scores.flatten(), edge_threshold)) & (kept != 0)
    while True:
        before = nodes.copy()
        edges &= nodes[:, None] & nodes[None, :]
        for node in range(index.token_rows.start):
            if not edges[:, node].any():
                nodes[node] = False
        for node in range(index.n_features):
            if not edges[node].any():
                nodes[node] = False
        if (nodes == before).all():
            break
    shares = normalized(A)
    errors, tokens = influence[index.error_rows].sum(), influence[index.token_rows].sum()
    reach = influence + start
    complete = ((1 - shares[:, index.error_rows].sum(1)) * reach).sum() / reach.sum()
    assert n == graph.n_nodes
    return nodes, edges, influence, (tokens / (tokens + errors), complete)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("thresholds", [(0.8, 0.98), (0.5, 0.9), (1.0, 1.0), (0.0, 0.5)])
def test_masks_and_scores_follow_the_definitions(
    seed: int, thresholds: tuple[float, float]
) -> None:
    graph = random_graph(seed)
    nodes, edges, influence, scores = dense_pruning(graph, *thresholds)
    pruned = tracer.prune(graph, *thresholds)
    np.testing.assert_allclose(pruned.influence, influence, rtol=1e-9, atol=1e-12)
    assert (pruned.node_mask == nodes).all()
    kept = np.zeros_like(edges)
    kept[graph.rows[pruned.edge_mask], graph.sources[pruned.edge_mask]] = True
    assert (kept == edges).all()
    assert pruned.replacement_score == pytest.approx(scores[0])
    assert pruned.completeness_score == pytest.approx(scores[1])


def test_higher_thresholds_keep_more() -> None:
    graph = random_graph(3)
    few, many = tracer.prune(graph, 0.4, 0.9), tracer.prune(graph, 0.9, 0.9)
    assert set(few.nodes) < set(many.nodes)
    assert few.edge_mask.sum() < many.edge_mask.sum()


def test_the_strongest_node_has_its_own_share_of_the_influence() -> None:
    pruned = tracer.prune(random_graph(1))
    strongest = int(pruned.influence.argmax())
    share = pruned.influence[strongest] / pruned.influence.sum()
    assert pruned.cumulative_influence[strongest] == pytest.approx(share)
    weakest = int(pruned.influence.argmin())
    assert pruned.cumulative_influence[weakest] == pytest.approx(1.0)
    assert pruned.cumulative_influence.max() == pytest.approx(1.0)


@pytest.mark.parametrize("thresholds", [(-0.1, 0.9), (0.8, 1.5), (float("nan"), 0.9)])
def test_thresholds_outside_0_to_1_are_refused(thresholds: tuple[float, float]) -> None:
    with pytest.raises(ThresholdError, match="between 0 and 1"):
        tracer.prune(random_graph(0), *thresholds)


def test_inputs_and_outputs_are_the_kept_edges_of_a_node(model: Model) -> None:
    pruned = tracer.prune(tracer.trace(model, tiny.PROMPT))
    dense = pruned.graph.to_dense()
    row_of = pruned.graph.index.row
    for node in pruned.nodes:
        for source, weight in pruned.inputs(node):
            assert dense[row_of(node), row_of(source)] == pytest.approx(weight)
            assert (node, weight) in pruned.outputs(source)
    logit = pruned.nodes[-1]
    strengths = [abs(weight) for _, weight in pruned.inputs(logit)]
    assert strengths == sorted(strengths, reverse=True) and strengths


def test_a_node_that_is_not_in_the_graph_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        tracer.prune(random_graph(0)).inputs(NodeId("feature", 9, 9, 9))


def test_added_nodes_are_kept_with_their_edges(model: Model) -> None:
    graph = tracer.trace(model, tiny.IDS)
    pruned = tracer.prune(graph, 0.3, 0.5)
    lost = [graph.index.node(row) for row in range(5) if not pruned.node_mask[row]]
    assert lost
    kept = with_nodes(pruned, [*lost, pruned.nodes[0], NodeId("feature", 9, 9, 9)])
    assert set(kept.nodes) == {*pruned.nodes, *lost}
    drawn = set(kept.rows.tolist())
    new = kept.edge_mask & ~pruned.edge_mask
    assert new.any() and not (pruned.edge_mask & ~kept.edge_mask).any()
    for source, target in zip(graph.sources[new], graph.rows[new], strict=True):
        assert {int(source), int(target)} <= drawn
        assert graph.index.node(int(source)) in lost or graph.index.node(int(target)) in lost


def test_without_pruning_keeps_every_edge_and_no_error_without_one(model: Model) -> None:
    graph = tracer.trace(model, tiny.IDS)
    complete = without_pruning(graph)
    assert complete.edge_mask.all() and complete.node_mask[graph.index.feature_rows].all()
    errors = np.arange(graph.index.error_rows.start, graph.index.error_rows.stop)
    has_edge = np.isin(errors, graph.sources)
    assert (complete.node_mask[errors] == has_edge).all() and 0 < has_edge.sum() < len(errors)
    assert complete.thresholds == tracer.Thresholds(1.0, 1.0)
    assert complete.replacement_score == tracer.prune(graph).replacement_score
