"""The graph as a figure: what is drawn, where, and what is hidden."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from example_graphs import DALLAS, NAMES, TEXAS, crowded_graph, dallas_graph, graph_of, token

from charts.graph_figure import graph_figure, layout_view
from charts.graph_view import GraphView, decode_click, shown_sentence
from charts.palette import DARK, LIGHT, palette
from tracer.graph.pruning import prune
from tracer.types import FeatureId, NodeId


def dallas(**changes: Any) -> GraphView:
    return GraphView(prune(dallas_graph(), 1.0, 1.0), NAMES, **changes)


def crowded(n: int = 40) -> GraphView:
    """Many features in one cell, each with one token as input and the target as output."""
    features = [(1, 7, i) for i in range(n)]
    logit = NodeId("logit", 5, 8, 90)
    edges = {}
    for layer, position, index in features:
        node = NodeId("feature", layer, position, index)
        edges[token(7), node] = 1.0 + index
        edges[node, logit] = 0.5 + index
    names = {FeatureId(1, i): f"a feature with a rather long name {i}" for i in range(n)}
    return GraphView(prune(graph_of(features, edges), 1.0, 1.0), names)


def edge_traces(figure: go.Figure) -> list[Any]:
    return [trace for trace in figure.data if trace.mode == "lines"]


def drawn_edges(figure: go.Figure) -> int:
    return sum(int(np.isnan(np.array(trace.x, float)).sum()) for trace in edge_traces(figure))


def node_traces(figure: go.Figure) -> list[Any]:
    return [trace for trace in figure.data if trace.mode == "markers"]


RANDOM = GraphView(prune(crowded_graph(), 0.9, 0.98))


@pytest.mark.parametrize("view", [dallas(), crowded(), RANDOM], ids=["dallas", "cell", "random"])
@pytest.mark.parametrize("width", [420.0, 760.0, 1200.0])
def test_nodes_do_not_overlap_and_are_inside_the_figure(view: GraphView, width: float) -> None:
    layout = layout_view(view, width)
    for a, b in itertools.combinations(layout.nodes, 2):
        assert math.hypot(a.x - b.x, a.y - b.y) > 6, (a.node, b.node)
    for placed in layout.nodes:
        assert 0 < placed.x < layout.width and 0 < placed.y < layout.height


def test_columns_are_tokens_and_rows_are_layers() -> None:
    view = dallas()
    layout = layout_view(view)
    at = {placed.node: placed for placed in layout.nodes}
    assert [column.name for column in layout.columns] == ["<bos>", *DALLAS.split()]
    assert len(layout.rows) == view.pruned.graph.n_layers + 2
    for node, placed in at.items():
        column = layout.columns[node.position]
        row = layout.rows[node.layer + 1]
        assert column.start <= placed.x <= column.stop, node
        assert row.start <= placed.y <= row.stop, node
    assert at[token(7)].y < at[TEXAS].y < at[NodeId("logit", 5, 8, 90)].y


def test_labels_in_one_cell_are_on_separate_lines() -> None:
    layout = layout_view(crowded(), 760)
    labelled = [placed for placed in layout.nodes if placed.label and placed.node.layer == 1]
    heights = sorted(placed.y for placed in labelled)
    assert len(labelled) > 5
    assert all(b - a >= 12 for a, b in itertools.pairwise(heights))


def test_every_marker_has_the_id_of_its_node() -> None:
    view = dallas()
    ids = [node for trace in node_traces(graph_figure(view)) for node in trace.customdata]
    graph = view.pruned.graph
    assert sorted(ids) == sorted(str(graph.index.node(row)) for row in view.rows)


def test_each_kind_of_node_has_its_own_shape() -> None:
    symbols = {trace.name: trace.marker.symbol for trace in node_traces(graph_figure(dallas()))}
    assert symbols["feature"] == "circle" and symbols["error"] == "diamond"
    assert symbols["token"] == symbols["next token"] == "square"


def test_edges_have_no_hover_and_are_few_traces() -> None:
    traces = edge_traces(graph_figure(crowded()))
    assert 0 < len(traces) <= 12
    assert all(trace.hoverinfo == "skip" for trace in traces)


def test_negative_edges_differ_in_colour_and_dash() -> None:
    looks = {
        trace.name: (trace.line.dash, trace.line.color.rsplit(",", 1)[0])
        for trace in edge_traces(graph_figure(dallas()))
    }
    positive, negative = looks["positive effects"], looks["negative effects"]
    assert positive[0] == "solid" != negative[0]
    assert positive[1] != negative[1]


def test_three_inputs_per_node_are_drawn_until_a_node_is_selected() -> None:
    view = crowded()
    logit = NodeId("logit", 5, 8, 90)
    assert drawn_edges(graph_figure(view)) == 40 + 3
    selected = GraphView(view.pruned, view.names, logit)
    assert drawn_edges(graph_figure(selected)) == 40 + 40


def test_nodes_with_more_influence_are_larger() -> None:
    view = dallas()
    features = next(t for t in node_traces(graph_figure(view)) if t.name == "feature")
    sizes = dict(zip(features.customdata, features.marker.size, strict=True))
    influences = {text: view.influence(NodeId.parse(text)) for text in sizes}
    assert len(set(sizes.values())) > 1
    order = sorted(sizes, key=lambda text: influences[text])
    assert [sizes[text] for text in order] == sorted(sizes.values())


def test_labels_and_tokens_are_escaped() -> None:
    graph = graph_of(
        [(1, 1, 4)],
        {
            (token(1), NodeId("feature", 1, 1, 4)): 1.0,
            (NodeId("feature", 1, 1, 4), NodeId("logit", 5, 1, 90)): 1.0,
        },
        tokens=("<bos>", " <b>bold&</b>"),
    )
    view = GraphView(prune(graph, 1.0, 1.0), {FeatureId(1, 4): "<a href='x'>link</a>"})
    figure = graph_figure(view)
    texts = [annotation.text for annotation in figure.layout.annotations]
    hovers = [text for trace in node_traces(figure) for text in trace.hovertext]
    assert any("&lt;b&gt;" in text for text in texts)
    assert not any("<a " in text or "<b>bold" in text for text in (*texts, *hovers))


def test_a_selected_node_is_drawn_even_if_pruned() -> None:
    pruned = prune(dallas_graph(), 0.3, 0.98)
    hidden = next(
        pruned.graph.index.node(row)
        for row in range(pruned.graph.index.n_features)
        if not pruned.node_mask[row]
    )
    view = GraphView(pruned, NAMES, hidden)
    ids = [node for trace in node_traces(graph_figure(view)) for node in trace.customdata]
    assert str(hidden) in ids
    assert str(hidden) not in [
        node
        for trace in node_traces(graph_figure(GraphView(pruned, NAMES)))
        for node in trace.customdata
    ]


def test_an_edited_feature_is_hollow() -> None:
    figure = graph_figure(dallas(off=frozenset({TEXAS})))
    features = next(t for t in node_traces(figure) if t.name == "feature")
    at = list(features.customdata).index(str(TEXAS))
    colours = features.marker.color
    assert colours[at] == LIGHT.background
    assert all(colour == LIGHT.feature for i, colour in enumerate(colours) if i != at)


def test_the_sentence_counts_what_is_not_shown() -> None:
    view = crowded()
    graph = view.pruned.graph
    text = shown_sentence(view)
    assert text.startswith(f"{len(view.rows)} of {graph.n_nodes} nodes shown")
    assert f"{graph.n_nodes - len(view.rows)} below the threshold" in text
    assert "3 more active features not traced" in text
    assert f"43 of {int(view.pruned.edge_mask.sum())} edges drawn" in text


def test_the_strongest_neighbours_come_first() -> None:
    inputs = dallas().inputs(TEXAS)
    assert [neighbour.node for neighbour in inputs] == [token(7), token(6)]
    assert inputs[0].weight == pytest.approx(2.0)
    assert inputs[0].share == pytest.approx(2.0 / 2.2, rel=1e-5)
    assert inputs[0].name == "Dallas"


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
        [],
    ],
)
def test_an_empty_or_invalid_click_is_not_a_node(event: Any) -> None:
    assert decode_click(event) is None


@pytest.mark.parametrize("data", ["feature-1-7-4", ["feature-1-7-4"]])
def test_a_click_on_a_marker_gives_its_node(data: Any) -> None:
    assert decode_click({"selection": {"points": [{"customdata": data}]}}) == TEXAS


def test_the_figure_is_deterministic_and_follows_the_theme() -> None:
    view = dallas()
    assert graph_figure(view).to_json() == graph_figure(view).to_json()
    assert palette("dark") is DARK and palette("light") is palette(None) is LIGHT
    assert DARK.text in graph_figure(view, DARK).to_json()
    assert view.pruned.graph.prompt == DALLAS


def test_labels_are_cut_only_where_there_is_no_room() -> None:
    """Columns with cut labels get the room that other columns do not need."""
    logit = NodeId("logit", 5, 8, 90)
    features = [(1, 7, 0), (1, 8, 1), (2, 8, 2)]
    names = {FeatureId(la, i): f"a feature named at length {i}" for la, _, i in features}
    edges = {(NodeId("feature", *place), logit): 1.0 for place in features}
    edges |= {(token(7), NodeId("feature", *place)): 1.0 for place in features}
    view = GraphView(prune(graph_of(features, edges), 1.0, 1.0), names)
    wide = {placed.label for placed in layout_view(view, 1400).nodes if placed.label}
    assert set(names.values()) <= wide
    narrow = layout_view(view, 640)
    shown = {p.node.position: len(p.label) for p in narrow.nodes if p.node.kind == "feature"}
    assert narrow.width == 640
    assert 10 <= shown[7] < shown[8] < 28, "the column with more cut labels gets the remaining room"


def test_features_without_names_show_their_number_and_unknown_activations_say_so() -> None:
    graph = dallas_graph()
    unknown = replace(graph, activations=np.full(len(graph.activations), np.nan, np.float32))
    view = GraphView(prune(unknown, 1.0, 1.0))
    labels = {p.node: p.label for p in layout_view(view).nodes if p.node.kind == "feature"}
    assert all(label == str(node.index) for node, label in labels.items()) and labels
    figure = graph_figure(view)
    hovers = next(trace.hovertext for trace in figure.data if trace.name == "feature")
    assert all("activation unknown" in text for text in hovers)


def test_unlabelled_nodes_stack_up_to_make_room_for_labels() -> None:
    """Many packed nodes in all columns but the last, whose labels stay readable."""
    logit = NodeId("logit", 5, 8, 90)
    packed = [(0, position, index) for position in range(1, 8) for index in range(30)]
    named = [(layer, 8, 100 + layer) for layer in range(1, 5)]
    names = {FeatureId(layer, index): "a name of 26 characters it" for layer, _, index in named}
    edges = {(NodeId("feature", *place), logit): 0.01 for place in packed}
    edges |= {(NodeId("feature", *place), logit): 5.0 for place in named}
    edges |= {(token(place[1]), NodeId("feature", *place)): 1.0 for place in packed + named}
    view = GraphView(prune(graph_of(sorted(packed + named), edges), 1.0, 1.0), names)
    layout = layout_view(view, 760.0, max_labels=4)
    shown = [p.label for p in layout.nodes if p.node.kind == "feature" and p.label]
    assert len(shown) == 4 and min(len(label) for label in shown) >= 20
    assert layout.width == 760
