"""Nodes that only other tools compute take part in everything that a graph is used for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attention_graphs import random_attention_graph
from damaged_graphs import assert_valid, file_of, header_size
from random_graphs import random_graph
from safetensors.numpy import load

import tracer
from tracer.errors import GraphFileError
from tracer.graph.comparison import compare_graphs
from tracer.graph.generic import (
    GenericNode,
    OutsideNode,
    QkPair,
    QkResults,
    QkShare,
    QkTracing,
    is_error_kind,
)
from tracer.graph.graph import AttributionGraph
from tracer.graph.kinds import kind_counts
from tracer.graph.order import node_depths, on_a_circle
from tracer.graph.pruning import with_nodes, without_pruning
from tracer.types import NodeId

SEEDS = range(4)


def normalised(matrix: np.ndarray) -> np.ndarray:
    magnitude = np.abs(matrix)
    return magnitude / np.maximum(magnitude.sum(1, keepdims=True), 1e-10)


def dense_influence(graph: AttributionGraph, matrix: np.ndarray) -> np.ndarray:
    """Add up all paths to the targets with the inverse of a matrix."""
    shares = normalised(matrix)
    paths = np.linalg.inv(np.eye(len(shares)) - shares) - np.eye(len(shares))
    return graph.target_weights @ paths


def within_a_layer(graph: AttributionGraph) -> np.ndarray:
    """Return whether each edge stays in its layer."""
    return graph.index.layers[graph.sources] == graph.index.layers[graph.rows]


@pytest.mark.parametrize("seed", SEEDS)
def test_influence_over_generic_nodes_is_that_of_the_dense_matrix(seed: int) -> None:
    graph = random_attention_graph(seed)
    assert within_a_layer(graph).sum() > 10
    expected = dense_influence(graph, graph.to_dense().numpy().astype(np.float64))
    np.testing.assert_allclose(graph.influence.nodes, expected, rtol=1e-9, atol=1e-12)
    assert graph.influence.nodes[graph.index.generic_rows].max() > 0


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("thresholds", [(0.8, 0.98), (0.5, 0.9), (1.0, 1.0)])
def test_pruning_follows_the_definitions(seed: int, thresholds: tuple[float, float]) -> None:
    """A node is kept for its influence; a feature also needs an input, unless it never had one."""
    graph = random_attention_graph(seed)
    matrix, index = graph.to_dense().numpy().astype(np.float64), graph.index

    def cut(scores: np.ndarray, share: float) -> float:
        ordered = np.sort(scores.ravel())[::-1]
        place = np.searchsorted(np.cumsum(ordered) / ordered.sum(), share)
        return float(ordered[min(place, len(ordered) - 1)])

    influence = dense_influence(graph, matrix)
    nodes = influence >= cut(influence, thresholds[0])
    nodes[index.token_rows.start :] = True
    kept = matrix * nodes[:, None] * nodes
    scores = normalised(kept) * (dense_influence(graph, kept) + graph.target_weights)[:, None]
    edges = (scores >= cut(scores, thresholds[1])) & (kept != 0)
    while True:
        before = nodes.copy()
        edges &= nodes[:, None] & nodes
        for row in range(index.token_rows.start):
            needs_input = row < index.n_features or matrix[row].any()
            nodes[row] &= edges[:, row].any() and (edges[row].any() or not needs_input)
        if (nodes == before).all():
            break
    pruned = tracer.prune(graph, *thresholds)
    assert (pruned.node_mask == nodes).all()
    mask = np.zeros_like(edges)
    mask[graph.rows[pruned.edge_mask], graph.sources[pruned.edge_mask]] = True
    assert (mask == edges).all()
    kinds = {node.kind for node in pruned.nodes}
    assert thresholds[0] < 0.8 or kinds >= {"lorsa", "lorsa error"}


@pytest.mark.parametrize("seed", SEEDS)
def test_attention_errors_count_as_errors_and_biases_do_not(seed: int) -> None:
    graph = random_attention_graph(seed)
    matrix = graph.to_dense().numpy().astype(np.float64)
    influence, shares = dense_influence(graph, matrix), normalised(matrix)
    nodes = [graph.index.node(row) for row in range(graph.n_nodes)]
    errors = np.array([node.kind in ("error", "lorsa error") for node in nodes])
    tokens = np.array([node.kind == "token" for node in nodes])
    pruned = tracer.prune(graph)
    token_share, error_share = influence[tokens].sum(), influence[errors].sum()
    assert pruned.replacement_score == pytest.approx(token_share / (token_share + error_share))
    reach = influence + graph.target_weights
    complete = ((1 - shares[:, errors].sum(1)) * reach).sum() / reach.sum()
    assert pruned.completeness_score == pytest.approx(complete)
    attention = np.array([node.kind == "lorsa error" for node in nodes])
    assert influence[attention].sum() > 0.01


def test_a_kind_is_an_error_when_its_name_says_so() -> None:
    kinds = ("lorsa error", "residual reconstruction error", "lorsa", "bias", "unknown")
    assert [is_error_kind(kind) for kind in kinds] == [True, True, False, False, False]


def test_rows_and_generic_nodes_correspond() -> None:
    graph = random_attention_graph(1)
    index, nodes = graph.index, [graph.index.node(row) for row in range(graph.n_nodes)]
    assert len(set(nodes)) == len(nodes) == len(index)
    assert [index.row(node) for node in nodes] == list(range(len(index)))
    assert [NodeId.parse(str(node)) for node in nodes] == nodes
    assert [node.layer for node in nodes] == index.layers.tolist()
    assert [node.position for node in nodes] == index.positions.tolist()
    assert index.node(index.error_row(2, 3)) == NodeId("error", 2, 3, -1)
    assert [nodes[row] for row in range(*index.generic_rows.indices(len(index)))] == [
        entry.node for entry in graph.generic
    ]
    with pytest.raises(KeyError):
        index.generic_node(nodes[0])


def test_generic_nodes_can_be_added_and_are_kept_without_pruning() -> None:
    graph = random_attention_graph(2)
    few = tracer.prune(graph, 0.3, 0.5)
    lost = next(entry.node for entry in graph.generic if entry.node not in few.nodes)
    assert lost in with_nodes(few, [lost]).nodes
    assert {entry.node for entry in graph.generic} <= set(without_pruning(graph).nodes)


@pytest.mark.parametrize("kind", ["top-k, 2nd", "größe", "a%2Db", "x" * 100, "other feature"])
def test_a_kind_of_any_name_makes_an_id_that_is_parsed_again(kind: str) -> None:
    node = NodeId(kind, 3, 4, -2)
    assert NodeId.parse(str(node)) == node
    assert "," not in str(node) and str(node).count("-") == 4


def test_two_nodes_at_one_place_are_distinct() -> None:
    one, two = (GenericNode("bias", 1, 2, index, f"1_b{index}_2") for index in (-2, -1))
    graph = with_generic(random_graph(1), (one, two))
    assert one.node != two.node
    assert graph.index.row(two.node) == graph.index.row(one.node) + 1
    assert graph.index.generic_node(two.node).id == "1_b-1_2"


def with_generic(
    graph: AttributionGraph, nodes: tuple[GenericNode, ...], **changes: Any
) -> AttributionGraph:
    """Return a graph with generic nodes that have no edges."""
    n, shift = graph.index.n_features, len(nodes)
    return replace(
        graph,
        indptr=np.insert(graph.indptr, n, [graph.indptr[n]] * shift),
        sources=np.where(graph.sources < n, graph.sources, graph.sources + shift),
        generic=nodes,
        **changes,
    )


def test_nodes_without_edges_change_no_score() -> None:
    plain = random_graph(3)
    graph = with_generic(plain, (GenericNode("lorsa", 1, 2, 7, "1_7_2"),))
    before, after = tracer.prune(plain), tracer.prune(graph)
    assert after.replacement_score == pytest.approx(before.replacement_score)
    assert after.completeness_score == pytest.approx(before.completeness_score)
    assert after.nodes == before.nodes


QK = QkResults(
    {
        NodeId("lorsa", 1, 2, 7): QkTracing(
            (QkPair(NodeId("token", -1, 0, 1), NodeId("bias", 0, 2, -1), 0.5),),
            keys=(QkShare(NodeId("feature", 0, 1, 90_000), -0.25),),
        )
    },
    (
        OutsideNode(NodeId("bias", 0, 2, -1), "bias", "0_b_2"),
        OutsideNode(NodeId("feature", 0, 1, 90_000), "cross layer transcoder", "0_9_1", "dogs"),
    ),
)
ATTENDS = GenericNode("lorsa", 1, 2, 7, "1_7_2", "moves the country", 1.5)


def test_a_saved_graph_has_every_generic_node_again(tmp_path: Path) -> None:
    graph = replace(random_attention_graph(3), provenance={"scan": "x"})
    graph.save(tmp_path / "graph")
    back = tracer.load_graph(tmp_path / "graph")
    assert back.generic == graph.generic and (back.to_dense() == graph.to_dense()).all()
    assert back.to_bytes() == graph.to_bytes()
    assert tracer.prune(back).replacement_score == tracer.prune(graph).replacement_score
    with_qk = with_generic(random_graph(1), (ATTENDS,), qk=QK)
    with_qk.save(tmp_path / "qk")
    again = tracer.load_graph(tmp_path / "qk")
    assert again.qk == QK and again.generic == (ATTENDS,)


def header(graph: AttributionGraph) -> dict[str, Any]:
    content = graph.to_bytes()
    stored = json.loads(content[8 : header_size(content)])["__metadata__"]["graph"]
    return dict(json.loads(stored))


def test_a_graph_without_generic_nodes_is_written_as_before() -> None:
    """Files of this library stay readable by its earlier versions."""
    assert header(random_graph(1))["format_version"] == 1
    assert not header(random_graph(1)).keys() & {"generic", "qk"}
    assert header(random_attention_graph(1))["format_version"] == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"layer": 4},
            "generic names a node of layer 4 at position 2, expected 4 layers and 6 pos",
        ),
        ({"position": 6}, "generic names a node of layer 1 at position 6"),
        ({"layer": -2}, "its header's generic.0.layer is -2, expected greater than or equal to -1"),
        ({"kind": "x" * 101}, "its header's generic.0.kind is 'xxx"),
        ({"activation": float("nan")}, "its header's generic.0.activation is nan"),
        ({"id": 3}, "its header's generic.0.id is 3, expected a valid string"),
        ({"kind": "lorsa error"}, "its error lorsa error-1-2-7 has inputs, expected none"),
    ],
)
def test_a_damaged_generic_node_is_named(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    graph = with_generic(random_graph(1), (ATTENDS,))
    stored, arrays = header(graph), load(graph.to_bytes())
    stored["generic"][0] |= change
    if change.get("kind") == "lorsa error":
        row = graph.index.row(ATTENDS.node)
        arrays["indptr"] = arrays["indptr"] + (np.arange(len(arrays["indptr"])) > row)
        place = int(graph.indptr[row])
        token = graph.index.token_rows.start
        arrays["sources"] = np.insert(arrays["sources"], place, token).astype(np.int32)
        arrays["weights"] = np.insert(arrays["weights"], place, 1).astype(np.float32)
    (tmp_path / "graph").write_bytes(file_of(stored, arrays))
    with pytest.raises(GraphFileError, match=message):
        tracer.load_graph(tmp_path / "graph")


@pytest.mark.parametrize(
    ("qk", "message"),
    [
        ({"tracings": [{"target": "lorsa-1-2"}]}, "its QK tracing cannot be read"),
        ({"tracings": [{"target": "lorsa-0-2-7"}]}, "names lorsa-0-2-7, which is not a node"),
        (
            {"tracings": [{"target": "lorsa-1-2-7", "keys": [["bias-0-2--9", 1.0]]}]},
            "names bias-0-2--9, which is not a node",
        ),
        ({"tracings": [{"target": "lorsa-1-2-7", "keys": [["x"]]}]}, "qk.tracings.0.keys.0.1"),
    ],
)
def test_damaged_qk_tracing_is_named(tmp_path: Path, qk: dict[str, Any], message: str) -> None:
    graph = with_generic(random_graph(1), (ATTENDS,), qk=QK)
    stored = header(graph)
    stored["qk"] |= qk
    (tmp_path / "graph").write_bytes(file_of(stored, load(graph.to_bytes())))
    with pytest.raises(GraphFileError, match=message):
        tracer.load_graph(tmp_path / "graph")


def linked(layers: tuple[int, int], *edges: tuple[int, int]) -> AttributionGraph:
    """Return a graph with two attention features and effects between them, given by number."""
    nodes = tuple(GenericNode("lorsa", layer, 2, 7 + n, f"{n}") for n, layer in enumerate(layers))
    graph = with_generic(random_graph(1), nodes)
    first = graph.index.generic_rows.start
    counts = np.diff(graph.indptr)
    place = int(graph.indptr[first])
    for source, target in sorted(edges, key=lambda edge: edge[1], reverse=True):
        counts[first + target] += 1
        graph = replace(
            graph,
            indptr=np.r_[0, np.cumsum(counts)],
            sources=np.insert(graph.sources, place, first + source).astype(np.int32),
            weights=np.insert(graph.weights, place, 1.0).astype(np.float32),
        )
    return graph


def test_effects_within_a_layer_may_not_close_a_circle_and_none_runs_downward(
    tmp_path: Path,
) -> None:
    linked((1, 1), (0, 1)).save(tmp_path / "good")
    assert tracer.load_graph(tmp_path / "good").generic[1].node == NodeId("lorsa", 1, 2, 8)
    linked((1, 1), (0, 1), (1, 0)).save(tmp_path / "circle")
    with pytest.raises(GraphFileError, match=r"run in a circle through lorsa-1-2-[78], expected"):
        tracer.load_graph(tmp_path / "circle")
    linked((0, 1), (1, 0)).save(tmp_path / "down")
    with pytest.raises(GraphFileError, match="an effect of lorsa-1-2-8 on lorsa-0-2-7, expected"):
        tracer.load_graph(tmp_path / "down")


def test_depths_follow_the_longest_path_and_find_every_circle() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        order = rng.permutation(12)
        ends = np.sort(rng.integers(0, 12, (30, 2)), axis=1)
        ends = ends[ends[:, 0] < ends[:, 1]]
        sources, rows = order[ends[:, 0]], order[ends[:, 1]]
        depths = node_depths(12, rows, sources)
        longest = np.zeros(12, int)
        for node in order:
            into = sources[rows == node]
            longest[node] = max((longest[source] + 1 for source in into), default=0)
        assert depths.tolist() == longest.tolist() and on_a_circle(depths, rows, sources) == -1
        back = rng.integers(len(ends))  # one effect that runs back closes a circle
        rows, sources = np.r_[rows, sources[back]], np.r_[sources, rows[back]]
        depths = node_depths(12, rows, sources)
        found = on_a_circle(depths, rows, sources)
        paths = np.zeros((12, 12), bool)
        paths[rows, sources] = True
        for _ in range(4):
            paths |= (paths.astype(int) @ paths.astype(int)) > 0
        assert depths[found] == -1 and paths[found, found]


def test_a_long_chain_within_a_layer_takes_seconds_at_most() -> None:
    n = 50_000
    depths = node_depths(n, np.arange(1, n), np.arange(n - 1))
    assert depths.tolist() == list(range(n))


def renamed(graph: AttributionGraph) -> AttributionGraph:
    """Return the graph with the ids that another run of a tool could give its nodes."""
    nodes = (
        replace(n, id=f"L{n.layer}.{n.kind}.{n.index}" if n.index >= 0 else n.id)
        for n in graph.generic
    )
    return replace(graph, generic=tuple(nodes))


def test_generic_nodes_of_two_graphs_are_compared() -> None:
    graph = replace(random_attention_graph(2), provenance={"scan": "x"})
    pruned, other = without_pruning(graph), without_pruning(renamed(graph))
    comparison = compare_graphs(pruned, other)
    assert {node.side for node in comparison.nodes} == {"both"}
    assert len(comparison.nodes) == len(pruned.nodes)
    assert comparison.left_weights.tolist() == comparison.right_weights.tolist()
    strange = replace(graph, provenance={"scan": "y"})
    kinds = {
        node.kind: node.side for node in compare_graphs(pruned, without_pruning(strange)).nodes
    }
    assert kinds["lorsa"] != "both"  # an index of another dictionary means something else
    assert kinds["lorsa error"] == kinds["bias"] == "both"


def test_two_biases_at_one_place_are_compared_by_their_ids() -> None:
    names = ("attn_bO", "mlp_bout")

    def graph_with(order: tuple[str, ...]) -> tracer.PrunedGraph:
        nodes = (
            GenericNode("bias", 1, 2, number - 2, f"1_bias_{name}_2", activation=1.0)
            for number, name in enumerate(order)
        )
        return without_pruning(with_generic(random_graph(1), tuple(nodes)))

    comparison = compare_graphs(graph_with(names), graph_with(names[::-1]))
    pairs = [node for node in comparison.nodes if node.kind == "bias"]
    assert [(n.left[0].index, n.right[0].index) for n in pairs] == [(-2, -1), (-1, -2)]
    assert pairs[0].activation == (1.0, 1.0)


def test_every_kind_is_listed_with_a_readable_name_and_counts() -> None:
    pruned = tracer.prune(random_attention_graph(1), 0.6)
    counts = {entry.kind: entry for entry in kind_counts(pruned)}
    assert list(counts) == ["feature", "bias", "lorsa", "lorsa error", "error", "token", "logit"]
    assert counts["lorsa"].name == "attention features (Lorsa)"
    assert [kind for kind, entry in counts.items() if entry.is_error] == ["lorsa error", "error"]
    assert [kind for kind, entry in counts.items() if entry.is_generic] == [
        *("bias", "lorsa", "lorsa error")
    ]
    for entry in counts.values():
        assert entry.kept == [node.kind for node in pruned.nodes].count(entry.kind) <= entry.total
    assert counts["lorsa"].total == [n.kind for n in pruned.graph.generic].count("lorsa")


def test_a_graph_with_generic_nodes_obeys_the_format() -> None:
    assert_valid(random_attention_graph(1))
