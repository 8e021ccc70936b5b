"""A published graph becomes a graph of this library, and the other way round."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny
from published_graphs import node, published, read

import tracer
from tracer.errors import ExternalGraphError
from tracer.graph.comparison import compare_graphs
from tracer.interchange.convert import external_from_pruned, graph_from_external
from tracer.interchange.graph_json import read_graph_json, write_graph_json
from tracer.model.model import Model
from tracer.types import NodeId, Supernode


def test_every_number_of_a_published_graph_is_kept() -> None:
    graph = graph_from_external(read(published()))
    assert graph.features.tolist() == [[0, 1, 7], [1, 2, 9]]
    assert graph.activations[0] == 2.5 and np.isnan(graph.activations[1])
    assert [target.label for target in graph.targets] == [" bark", " run"]
    assert [target.probability for target in graph.targets] == [0.7, 0.2]
    edges = {
        (graph.index.node(int(s)), graph.index.node(int(t))): float(w)
        for s, t, w in zip(graph.sources, graph.rows, graph.weights, strict=True)
    }
    assert edges == {
        (NodeId("token", -1, 1, 5), NodeId("feature", 0, 1, 7)): 1.5,
        (NodeId("feature", 0, 1, 7), NodeId("feature", 1, 2, 9)): -0.5,
        (NodeId("error", 1, 2, -1), NodeId("logit", 2, 2, 11)): 0.25,
        (NodeId("feature", 1, 2, 9), NodeId("logit", 2, 2, 11)): 2.0,
        (NodeId("lorsa", 1, 2, 3), NodeId("logit", 2, 2, 11)): 9.0,
    }


def test_a_graph_without_logits_is_refused() -> None:
    stored = published()
    stored["nodes"] = [entry for entry in stored["nodes"] if entry["feature_type"] != "logit"]
    stored["links"] = stored["links"][:2]
    with pytest.raises(ExternalGraphError, match="no logit node"):
        graph_from_external(read(stored))


def test_a_graph_without_links_is_read() -> None:
    stored = published() | {"links": []}
    assert graph_from_external(read(stored)).n_edges == 0


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("1_9_2", "1_9_2"),
        ("1_9_2", "0_7_1"),
        ("3_11_2", "1_9_2"),
        ("0_7_1", "E_5_1"),
        ("0_7_1", "0_1_2"),  # an error of layer 1
    ],
)
def test_a_link_that_does_not_run_upward_to_a_feature_or_logit_is_refused(
    source: str, target: str
) -> None:
    stored = published()
    stored["links"].append({"source": source, "target": target, "weight": 1.0})
    with pytest.raises(ExternalGraphError, match=r"link 5 of the graph .* expected upward effects"):
        graph_from_external(read(stored))


def test_links_between_the_same_two_nodes_are_added() -> None:
    stored = published()
    stored["links"].append({"source": "0_7_1", "target": "1_9_2", "weight": 3.0})
    external = read(stored)
    graph = graph_from_external(external)
    assert sorted(graph.weights.tolist()) == [0.25, 1.5, 2.0, 2.5, 9.0]
    assert len(json.loads(write_graph_json(external))["links"]) == 6
    stored["links"] += [{"source": "0_7_1", "target": "1_9_2", "weight": 3e38}] * 2
    with pytest.raises(ExternalGraphError, match="add up to infinity"):
        graph_from_external(read(stored))


@pytest.mark.parametrize(
    ("twice", "name", "message"),
    [
        (0, "E_6_1", "'E_5_1' and 'E_6_1' of the graph are the same token at the same token"),
        (6, "4_11_2", "'3_11_2' and '4_11_2' of the graph are the same logit"),
        (1, "00_7_1", "'0_7_1' and '00_7_1' of the graph are the same feature"),
        (4, "0_-1_1_", "'0_-1_1' and '0_-1_1_' of the graph are the same error"),
        (4, "0_-1_1", "two nodes with the id '0_-1_1'"),
    ],
)
def test_two_nodes_at_the_same_place_are_refused(twice: int, name: str, message: str) -> None:
    stored = published()
    stored["nodes"].append(stored["nodes"][twice] | {"node_id": name})
    with pytest.raises(ExternalGraphError, match=message):
        graph_from_external(read(stored))


@pytest.mark.parametrize("layer", ["5000", "200000", "9" * 18])
def test_a_deeper_graph_than_any_known_model_is_refused(layer: str) -> None:
    stored = published()
    stored["nodes"].append(node(f"{layer}_1_2", "cross layer transcoder", layer, 2))
    with pytest.raises(ExternalGraphError, match=r"layers, 3 tokens .* no known model is as large"):
        graph_from_external(read(stored))


def test_a_logit_needs_no_label_probability_or_layer() -> None:
    stored = published()
    tokens = [entry for entry in stored["nodes"] if entry["feature_type"] == "embedding"]
    logit = node("mine", "logit", "0", 2, feature=11)
    stored |= {"nodes": [*tokens, logit], "links": [], "qParams": {}}
    graph = graph_from_external(read(stored))
    assert [(t.label, t.probability) for t in graph.targets] == [("token 11", 0.0)]
    pruned = tracer.prune(graph)
    assert pruned.replacement_score == pruned.completeness_score == 1.0


def test_a_traced_graph_comes_back_with_every_edge_pin_and_label(model: Model) -> None:
    pruned = tracer.prune(tracer.trace(model, tiny.IDS))
    feature = next(n for n in pruned.nodes if n.kind == "feature")
    error = next(n for n in pruned.nodes if n.kind == "error")
    missing = NodeId("feature", 0, 1, 10_000)
    external = external_from_pruned(
        pruned,
        "mine",
        {feature.feature: "about w5"},
        pinned=(feature, missing),
        supernodes=(Supernode("pair", (feature, error)), Supernode("gone", (missing,))),
    )
    again = read_graph_json(write_graph_json(external))
    assert [entry.node for entry in again.nodes] == list(pruned.nodes)
    name = f"{feature.layer}_{feature.index}_{feature.position}"
    assert again.pinned == (name,)
    assert again.supernodes == (("pair", (name, f"{error.layer}_-1_{error.position}")),)
    labelled = [entry for entry in again.nodes if entry.label == "about w5"]
    assert {entry.node.feature for entry in labelled if entry.node} == {feature.feature}
    imported = graph_from_external(again)
    comparison = compare_graphs(pruned, tracer.prune(imported, 1.0, 1.0))
    assert not comparison.same_dictionary  # the file does not say which weights it is from
    expected = sorted(map(float, pruned.edges[2]))
    assert sorted(map(float, imported.weights)) == pytest.approx(expected)
    logits = [entry for entry in again.nodes if entry.node and entry.node.kind == "logit"]
    assert logits[0].label.startswith('Output "') and logits[0].stored["is_target_logit"] is True
    influence = [n.stored["influence"] for n in again.nodes if n.node and n.node.kind == "feature"]
    assert 0 < min(influence) <= max(influence) <= 1


def test_a_target_that_is_not_a_token_keeps_its_label(model: Model) -> None:
    graph = tracer.trace(model, tiny.IDS, targets=[tracer.Contrast("w3", "w5")])
    external = external_from_pruned(tracer.prune(graph), "mine")
    imported = graph_from_external(read_graph_json(write_graph_json(external)))
    assert [target.label for target in imported.targets] == [graph.targets[0].label]
    assert imported.index.node(imported.n_nodes - 1).index < 0
