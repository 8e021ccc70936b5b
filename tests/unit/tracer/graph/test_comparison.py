"""Two graphs are merged: tokens are aligned, features shared, edges have both weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import tiny

import tracer
from tracer.errors import ComparisonError
from tracer.graph.comparison import Comparison, aligned, compare_graphs
from tracer.model.model import Model

DALLAS = ["<bos>", "The", " capital", " of", " state", " containing", " Dallas", " is"]
OAKLAND = ["<bos>", "The", " capital", " of", " the", " state", " containing", " Oakland", " is"]


@pytest.fixture
def pair(model: Model) -> tuple[tracer.PrunedGraph, tracer.PrunedGraph]:
    """Two prompts: the second replaces one word and has one more in front."""
    other = (*tiny.IDS[:1], 17, *tiny.IDS[1:3], 8, *tiny.IDS[4:])
    return (
        tracer.prune(tracer.trace(model, tiny.IDS)),
        tracer.prune(tracer.trace(model, other), 0.7),
    )


def test_tokens_are_aligned_by_text_or_from_the_end() -> None:
    slots = aligned(DALLAS, OAKLAND, "token")
    assert slots.n_slots == 9
    assert slots.left == (0, 1, 2, 3, 5, 6, 7, 8)
    assert slots.right == tuple(range(9))
    slots = aligned(DALLAS, OAKLAND, "end")
    assert slots.left == (0, 2, 3, 4, 5, 6, 7, 8)  # the beginning-of-text tokens share a column
    assert slots.right == tuple(range(9))
    assert aligned(["a"], ["b", "c"], "token").n_slots == 2


def test_a_graph_shares_everything_with_itself(model: Model) -> None:
    pruned = tracer.prune(tracer.trace(model, tiny.IDS))
    comparison = compare_graphs(pruned, pruned)
    assert len(comparison.nodes) == len(pruned.nodes)
    assert {node.side for node in comparison.nodes} == {"both"}
    assert comparison.left_weights.tolist() == comparison.right_weights.tolist()
    assert sorted(comparison.left_weights) == pytest.approx(sorted(pruned.edges[2]))
    for node in comparison.nodes:
        assert node.influence[0] == node.influence[1]


def test_every_kept_node_and_edge_of_both_graphs_occurs_once(
    pair: tuple[tracer.PrunedGraph, tracer.PrunedGraph],
) -> None:
    comparison = compare_graphs(*pair)
    for side, pruned in enumerate(pair):
        nodes = [node for merged in comparison.nodes for node in (merged.left, merged.right)[side]]
        assert sorted(nodes) == sorted(pruned.nodes)
        expected = {
            (pruned.graph.index.node(int(s)), pruned.graph.index.node(int(t))): float(w)
            for s, t, w in zip(*pruned.edges, strict=True)
        }
        weights = (comparison.left_weights, comparison.right_weights)[side]
        seen = {
            (
                (comparison.nodes[s].left, comparison.nodes[s].right)[side][0],
                (comparison.nodes[t].left, comparison.nodes[t].right)[side][0],
            ): float(w)
            for s, t, w in zip(comparison.sources, comparison.targets, weights, strict=True)
            if w
        }
        assert seen == pytest.approx(expected)
    assert len(comparison.features("both")) > 0
    assert len(comparison.features("left")) > 0
    assert len(comparison.features("right")) > 0


def test_a_pruned_feature_keeps_its_activation(
    pair: tuple[tracer.PrunedGraph, tracer.PrunedGraph],
) -> None:
    left, right = pair
    comparison = compare_graphs(left, right)
    graph, seen = right.graph, 0
    for node in comparison.features("left"):
        same = [
            float(graph.activations[row])
            for row, (layer, position, index) in enumerate(graph.features.tolist())
            if (layer, index) == node.feature and comparison.slots.right[position] == node.slot
        ]
        assert node.activation[1] == (same[0] if same else 0.0)
        assert node.influence[1] == 0
        seen += bool(same)
    assert 0 < seen < len(comparison.features("left"))


def test_by_feature_each_is_one_node_whatever_its_position(
    pair: tuple[tracer.PrunedGraph, tracer.PrunedGraph],
) -> None:
    left, right = pair
    comparison = compare_graphs(left, right, "feature")
    on_left = {node.feature for node in left.nodes if node.kind == "feature"}
    on_right = {node.feature for node in right.nodes if node.kind == "feature"}
    assert {node.feature for node in comparison.features("both")} == on_left & on_right
    assert {node.feature for node in comparison.features("left")} == on_left - on_right
    assert {node.feature for node in comparison.features("right")} == on_right - on_left
    assert len(comparison.features("both")) == len(on_left & on_right)
    shared = max(comparison.features("both"), key=lambda node: len(node.left))
    assert len(shared.left) > 1
    rows = [left.graph.index.row(node) for node in shared.left]
    assert shared.activation[0] == left.graph.activations[rows].max()
    assert shared.influence[0] == pytest.approx(
        left.influence[rows].sum() / left.graph.target_weights.sum()
    )


def test_features_of_two_dictionaries_match_only_by_label(
    open_tiny: Callable[..., Model],
) -> None:
    left = tracer.prune(tracer.trace(open_tiny(), tiny.IDS))
    right = tracer.prune(tracer.trace(open_tiny(kind="cross_layer_transcoder"), tiny.IDS))
    comparison = compare_graphs(left, right)
    assert not comparison.same_dictionary
    assert not comparison.features("both")
    assert any(node.side == "both" for node in comparison.nodes if node.kind == "token")
    on_left, on_right = (
        {(n.position, n.feature) for n in pruned.nodes if n.kind == "feature"}
        for pruned in (left, right)
    )
    one, other = next(
        (one, other)
        for position, one in sorted(on_left)
        for at, other in sorted(on_right)
        if at == position
    )
    named = compare_graphs(left, right, names=({one: "about Texas"}, {other: "about Texas"}))
    shared = named.features("both")
    assert shared
    for node in shared:
        assert {n.feature for n in node.left} == {one}
        assert {n.feature for n in node.right} == {other}


def test_columns_show_both_tokens(model: Model) -> None:
    pruned = tracer.prune(tracer.trace(model, tiny.IDS))
    tokens = ("<other>", *pruned.graph.tokens[1:])
    other = replace(pruned, graph=replace(pruned.graph, tokens=tokens))
    comparison: Comparison = compare_graphs(pruned, other)
    assert comparison.columns[0] == f"{pruned.graph.tokens[0]} / <other>"
    assert comparison.columns[1] == pruned.graph.tokens[1]
    assert {n.side for n in comparison.nodes if n.kind == "token" and n.slot == 0} == {
        "left",
        "right",
    }
    assert np.isnan([n.activation[0] for n in comparison.nodes if n.kind == "token"]).all()


def test_an_unknown_alignment_is_refused(model: Model) -> None:
    pruned = tracer.prune(tracer.trace(model, tiny.IDS))
    with pytest.raises(
        ComparisonError, match="'middle' is not an alignment, expected token, end, feature"
    ):
        compare_graphs(pruned, pruned, "middle")  # type: ignore[arg-type]
