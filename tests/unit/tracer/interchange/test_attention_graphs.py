"""Graphs with nodes that this library does not compute lose none of them on the way in or out."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attention_graphs import LAST, feature, france, leaf, random_attention_graph
from published_graphs import published, read

import tracer
from tracer.errors import ExternalGraphError
from tracer.graph.generic import QkPair, QkShare
from tracer.graph.pruning import without_pruning
from tracer.interchange.convert import external_from_pruned, graph_from_external
from tracer.interchange.graph_json import read_graph_json, write_graph_json
from tracer.interchange.notes import import_notes
from tracer.types import NodeId

FRANCE, MOVES = NodeId("token", -1, 4, 4), NodeId("lorsa", 1, LAST, 3)
KNOWS, SAYS = NodeId("feature", 0, 4, 7), NodeId("feature", 1, LAST, 9)


def test_france_reaches_paris_through_attention_features() -> None:
    """The nodes between the two were dropped, and the page said 11 of 11 nodes and 100 %."""
    graph = graph_from_external(read(france()))
    pruned = without_pruning(graph)
    assert len(pruned.nodes) == len(france()["nodes"]) == 14
    assert graph.n_edges == len(france()["links"])
    answer = pruned.nodes[-1]
    path = [FRANCE, KNOWS, MOVES, SAYS, answer]
    for source, target in pairwise(path):
        assert target in [node for node, _ in pruned.outputs(source)]
    weights = {
        node: float(graph.influence.nodes[graph.index.row(node)]) for node in pruned.nodes[:-1]
    }
    says = 0.8 * 3.0 / 4.0  # of the answer's input, weighted by its probability
    assert weights[SAYS] == pytest.approx(says)
    assert weights[MOVES] == pytest.approx(says * 4 / 7)
    assert weights[FRANCE] == weights[KNOWS] == pytest.approx(says * 4 / 7 * 3 / 4)
    errors = says * 2 / 7 + says * 4 / 7 * 1 / 4
    tokens = weights[FRANCE] + 0.8 * 0.5 / 4.0
    assert pruned.replacement_score == pytest.approx(tokens / (tokens + errors))
    assert 0.5 < pruned.replacement_score < 0.6
    assert pruned.completeness_score == pytest.approx(
        1 - errors / (0.8 + sum(weights.values())), abs=1e-9
    )


def test_influence_is_that_of_the_files_links() -> None:
    """Compute it from the links alone, over the ids of the file."""
    stored = france()
    ids = [entry["node_id"] for entry in stored["nodes"]]
    matrix = np.zeros((len(ids), len(ids)))
    for link in stored["links"]:
        matrix[ids.index(link["target"]), ids.index(link["source"])] = abs(link["weight"])
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1e-10)
    start = np.array([entry.get("token_prob", 0.0) for entry in stored["nodes"]])
    expected = start @ (np.linalg.inv(np.eye(len(ids)) - shares) - np.eye(len(ids)))
    external = read(stored)
    graph = graph_from_external(external)
    for number, entry in enumerate(external.nodes):
        node = entry.node
        assert node is not None
        row = graph.n_nodes - 1 if node.kind == "logit" else graph.index.row(node)
        assert graph.influence.nodes[row] == pytest.approx(expected[number])


def test_every_node_keeps_its_kind_place_id_and_label() -> None:
    graph = graph_from_external(read(france()))
    assert [(n.node, n.id, n.label, n.activation) for n in graph.generic] == [
        (NodeId("bias", 1, 5, -2), "1_bias_attn_bO_5", "L1 Bias (attn_bO)", None),
        (NodeId("bias", 1, 5, -1), "1_bias_mlp_bout_5", "L1 Bias (mlp_bout)", None),
        (NodeId("lorsa", 1, 5, 3), "1_lor_3_5", "", 1.5),
        (NodeId("lorsa error", 1, 5, -1), "1_error_attn_5", 'Err: attn " is"', None),
    ]
    assert "labels" not in graph.provenance  # "F35" only repeats a number


def test_layers_of_attention_and_mlps_may_be_counted_apart() -> None:
    """As OpenMOSS numbers them: attention of layer 3 is 6 there, its MLP is 7."""
    stored = france()
    for entry in stored["nodes"]:
        if entry["layer"] in (0, 1):
            attends = entry["feature_type"].startswith("lorsa")
            entry["layer"] = 2 * entry["layer"] + (not attends)
        elif entry["feature_type"] == "logit":
            entry["layer"] = "4"
    graph = graph_from_external(read(stored))
    assert graph.n_layers == 4
    layers = {node.kind: node.layer for node in graph.generic}
    assert layers == {"bias": 3, "lorsa": 2, "lorsa error": 2}
    row = graph.index.row(FRANCE)
    assert graph.influence.nodes[row] == pytest.approx(0.8 * 3 / 4 * 4 / 7 * 3 / 4)


def test_qk_tracing_is_read_with_the_nodes_that_were_pruned() -> None:
    graph = graph_from_external(read(france()))
    tracing = graph.qk.tracings[MOVES]
    bias, unknown = NodeId("bias", 1, LAST, -3), NodeId("unknown", 0, LAST, -1)
    assert tracing.pairs == (QkPair(KNOWS, FRANCE, 0.5), QkPair(bias, unknown, 0.25))
    assert tracing.queries == (QkShare(NodeId("token", -1, 5, 5), 0.125),)
    assert tracing.keys == (QkShare(NodeId("feature", 0, 4, 8), -0.5),)
    assert [(entry.node, entry.kind, entry.id, entry.label) for entry in graph.qk.outside] == [
        (bias, "bias", "1_bias_b_5", ""),
        (unknown, "unknown", "0_x_5", ""),
        (NodeId("feature", 0, 4, 8), "cross layer transcoder", "0_cro_8_4", "countries"),
    ]
    assert graph.provenance["left_out"] == {"qk_entries": 2}
    assert import_notes(graph)[-1] == (
        "QK tracing explains where 1 node attends; it also names 3 nodes pruned from the graph; "
        "2 entries of the QK tracing cannot be read."
    )


@pytest.mark.parametrize("damaged", [3, [], {"pair_wise_contributors": 3}, None, "x"])
def test_damaged_qk_tracing_does_not_cost_the_graph(damaged: Any) -> None:
    stored = france()
    stored["nodes"][7]["qk_tracing_results"] = damaged
    stored["qk_only_nodes"] = damaged
    graph = graph_from_external(read(stored))
    assert not graph.qk.outside and graph.provenance["left_out"]["qk_entries"] == 1
    assert write_graph_json(read(stored)) == json.dumps(stored).encode()


def test_a_node_without_a_place_is_counted_in_words() -> None:
    stored = france()
    stored["nodes"] += [
        {"node_id": "a", "feature_type": "router", "layer": None, "ctx_idx": 2},
        {"node_id": "b", "feature_type": "router", "layer": "mid", "ctx_idx": 2},
        {"node_id": "c", "feature_type": "bias", "layer": 1},
        {"node_id": "d", "feature_type": "bias", "layer": 1, "ctx_idx": 6},
    ]
    stored["links"].append({"source": "a", "target": SAYS_ID, "weight": 100.0})
    graph = graph_from_external(read(stored))
    assert len(graph.generic) == 4 and graph.n_edges == 9
    assert graph.provenance["left_out"] == {
        "nodes": {"router": 2, "bias": 2},
        "node_links": 1,
        "qk_entries": 2,
    }
    assert import_notes(graph)[:2] == (
        "The graph has 2 biases, 1 attention feature (Lorsa) and 1 attention error (Lorsa), which "
        "only the tool that wrote it computes: they take part in influence, pruning and scores, "
        "where attention errors (Lorsa) count as errors.",
        "2 biases and 2 router nodes of the file have no layer or position: left out with 1 link, "
        "and not part of the scores.",
    )
    before = without_pruning(graph_from_external(read(france())))
    assert without_pruning(graph).replacement_score == before.replacement_score


SAYS_ID = feature(1, 9, LAST)["node_id"]


@pytest.mark.parametrize("kind", ["feature", "logit ", "", "x" * 100, "a-b, c", "größe"])
def test_a_kind_of_any_name_is_read_and_written_as_it_came(kind: str, tmp_path: Path) -> None:
    stored = france()
    stored["nodes"].append(leaf(kind, "new", 0, 2, "something new"))
    stored["links"].append({"source": "0_new_2", "target": SAYS_ID, "weight": 1.0})
    graph = graph_from_external(read(stored))
    new = next(node for node in graph.generic if node.id == "0_new_2")
    assert new.kind == kind and graph.index.row(new.node) == graph.index.n_features
    graph.save(tmp_path / "graph")
    assert tracer.load_graph(tmp_path / "graph").generic == graph.generic
    written = external_from_pruned(without_pruning(graph), "x")
    entry = next(entry for entry in written.nodes if entry.node == new.node)
    assert (entry.id, entry.stored["feature_type"]) == ("0_new_2", kind)


def test_a_kind_of_absurd_length_is_refused() -> None:
    stored = france()
    stored["nodes"].append(leaf("x" * 101, "new", 0, 2))
    with pytest.raises(
        ExternalGraphError, match=r"feature_type of node '0_new_2' .* 101 character"
    ):
        read(stored)


def test_an_embedding_of_another_kind_is_below_the_first_layer() -> None:
    stored = france()
    stored["nodes"].append(leaf("position embedding", "wpe", 0, 4) | {"layer": "E"})
    stored["links"].append({"source": "0_wpe_4", "target": "0_cro_7_4", "weight": 3.0})
    graph = graph_from_external(read(stored))
    assert graph.generic[0].node == NodeId("position embedding", -1, 4, -1)
    assert graph.influence.nodes[graph.index.row(FRANCE)] == pytest.approx(
        0.8 * 3 / 4 * 4 / 7 * 3 / 4 / 2
    )


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("1_cro_9_5", "1_lor_3_5", "run in a circle through "),
        ("1_lor_3_5", "0_cro_7_4", "link 9 of the graph runs from '1_lor_3_5' to '0_cro_7_4'"),
        ("0_cro_7_4", "1_error_attn_5", "expected upward effects that do not end on an error"),
        ("1_bias_attn_bO_5", "E_4_4", "expected upward effects that do not end on an error or tok"),
    ],
)
def test_links_that_cannot_be_effects_are_refused(source: str, target: str, message: str) -> None:
    stored = france()
    stored["links"].append({"source": source, "target": target, "weight": 1.0})
    with pytest.raises(ExternalGraphError, match=message):
        graph_from_external(read(stored))


@pytest.mark.parametrize(
    ("label", "token", "expected"),
    [
        ('Output " Paris" (p=0.800)', None, " Paris"),
        ('Logit " Paris" (p=0.800)', None, " Paris"),
        ("output: ' Paris' (p=0.800)", None, " Paris"),
        ('Output ""quoted"" (p=8e-05)', None, '"quoted"'),
        ('"Paris" (p=0.8)', None, "Paris"),
        ("Paris (p=0.8)", None, "Paris"),
        ("Paris", None, "Paris"),
        ("F11", " Paris", " Paris"),
        ('Logit "?" (p=0.800)', " Paris", " Paris"),
        ("", None, "token 11"),
        ("", 3, "token 11"),
    ],
)
def test_the_answer_is_named_by_its_token_or_its_label(
    label: str, token: Any, expected: str
) -> None:
    stored = france()
    stored["nodes"][-1] |= {"clerp": label, "token": token}
    assert graph_from_external(read(stored)).targets[0].label == expected


def test_a_probability_that_only_the_label_has_is_used() -> None:
    stored = france()
    del stored["nodes"][-1]["token_prob"]
    assert graph_from_external(read(stored)).targets[0].probability == 0.8
    stored["nodes"][-1]["clerp"] = 'Logit " Paris" (p=1.2.3)'
    assert graph_from_external(read(stored)).targets[0].probability == 0.0


def test_what_is_written_from_a_graph_is_read_again_as_the_same_graph(tmp_path: Path) -> None:
    graph = graph_from_external(read(france()))
    graph.save(tmp_path / "graph")
    stored = tracer.load_graph(tmp_path / "graph")
    content = write_graph_json(external_from_pruned(without_pruning(stored), "france"))
    again = graph_from_external(read_graph_json(content))
    assert again.generic == graph.generic
    assert again.qk.tracings == graph.qk.tracings
    assert set(again.qk.outside) == set(graph.qk.outside)
    assert (again.to_dense() == graph.to_dense()).all()
    assert again.targets == graph.targets


def test_a_pruned_contributor_of_qk_tracing_is_described_in_the_file() -> None:
    graph = graph_from_external(read(france()))
    pruned = without_pruning(graph)
    mask = pruned.node_mask.copy()
    mask[graph.index.row(KNOWS)] = False
    smaller = external_from_pruned(
        replace(
            pruned,
            node_mask=mask,
            edge_mask=pruned.edge_mask
            & (graph.sources != graph.index.row(KNOWS))
            & (graph.rows != graph.index.row(KNOWS)),
        ),
        "x",
    )
    assert set(smaller.other["qk_only_nodes"]) == {"0_7_4", "1_bias_b_5", "0_x_5", "0_cro_8_4"}
    again = graph_from_external(read_graph_json(write_graph_json(smaller)))
    assert again.qk.tracings[MOVES].pairs[0] == QkPair(KNOWS, FRANCE, 0.5)
    assert KNOWS in {entry.node for entry in again.qk.outside}


def test_an_id_that_a_generic_node_shares_with_a_feature_is_told_apart() -> None:
    graph = random_attention_graph(1)
    clash = "{}_{}_{}".format(*graph.features[0][[0, 2, 1]])
    nodes = (replace(graph.generic[0], id=clash), *graph.generic[1:])
    external = external_from_pruned(without_pruning(replace(graph, generic=nodes)), "x")
    again = graph_from_external(read_graph_json(write_graph_json(external)))
    assert again.n_edges == graph.n_edges
    assert f"{clash}_{nodes[0].kind}" in [node.id for node in again.generic]


SCHEMA = Path(os.environ.get("CIRCUIT_SHARED_GRAPHS", "/nowhere")).parent / "schemas"


@pytest.mark.skipif(not SCHEMA.is_dir(), reason="no published schemas beside CIRCUIT_SHARED_GRAPHS")
@pytest.mark.parametrize("seed", range(3))
def test_exports_are_valid_against_the_published_schema(seed: int) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((SCHEMA / "graph-schema.json").read_text())
    pruned = tracer.prune(random_attention_graph(seed))
    jsonschema.validate(json.loads(write_graph_json(external_from_pruned(pruned, "x"))), schema)
    graph = graph_from_external(read(france()))
    content = write_graph_json(external_from_pruned(without_pruning(graph), "france"))
    jsonschema.validate(json.loads(content), schema)


def test_a_single_node_of_another_kind_is_told_in_the_singular() -> None:
    assert import_notes(graph_from_external(read(published()))) == (
        "The graph has 1 attention feature (Lorsa), which only the tool that wrote it computes: it "
        "takes part in influence, pruning and scores.",
    )
