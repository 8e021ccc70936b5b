"""Two graphs as a merged figure, as dumbbells and as a table."""

from __future__ import annotations

import numpy as np
from example_graphs import NAMES, dallas_graph, oakland_graph

from charts.comparison_drawing import comparison_drawing
from charts.comparison_views import (
    comparison_sentence,
    comparison_table,
    difference_figure,
    edge_sentence,
    side_colours,
)
from charts.graph_figure import graph_figure
from charts.palette import LIGHT
from charts.text import node_name
from tracer.graph.comparison import ComparedNode, Comparison, compare_graphs
from tracer.graph.pruning import prune
from tracer.types import FeatureId


def compared() -> Comparison:
    return compare_graphs(prune(dallas_graph(), 1.0, 1.0), prune(oakland_graph(), 1.0, 1.0))


def name(node: ComparedNode) -> str:
    graph = dallas_graph() if node.left else oakland_graph()
    names = {**NAMES, FeatureId(1, 6): "<i>California</i>"}
    return node_name(graph, (node.left or node.right)[0], names)


def test_nodes_are_coloured_by_graph_and_labels_are_escaped() -> None:
    comparison = compared()
    drawing = comparison_drawing(comparison, name)
    figure = graph_figure(drawing, LIGHT, 1000, 640)
    colours = side_colours(LIGHT)
    assert len(set(colours.values())) == 3
    marks = [trace for trace in figure.data if trace.mode == "markers"]
    for trace in marks:
        for node, colour in zip(trace.customdata, trace.marker.color, strict=True):
            assert colour == colours[comparison.nodes[int(node.removeprefix("merged-"))].side]
    drawn = [int(n.removeprefix("merged-")) for t in marks for n in t.customdata]
    assert sorted(drawn) == list(range(len(comparison.nodes)))
    texts = [text for trace in figure.data if trace.mode == "text" for text in trace.text]
    assert "&lt;i&gt;California&lt;/i&gt;" in texts
    assert "<b>Austin 98 %</b>" in texts and "Sacramento 90 %" in texts
    assert "Dallas / Oakland" in drawing.columns


def test_two_tokens_in_one_column_do_not_overlap() -> None:
    comparison = compared()
    figure = graph_figure(comparison_drawing(comparison, name), LIGHT, 1000, 640)
    at = {
        node: (x, y)
        for trace in figure.data
        if trace.mode == "markers"
        for node, x, y in zip(trace.customdata, trace.x, trace.y, strict=True)
    }
    assert len(set(at.values())) == len(at) == len(comparison.nodes)


def test_an_edge_has_the_weight_of_the_stronger_graph_and_the_colour_of_its_owner() -> None:
    comparison = compared()
    drawing = comparison_drawing(comparison, name)
    left, right = comparison.left_weights, comparison.right_weights
    stronger = np.where(np.abs(left) >= np.abs(right), left, right)
    np.testing.assert_array_equal(drawing.weights, stronger)
    owners = [
        "both" if a and b else "left" if a else "right" for a, b in zip(left, right, strict=True)
    ]
    assert list(drawing.edge_groups) == owners and len(set(owners)) == 3


def test_the_table_lists_all_features_and_the_figure_the_largest_differences() -> None:
    comparison = compared()
    table = comparison_table(comparison, name)
    features = [node for node in comparison.nodes if node.kind == "feature"]
    assert len(table) == len(features) == 5
    shared = table[table["graph"] == "both"].iloc[0]
    assert shared["feature"] == "capital" and shared["token"] == "capital"
    california = table[table["feature"] == "<i>California</i>"].iloc[0]
    assert california["activation left"] == 0 and california["activation right"] > 0
    gap = np.abs(table["influence right"] - table["influence left"])
    assert list(gap) == sorted(gap, reverse=True)
    figure = difference_figure(comparison, name, LIGHT, limit=3)
    left, right = figure.data[1:]
    assert list(left.x) == list(table["influence left"][:3])
    assert list(right.x) == list(table["influence right"][:3])
    assert len(figure.layout.yaxis.ticktext) == 3


def test_the_sentences_give_counts_and_shared_weight() -> None:
    comparison = compared()
    assert comparison_sentence(comparison) == "1 feature in both graphs, 3 only left, 1 only right."
    same = compare_graphs(prune(dallas_graph()), prune(dallas_graph()))
    assert edge_sentence(same) == "100 % of the edge weight is shared."
    assert edge_sentence(comparison) != edge_sentence(same)
