"""Pinned nodes and supernodes as boxes and curves."""

from __future__ import annotations

from itertools import pairwise

from example_graphs import AUSTIN, CAPITAL, NAMES, TEXAS, dallas_graph

from charts.flow_figure import flow_edges, flow_figure, flow_groups
from charts.graph_view import GraphView
from charts.palette import LIGHT
from tracer.graph.pruning import prune
from tracer.types import NodeId, Supernode

ANSWER = NodeId("logit", 5, 8, 90)
CARRIED = NodeId("feature", 3, 8, 7)


def view(pinned: frozenset[NodeId]) -> GraphView:
    return GraphView(prune(dallas_graph(), 0.1, 0.1), NAMES, pinned=pinned)


def test_groups_are_supernodes_then_single_pins_then_the_top_target() -> None:
    missing = NodeId("feature", 0, 0, 77)
    marked = view(frozenset({TEXAS, CARRIED, CAPITAL}))
    groups = flow_groups(marked, [Supernode("Texas", (TEXAS, CARRIED, missing))])
    assert [group.nodes for group in groups] == [(TEXAS, CARRIED), (CAPITAL,), (ANSWER,)]
    assert groups[2].name == "Austin"
    pinned = view(frozenset({ANSWER}))
    assert [group.nodes for group in flow_groups(pinned, [])] == [(ANSWER,)]


def test_edges_between_groups_are_summed_even_if_pruned() -> None:
    marked = view(frozenset({TEXAS, CARRIED, CAPITAL, AUSTIN}))
    groups = flow_groups(marked, [Supernode("both", (TEXAS, CAPITAL))])
    names = [group.nodes for group in groups]
    edges = {
        (names[s], names[t]): round(weight, 6)
        for (s, t), weight in flow_edges(marked, groups).items()
    }
    both = (TEXAS, CAPITAL)
    inside = flow_groups(marked, [Supernode("chain", (TEXAS, CARRIED))])
    assert (0, 0) not in flow_edges(marked, inside)  # Texas feeds what carries it
    assert edges == {
        (both, (CARRIED,)): 1.2,
        (both, (AUSTIN,)): 0.8,
        (both, (ANSWER,)): 0.5,
        ((CARRIED,), (AUSTIN,)): 1.0,
        ((AUSTIN,), (ANSWER,)): 4.0,
    }


def test_boxes_are_above_their_inputs_and_show_the_remaining_activation() -> None:
    marked = view(frozenset({TEXAS, CARRIED, CAPITAL}))
    groups = flow_groups(marked, [Supernode("<Texas>", (TEXAS,))])
    figure = flow_figure(marked, groups, LIGHT, left={groups[1].name: 0.25}, off="<Texas>")
    heights = {a.text.split("<br>")[0]: a.y for a in figure.layout.annotations}
    texas, carried = "<b>&lt;Texas&gt;</b>", "<b>Texas (carried to the las…</b>"
    assert heights["<b>capital</b>"] < heights[texas] < heights[carried] < heights["<b>Austin</b>"]
    text = " ".join(a.text for a in figure.layout.annotations)
    assert "off</span>" in text and "activation 25 %</span>" in text
    dashed = [shape.y0 for shape in figure.layout.shapes if shape.line.dash == "dash"]
    assert dashed == [
        heights[texas] - 17,
        heights["<b>capital</b>"] - 17,
    ]  # switched off; mostly inactive


def test_many_boxes_in_one_layer_wrap_into_several_rows() -> None:
    marked = view(frozenset())
    groups = [Supernode(f"a group with a long name {i}", (TEXAS,)) for i in range(9)]
    figure = flow_figure(marked, groups, LIGHT, width=500)
    boxes = [s for s in figure.layout.shapes if s.line.width]
    assert len({shape.y0 for shape in boxes}) > 2
    rows: dict[float, list[tuple[float, float]]] = {}
    for shape in boxes:
        rows.setdefault(shape.y0, []).append((shape.x0, shape.x1))
    for row in rows.values():
        row.sort()
        assert all(a[1] < b[0] for a, b in pairwise(row))
