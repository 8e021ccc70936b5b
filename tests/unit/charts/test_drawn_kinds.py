"""Nodes that only other tools compute are drawn, named, listed and filtered like all others."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from attention_graphs import LAST, france, leaf
from published_graphs import read

from charts.comparison_drawing import comparison_drawing
from charts.comparison_views import comparison_table, difference_figure
from charts.flow_figure import flow_data, flow_figure, flow_groups
from charts.graph_figure import diameter, graph_figure
from charts.graph_payload import DIGEST_LENGTH, graph_payload
from charts.graph_table import edge_table, node_table
from charts.graph_view import GraphFilter, GraphView, shown_sentence
from charts.legend import legend, legend_html, symbols_html
from charts.palette import LIGHT
from charts.text import node_name
from tracer.graph.comparison import ComparedNode, compare_graphs
from tracer.graph.pruning import PrunedGraph, without_pruning
from tracer.interchange.convert import graph_from_external
from tracer.types import NodeId, Supernode

MOVES, ERROR = NodeId("lorsa", 1, LAST, 3), NodeId("lorsa error", 1, LAST, -1)
KNOWS, SAYS = NodeId("feature", 0, 4, 7), NodeId("feature", 1, LAST, 9)


def pruned(stored: dict[str, Any] | None = None) -> PrunedGraph:
    return without_pruning(graph_from_external(read(stored or france())))


def drawn(view: GraphView) -> set[NodeId]:
    return {view.pruned.graph.index.node(row) for row in view.rows}


def test_every_node_of_the_file_is_drawn_with_its_kind_and_name() -> None:
    view = GraphView(pruned())
    drawing = view.drawing
    assert len(drawing.nodes) == len(france()["nodes"]) == 14
    nodes = {node.id: node for node in drawing.nodes}
    moves, error = nodes[str(MOVES)], nodes[str(ERROR)]
    assert (moves.kind, moves.group, moves.label) == (
        "lorsa",
        "other",
        "attention feature (Lorsa) 3",
    )
    assert moves.place == "layer 1 at “is” · attention feature (Lorsa) 3 · activation 1.50"
    assert (error.name, error.label) == ("attention error (Lorsa) of layer 1", "")
    assert shown_sentence(view).startswith("14 of 14 nodes of the file shown.")
    assert drawing.layout(900, 600).nodes
    assert len(drawing.weights) == len(france()["links"])


def test_the_figure_has_a_symbol_and_a_legend_entry_for_each_kind() -> None:
    figure = graph_figure(GraphView(pruned()).drawing)
    entries = {t.name: (t.marker.symbol, t.marker.color[0]) for t in figure.data if t.showlegend}
    assert entries == {
        "features": ("circle", LIGHT.feature),
        "attention features (Lorsa)": ("hexagon", LIGHT.other),
        "attention errors (Lorsa)": ("diamond", LIGHT.other),
        "biases": ("triangle-up", LIGHT.other),
        "MLP errors": ("diamond", LIGHT.error),
        "tokens": ("square", LIGHT.anchor),
        "answers": ("square", LIGHT.anchor),
    }
    assert figure.layout.showlegend and figure.layout.margin.b > 0
    assert diameter("lorsa error", 0.9) == diameter("error", 0.9) < diameter("lorsa", 0.9)


@pytest.mark.parametrize("kind", ["labels", "<b>edges</b>", "token "])
def test_a_kind_of_any_name_is_a_trace_of_its_own(kind: str) -> None:
    stored = france()
    stored["nodes"].append(leaf(kind, "new", 0, 2, "something new"))
    stored["links"].append({"source": "0_new_2", "target": "1_cro_9_5", "weight": 1.0})
    figure = graph_figure(GraphView(pruned(stored)).drawing)
    shown = kind.replace("<", "&lt;").replace(">", "&gt;")
    (trace,) = [t for t in figure.data if t.name == f"{shown} nodes"]
    assert trace.marker.symbol == "pentagon" and len(trace.x) == 1
    assert "<b>edges" not in legend_html(legend(pruned(stored)))


def test_the_legend_counts_what_is_kept_of_each_kind() -> None:
    counts = {entry.name: (entry.kept, entry.total) for entry in legend(pruned())}
    assert counts == {
        "features": (2, 2),
        "biases": (2, 2),
        "attention features (Lorsa)": (1, 1),
        "attention errors (Lorsa)": (1, 1),
        "MLP errors": (1, 1),
        "tokens": (6, 6),
        "answers": (1, 1),
    }
    text = legend_html(legend(pruned()))
    assert "attention features (Lorsa)" in text and text.count("background:") == 7
    assert text.count("clip-path:polygon(50% 0%") == 4, "diamonds, a hexagon and a triangle"
    assert "<svg" not in text, "a page would remove it"
    assert symbols_html([pruned(), pruned()]).count("background:") == 7


def test_error_like_kinds_are_hidden_with_the_errors() -> None:
    view = GraphView(pruned(), filter=GraphFilter(errors=False))
    assert drawn(GraphView(pruned())) - drawn(view) == {ERROR, NodeId("error", 0, 4, -1)}
    assert view.hidden.errors == 2 and "2 errors" in shown_sentence(view)


def test_a_kind_can_be_hidden_and_says_so() -> None:
    view = GraphView(pruned(), filter=GraphFilter(hidden_kinds=frozenset({"bias", "feature"})))
    assert {node.kind for node in drawn(GraphView(pruned())) - drawn(view)} == {"bias"}
    assert view.hidden.kinds == 2 and "2 of hidden kinds" in shown_sentence(view)


def test_the_browser_gets_symbols_and_names() -> None:
    content = json.loads(graph_payload(GraphView(pruned()).drawing, 900, 600)[DIGEST_LENGTH:])
    side = content["side"]
    at = side["id"].index(str(MOVES))
    assert (side["kind"][at], side["symbol"][at], side["name"][at]) == (
        "lorsa",
        "hexagon",
        "attention feature (Lorsa) 3",
    )
    assert side["colour"][at] == LIGHT.other
    assert "kind lorsa" in [trace["name"] for trace in content["figure"]["data"]]


def test_a_node_of_the_embeddings_is_drawn_next_to_its_token() -> None:
    stored = france()
    stored["nodes"].append(leaf("position embedding", "wpe", 0, 4) | {"layer": "E"})
    stored["links"].append({"source": "0_wpe_4", "target": "0_cro_7_4", "weight": 3.0})
    drawing = GraphView(pruned(stored)).drawing
    at = {drawing.nodes[n.index].id: n for n in drawing.layout(900, 600).nodes}
    token, added = at["token--1-4-4"], at["position embedding--1-4--1"]
    assert token.y == added.y and 0 < abs(token.x - added.x) < 20


def test_the_tables_list_generic_nodes_with_activation_and_edges() -> None:
    view = GraphView(pruned())
    table = node_table(view).set_index("id")
    assert table.loc[str(MOVES), "kind"] == "attention feature (Lorsa)"
    assert table.loc[str(MOVES), "activation"] == 1.5
    assert np.isnan(table.loc[str(ERROR), "activation"])
    edges = edge_table(view).set_index(["from id", "to id"])
    assert edges.loc[(str(KNOWS), str(MOVES)), "weight"] == 3.0
    assert MOVES in view.most_influential() and ERROR not in view.most_influential()


def test_the_flow_diagram_has_their_boxes() -> None:
    view = GraphView(pruned())
    groups = flow_groups(view, (Supernode("moves", (MOVES, KNOWS)), Supernode("is", (SAYS,))))
    data = flow_data(view, groups, {})
    assert {box["name"] for box in data["boxes"]} >= {"moves", "is"}
    assert flow_figure(view, groups).layout.shapes
    assert flow_figure(view, (Supernode("F8", (MOVES,)), Supernode("F54", (SAYS,)))).layout.shapes


def test_two_such_graphs_are_compared_with_all_their_kinds() -> None:
    other = france()
    other["links"][3]["weight"] = 8.0
    comparison = compare_graphs(pruned(), pruned(other), "token")

    def name(node: ComparedNode) -> str:
        return node_name(comparison.left.graph, (node.left or node.right)[0], {})

    drawing = comparison_drawing(comparison, name)
    moves = next(node for node in drawing.nodes if node.kind == "lorsa")
    assert (moves.label, moves.group) == ("attention feature (Lorsa) 3", "both")
    assert "layer 1 · attention feature (Lorsa)" in moves.place
    assert {node.kind for node in drawing.nodes} >= {"lorsa", "lorsa error", "bias"}
    assert graph_figure(drawing).data
    assert len(comparison_table(comparison, name)) == 2
    assert difference_figure(comparison, name).data
