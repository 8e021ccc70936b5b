"""What the screen shows of a graph: nodes, edges, names, filters, and what a click means."""

from __future__ import annotations

from typing import Any

import pytest
from example_graphs import AUSTIN, NAMES, TEXAS, crowded_graph, dallas_graph, token

from charts.graph_view import GraphFilter, GraphView, Side, decode_click, shown_sentence
from tracer.graph.pruning import prune
from tracer.types import FeatureId, NodeId


def dallas(**changes: Any) -> GraphView:
    return GraphView(prune(dallas_graph(), 1.0, 1.0), NAMES, **changes)


def drawn(view: GraphView) -> set[NodeId]:
    return {view.pruned.graph.index.node(row) for row in view.rows}


def test_a_chosen_node_that_was_pruned_is_drawn_with_its_edges() -> None:
    pruned = prune(dallas_graph(), 0.3, 0.98)
    index = pruned.graph.index
    hidden = next(index.node(row) for row in range(index.n_features) if not pruned.node_mask[row])
    assert hidden not in drawn(GraphView(pruned, NAMES))
    view = GraphView(pruned, NAMES, hidden)
    assert hidden in drawn(view)
    ends = {*view.drawing.sources.tolist(), *view.drawing.targets.tolist()}
    assert view.drawing.selected in ends


def test_a_view_without_choices_draws_the_kept_nodes_and_edges() -> None:
    view = GraphView(prune(crowded_graph(), 0.9, 0.98))
    assert drawn(view) == set(view.pruned.nodes)
    assert len(view.edges) == int(view.pruned.edge_mask.sum())


@pytest.mark.parametrize(
    ("chosen", "gone"),
    [
        (GraphFilter(errors=False), {NodeId("error", 2, 8, -1)}),
        (GraphFilter(layers=(2, 4)), {TEXAS, NodeId("feature", 0, 2, 9)}),
        (GraphFilter(max_density=0.1), {AUSTIN}),
    ],
    ids=["errors", "layers", "dense"],
)
def test_a_filter_hides_its_nodes_and_says_so(chosen: GraphFilter, gone: set[NodeId]) -> None:
    density = {FeatureId(4, 2): 0.4, FeatureId(1, 4): 0.01}
    before, after = dallas(), dallas(filter=chosen, density=density)
    assert drawn(before) - drawn(after) >= gone
    assert not {node for node in drawn(after) if node in gone}
    count = len(drawn(before)) - len(drawn(after))
    assert sum(after.hidden) == count
    words = {"errors": "errors", "layers": "in other layers", "dense": "dense"}
    (name,) = [name for name in words if getattr(after.hidden, name)]
    assert f"{count} {words[name]}" in shown_sentence(after)


def test_tokens_answers_and_chosen_nodes_are_never_filtered() -> None:
    view = dallas(filter=GraphFilter(layers=(4, 4)), pinned=frozenset({TEXAS}))
    assert TEXAS in drawn(view)
    assert {token(7), NodeId("logit", 5, 8, 90)} <= drawn(view)


def test_only_negative_edges() -> None:
    view = dallas(filter=GraphFilter(negative_only=True))
    assert len(view.edges) == 3
    assert (view.drawing.weights < 0).all()
    assert "3 of 11 edges are negative" in shown_sentence(view)


def test_the_sentence_counts_what_is_not_on_the_screen() -> None:
    view = GraphView(prune(crowded_graph(), 0.6, 0.98))
    graph = view.pruned.graph
    text = shown_sentence(view)
    assert text.startswith(f"{len(view.rows)} of {graph.n_nodes} nodes shown")
    assert f"{graph.n_nodes - len(view.rows)} below the threshold" in text
    assert "3 more active features were not traced" in text


def test_the_strongest_neighbours_come_first_with_their_share() -> None:
    inputs = dallas().inputs(TEXAS)
    assert [neighbour.node for neighbour in inputs] == [token(7), token(6)]
    assert inputs[0].weight == pytest.approx(2.0)
    assert inputs[0].share == pytest.approx(2.0 / 2.2, rel=1e-5)
    assert inputs[0].name == "Dallas"
    assert len(dallas().outputs(TEXAS, None)) == 2


def test_a_neighbour_below_the_edge_threshold_is_listed_but_not_drawn() -> None:
    everything = dallas(filter=GraphFilter(negative_only=True))
    assert [neighbour.is_drawn for neighbour in dallas().inputs(TEXAS)] == [True, True]
    assert [n.is_drawn == (n.weight < 0) for n in everything.inputs(TEXAS)] == [True, True]
    view = GraphView(prune(dallas_graph(), 1.0, 0.5), NAMES)
    index = view.pruned.graph.index
    for node in drawn(view):
        drawn_sources = {
            index.node(int(view.pruned.graph.sources[edge]))
            for edge in view.edges
            if int(view.pruned.graph.rows[edge]) == index.row(node)
        }
        inputs = view.inputs(node, None)
        assert {n.node for n in inputs if n.is_drawn} == drawn_sources
    assert any(not n.is_drawn for node in drawn(view) for n in view.inputs(node, None))


def test_both_sides_of_all_nodes_are_those_of_each_node() -> None:
    pruned = prune(dallas_graph(), 1.0, 0.5)
    shown = GraphFilter(negative_only=True)
    for view in (
        GraphView(pruned, NAMES),
        dallas(filter=shown),
        GraphView(prune(crowded_graph(), 0.9, 0.98)),
    ):
        index = view.pruned.graph.index
        for limit, most in ((2, 5), (6, 400), (1, 1)):
            inputs, outputs = view.sides(limit, most)
            assert inputs and outputs
            for node in drawn(view):
                row = index.row(node)
                for sides, expected in (
                    (inputs, view.inputs(node, most)),
                    (outputs, view.outputs(node, most)),
                ):
                    side = sides.get(row, Side([], 0, 0))
                    shares = [n.share for n in expected[:limit]]
                    assert [n.share for n in side.strongest] == pytest.approx(shares)
                    assert [n._replace(share=0) for n in side.strongest] == [
                        n._replace(share=0) for n in expected[:limit]
                    ]
                    assert side.total == len(expected)
                    assert side.drawn == sum(n.is_drawn for n in expected)


@pytest.mark.parametrize(
    "event",
    [
        None,
        {},
        {"selection": None},
        {"selection": {"points": []}},
        {"selection": {"points": [{"customdata": "cloud-1-2"}]}},
        {"selection": {"points": [{"customdata": {"$ne": 1}}]}},
        {"selection": {"points": "xyz"}},
        {"node": 7},
        {"node": "<script>"},
        {"node": f"feature-{'9' * 5000}-1-2"},
        [],
    ],
)
def test_a_click_on_nothing_or_on_nonsense_is_no_node(event: Any) -> None:
    assert decode_click(event) is None


@pytest.mark.parametrize("data", ["feature-1-7-4", ["feature-1-7-4"]])
def test_a_click_on_a_marker_is_its_node(data: Any) -> None:
    assert decode_click({"selection": {"points": [{"customdata": data}]}}) == TEXAS
