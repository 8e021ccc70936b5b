"""What is sent to the browser: constant while one clicks, and safe whatever it contains."""

from __future__ import annotations

import json
from typing import Any

import pytest
from example_graphs import NAMES, TEXAS, crowded_graph, dallas_graph, token

from charts.graph_payload import DIGEST_LENGTH, graph_payload
from charts.graph_view import GraphView
from charts.palette import DARK, LIGHT
from tracer.graph.pruning import prune


def content(payload: bytes) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(payload[DIGEST_LENGTH:])
    return read


def test_what_is_chosen_changes_nothing() -> None:
    pruned = prune(dallas_graph(), 1.0, 1.0)
    plain = graph_payload(GraphView(pruned, NAMES).drawing, 930, 720)
    chosen = GraphView(pruned, NAMES, TEXAS, frozenset({TEXAS}), frozenset({token(7)}))
    assert graph_payload(chosen.drawing, 930, 720) == plain


def test_the_digest_changes_with_the_content() -> None:
    drawing = GraphView(prune(dallas_graph(), 1.0, 1.0), NAMES).drawing
    payloads = [graph_payload(drawing, 930, 720), graph_payload(drawing, 800, 720)]
    digests = {payload[:DIGEST_LENGTH] for payload in payloads}
    assert len(digests) == 2
    assert all(len(d) == DIGEST_LENGTH and int(d, 16) >= 0 for d in digests)


def test_the_table_holds_every_drawn_node_and_edge_strongest_first() -> None:
    view = GraphView(prune(crowded_graph(), 0.9, 0.98))
    side = content(graph_payload(view.drawing, 930, 720))["side"]
    assert len(side["id"]) == len(view.rows)
    assert len(side["weight"]) == len(view.edges)
    magnitudes = [abs(weight) for weight in side["weight"]]
    assert magnitudes == sorted(magnitudes, reverse=True)
    for edge in range(0, len(side["weight"]), 37):
        source, target = side["id"][side["source"][edge]], side["id"][side["target"][edge]]
        graph = view.pruned.graph
        rows = {str(graph.index.node(row)): row for row in view.rows}
        dense = graph.to_dense()
        assert float(dense[rows[target], rows[source]]) == pytest.approx(
            side["weight"][edge], rel=1e-3
        )


def test_a_folded_node_points_at_its_chip() -> None:
    view = GraphView(prune(crowded_graph(), 1.0, 1.0))
    side = content(graph_payload(view.drawing, 400, 420))["side"]
    assert side["chips"]
    for number, chip in enumerate(side["chips"]):
        for i in chip["members"]:
            assert side["chip_of"][i] == number
            assert (side["x"][i], side["y"][i]) == (chip["x"], chip["y"])
    assert sum(home >= 0 for home in side["chip_of"]) == sum(
        len(c["members"]) for c in side["chips"]
    )


def test_every_colour_has_one_for_a_dark_page() -> None:
    dark = content(graph_payload(GraphView(prune(dallas_graph())).drawing, 930, 720))["dark"]
    assert dark[LIGHT.feature] == DARK.feature and dark[LIGHT.negative] == DARK.negative
    assert len(dark) == len(set(vars(LIGHT).values()))


def test_numbers_are_json_and_extra_values_are_passed_on() -> None:
    payload = graph_payload(GraphView(prune(dallas_graph())).drawing, 930, 720, name="trace")
    assert content(payload)["name"] == "trace"
    assert b"NaN" not in payload and b"Infinity" not in payload
