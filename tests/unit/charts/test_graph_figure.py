"""The graph as a Plotly figure: what is drawn of it, and how."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go
import pytest
from example_graphs import NAMES, TEXAS, crowded_graph, dallas_graph, graph_of, token

from charts.drawing import RESTING_EDGES, RESTING_INPUTS, Drawing
from charts.graph_figure import graph_figure
from charts.graph_view import GraphView
from charts.palette import DARK, LIGHT
from tracer.graph.pruning import prune
from tracer.types import FeatureId, NodeId

AUSTIN_ANSWER = NodeId("logit", 5, 8, 90)


def dallas(**changes: Any) -> GraphView:
    return GraphView(prune(dallas_graph(), 1.0, 1.0), NAMES, **changes)


def crowded(n: int = 240) -> Drawing:
    return GraphView(prune(crowded_graph(n), 1.0, 1.0)).drawing


def markers(figure: go.Figure) -> list[Any]:
    return [trace for trace in figure.data if trace.mode == "markers"]


def edges(figure: go.Figure) -> list[Any]:
    return [shape for shape in figure.layout.shapes if shape.name == "edges"]


def n_edges(figure: go.Figure) -> int:
    return sum(shape.path.count("M") for shape in edges(figure))


def look_of(figure: go.Figure, node: NodeId) -> dict[str, Any]:
    for trace in markers(figure):
        if str(node) in trace.customdata:
            at = list(trace.customdata).index(str(node))
            marker = trace.marker
            return {
                "colour": marker.color[at],
                "opacity": marker.opacity[at],
                "size": marker.size[at],
                "ring": marker.line.color[at],
            }
    raise AssertionError(f"{node} is not drawn")


def test_every_marker_has_the_id_of_its_node() -> None:
    view = dallas()
    ids = [node for trace in markers(graph_figure(view.drawing)) for node in trace.customdata]
    index = view.pruned.graph.index
    assert sorted(ids) == sorted(str(index.node(row)) for row in view.rows)


def test_shapes_tell_the_kinds_apart() -> None:
    symbols = {trace.name: trace.marker.symbol for trace in markers(graph_figure(dallas().drawing))}
    assert symbols == {
        "feature": "circle", "error": "diamond", "token": "square", "logit": "square",
    }  # fmt: skip


def test_edges_are_a_few_paths_below_the_nodes() -> None:
    figure = graph_figure(crowded())
    assert 0 < len(edges(figure)) <= 6
    assert all(shape.type == "path" and shape.layer == "below" for shape in edges(figure))


def test_negative_edges_differ_in_colour_and_in_dash() -> None:
    looks = {shape.line.color: shape.line.dash for shape in edges(graph_figure(dallas().drawing))}
    assert looks[LIGHT.positive] == "solid"
    assert looks[LIGHT.negative] != "solid"


def test_at_rest_the_edges_with_most_flow_are_drawn() -> None:
    drawing = crowded()
    assert len(drawing.weights) > RESTING_EDGES
    assert len(drawing.resting) <= RESTING_EDGES
    for target in set(drawing.targets[drawing.resting].tolist()):
        assert (drawing.targets[drawing.resting] == target).sum() <= RESTING_INPUTS
    # of one target no edge that is left out has more flow than one that is drawn
    target = int(drawing.targets[drawing.resting][-1])
    drawn = set(drawing.resting.tolist())
    flows = {
        e: drawing.flow[e] for e in range(len(drawing.weights)) if drawing.targets[e] == target
    }
    weakest = min(flow for edge, flow in flows.items() if edge in drawn)
    others = [flow for edge, flow in flows.items() if edge not in drawn]
    assert len(drawn & flows.keys()) == RESTING_INPUTS or max(others, default=0) <= weakest


def test_a_selected_node_has_all_its_edges_and_the_others_fade() -> None:
    view = dallas(selected=TEXAS)
    figure = graph_figure(view.drawing)
    assert n_edges(figure) == 4  # two tokens in, two nodes out
    assert look_of(figure, TEXAS)["ring"] == LIGHT.selected
    assert look_of(figure, token(7))["opacity"] == 1.0
    assert look_of(figure, token(2))["opacity"] < 0.5


def test_pinned_nodes_have_a_ring_and_switched_off_features_are_hollow() -> None:
    figure = graph_figure(dallas(pinned=frozenset({token(7)}), off=frozenset({TEXAS})).drawing)
    assert look_of(figure, token(7))["ring"] == LIGHT.text
    assert look_of(figure, TEXAS)["colour"] == LIGHT.background
    resting = graph_figure(dallas(off=frozenset({TEXAS})).drawing, show_choice=False)
    assert look_of(resting, TEXAS)["colour"] == LIGHT.feature


def test_influence_makes_a_feature_larger() -> None:
    view = GraphView(prune(crowded_graph(40), 1.0, 1.0))
    figure = graph_figure(view.drawing, width=1800.0, height=1200.0)
    features = [node for node in view.pruned.nodes if node.kind == "feature"]
    features.sort(key=view.influence)
    sizes = [look_of(figure, node)["size"] for node in features]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]


def test_what_a_label_or_token_contains_is_text() -> None:
    feature, answer = NodeId("feature", 1, 1, 4), NodeId("logit", 5, 1, 90)
    graph = graph_of(
        [(1, 1, 4)],
        {(token(1), feature): 1.0, (feature, answer): 1.0},
        tokens=("<bos>", " <b>bold&</b>"),
    )
    view = GraphView(prune(graph, 1.0, 1.0), {FeatureId(1, 4): "<a href='x'>link</a>"})
    figure = graph_figure(view.drawing)
    texts = [text for trace in figure.data for text in trace.text or ()]
    texts += [text for trace in markers(figure) for text in trace.hovertext]
    assert any("&lt;b&gt;" in text for text in texts)
    assert any("&lt;a " in text for text in texts)
    assert not any("<a " in text or "<b>bold" in text for text in texts)


def test_a_node_kind_that_is_not_computed_here_has_a_shape_of_its_own() -> None:
    drawing = dallas().drawing
    nodes = tuple(
        node
        if node.kind != "error"
        else type(node)(**{**vars(node), "kind": "lorsa", "group": "other"})
        for node in drawing.nodes
    )
    figure = graph_figure(type(drawing)(**{**vars(drawing), "nodes": nodes}))
    (trace,) = [trace for trace in markers(figure) if trace.name == "attention features (Lorsa)"]
    assert trace.marker.symbol == "hexagon" and trace.marker.color[0] == LIGHT.other


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_the_same_drawing_gives_the_same_figure_in_the_palettes_colours(palette: Any) -> None:
    drawing = dallas().drawing
    assert graph_figure(drawing, palette).to_json() == graph_figure(drawing, palette).to_json()
    other = LIGHT if palette is DARK else DARK
    assert palette.feature in graph_figure(drawing, palette).to_json()
    assert other.feature not in graph_figure(drawing, palette).to_json()


def test_the_figure_is_as_large_as_its_layout() -> None:
    drawing = crowded(60)
    layout = drawing.layout(800.0, 600.0)
    figure = graph_figure(drawing, LIGHT, 800.0, 600.0)
    assert figure.layout.width == round(layout.width)
    assert figure.layout.height == round(layout.height)
    assert tuple(figure.layout.xaxis.range) == (0, layout.width)
