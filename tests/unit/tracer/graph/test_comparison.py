"""Two graphs are merged: aligned tokens, shared features, both weights of every edge."""

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
    """The same words but one, and one more in front."""
    other = (*tiny.IDS[:1], 17, *tiny.IDS[1:3], 8, *tiny.IDS[4:])
    return (
        tracer.prune(tracer.trace(model, tiny.IDS)),
        tracer.prune(tracer.trace(model, other), 0.7),
    )


def test_tokens_are_aligned_by_their_text_or_from_the_end() -> None:
    slots = aligned(DALLAS, OAKLAND, "token")
    assert slots.n_slots == 9
    assert slots.left == (0, 1, 2, 3, 5, 6, 7, 8)
    assert slots.right == tuple(range(9))
    slots = aligned(DALLAS, OAKLAND, "end")
    assert slots.left == (0, 2, 3, 4, 5, 6, 7, 8)  # the beginnings of text stay together
    assert slots.right == tuple(range(9))
    assert aligned(["a"], ["b", "c"], "token").n_slots == 2


def test_a_graph_compared_with_itself_is_all_shared(model: Model) -> None:
    pruned = tracer.prune(tracer.trace(model, tiny.IDS))
    found = compare_graphs(pruned, pruned)
    assert len(found.nodes) == len(pruned.nodes)
    assert {node.side for node in found.nodes} == {"both"}
    assert found.left_weights.tolist() == found.right_weights.tolist()
    assert sorted(found.left_weights) == pytest.approx(sorted(pruned.edges[2]))
    for node in found.nodes:
        assert node.influence[0] == node.influence[1]


def test_every_kept_node_and_edge_of_both_is_there_once(
    pair: tuple[tracer.PrunedGraph, tracer.PrunedGraph],
) -> None:
    found = compare_graphs(*pair)
    for side, pruned in enumerate(pair):
        nodes = [node for merged in found.nodes for node in (merged.left, merged.right)[side]]
        assert sorted(nodes) == sorted(pruned.nodes)
        expected = {
            (pruned.graph.index.node(int(s)), pruned.graph.index.node(int(t))): float(w)
            for s, t, w in zip(*pruned.edges, strict=True)
        }
        weights = (found.left_weights, found.right_weights)[side]
        seen = {
            (
                (found.nodes[s].left, found.nodes[s].right)[side][0],
                (found.nodes[t].left, found.nodes[t].right)[side][0],
            ): float(w)
            for s, t, w in zip(found.sources, found.targets, weights, strict=True)
            if w
        }
        assert seen == pytest.approx(expected)
    assert len(found.features("both")) > 0
    assert len(found.features("left")) > 0
    assert len(found.features("right")) > 0


def test_pruned_away_is_not_inactive(pair: tuple[tracer.PrunedGraph, tracer.PrunedGraph]) -> None:
    left, right = pair
    found = compare_graphs(left, right)
    graph, seen = right.graph, 0
    for node in found.features("left"):
        same = [
            float(graph.activations[row])
            for row, (layer, position, index) in enumerate(graph.features.tolist())
            if (layer, index) == node.feature and found.slots.right[position] == node.slot
        ]
        assert node.activation[1] == (same[0] if same else 0.0)
        assert node.influence[1] == 0
        seen += bool(same)
    assert 0 < seen < len(found.features("left"))


def test_by_feature_each_counts_once_wherever_it_stands(
    pair: tuple[tracer.PrunedGraph, tracer.PrunedGraph],
) -> None:
    left, right = pair
    found = compare_graphs(left, right, "feature")
    ours = {node.feature for node in left.nodes if node.kind == "feature"}
    theirs = {node.feature for node in right.nodes if node.kind == "feature"}
    assert {node.feature for node in found.features("both")} == ours & theirs
    assert {node.feature for node in found.features("left")} == ours - theirs
    assert {node.feature for node in found.features("right")} == theirs - ours
    assert len(found.features("both")) == len(ours & theirs)
    shared = max(found.features("both"), key=lambda node: len(node.left))
    assert len(shared.left) > 1
    rows = [left.graph.index.row(node) for node in shared.left]
    assert shared.activation[0] == left.graph.activations[rows].max()
    assert shared.influence[0] == pytest.approx(
        left.influence[rows].sum() / left.graph.target_weights.sum()
    )


def test_features_of_two_dictionaries_are_never_the_same_unless_by_name(
    open_tiny: Callable[..., Model],
) -> None:
    left = tracer.prune(tracer.trace(open_tiny(), tiny.IDS))
    right = tracer.prune(tracer.trace(open_tiny(kind="cross_layer_transcoder"), tiny.IDS))
    found = compare_graphs(left, right)
    assert not found.same_dictionary
    assert not found.features("both")
    assert any(node.side == "both" for node in found.nodes if node.kind == "token")
    ours, theirs = (
        {(n.position, n.feature) for n in pruned.nodes if n.kind == "feature"}
        for pruned in (left, right)
    )
    one, other = next(
        (one, other)
        for position, one in sorted(ours)
        for at, other in sorted(theirs)
        if at == position
    )
    named = compare_graphs(left, right, names=({one: "about Texas"}, {other: "about Texas"}))
    shared = named.features("both")
    assert shared
    for node in shared:
        assert {n.feature for n in node.left} == {one}
        assert {n.feature for n in node.right} == {other}


def test_the_columns_name_both_tokens(model: Model) -> None:
    pruned = tracer.prune(tracer.trace(model, tiny.IDS))
    tokens = ("<other>", *pruned.graph.tokens[1:])
    other = replace(pruned, graph=replace(pruned.graph, tokens=tokens))
    found: Comparison = compare_graphs(pruned, other)
    assert found.columns[0] == f"{pruned.graph.tokens[0]} / <other>"
    assert found.columns[1] == pruned.graph.tokens[1]
    assert {n.side for n in found.nodes if n.kind == "token" and n.slot == 0} == {"left", "right"}
    assert np.isnan([n.activation[0] for n in found.nodes if n.kind == "token"]).all()


def test_an_alignment_that_does_not_exist_is_refused(model: Model) -> None:
    pruned = tracer.prune(tracer.trace(model, tiny.IDS))
    with pytest.raises(ComparisonError, match="'middle' is no alignment"):
        compare_graphs(pruned, pruned, "middle")  # type: ignore[arg-type]
