"""Graphs of other tools are read in all their forms, and nothing of them is lost."""

from __future__ import annotations

import copy
import gzip
import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

import tracer
from tracer.errors import ExternalGraphError
from tracer.graph.comparison import compare_graphs
from tracer.interchange.convert import external_from_pruned, graph_from_external
from tracer.interchange.graph_json import (
    cantor_pair,
    cantor_unpair,
    read_graph_json,
    write_graph_json,
)
from tracer.interchange.nodes import explained_by
from tracer.model.model import Model
from tracer.types import NodeId, Supernode

TOKENS = ["<bos>", " big", " dog"]


def node(name: str, kind: str, layer: str, position: int, **more: Any) -> dict[str, Any]:
    return {
        "node_id": name,
        "feature": more.pop("feature", 0),
        "layer": layer,
        "ctx_idx": position,
        "feature_type": kind,
        "jsNodeId": f"{name}-0",
        "clerp": more.pop("clerp", ""),
        **more,
    }


def published() -> dict[str, Any]:
    """Two layers; a feature of each, an old and a new error id, a kind that nobody knows."""
    feature = "cross layer transcoder"
    return {
        "metadata": {"slug": "s", "scan": "gemma", "prompt_tokens": TOKENS, "prompt": "big dog"},
        "qParams": {
            "pinnedIds": ["0_7_1", "0_1_2"],
            "supernodes": [["size", "0_7_1", "1_9_2"]],
            "linkType": "both",
        },
        "nodes": [
            node("E_5_1", "embedding", "E", 1),
            node("0_7_1", feature, "0", 1, feature=cantor_pair(0, 7), activation=2.5, own={"a": 1}),
            node("1_9_2", "unexplored node", "1", 2, feature=54, activation=None),
            node("0_1_2", "mlp reconstruction error", "1", 2, feature=-1),  # of layer 1
            node("0_-1_1", "mlp reconstruction error", "0", 1, feature=-1),
            node("lorsa", "lorsa", "1", 2, feature=3),
            node("3_11_2", "logit", "3", 2, clerp='Output " bark" (p=0.700)', token_prob=0.7),
            node("3_12_2", "logit", "3", 2, clerp='Output " run" (p=0.200)', token_prob=0.2),
        ],
        "links": [
            {"source": "E_5_1", "target": "0_7_1", "weight": 1.5},
            {"source": "0_7_1", "target": "1_9_2", "weight": -0.5},
            {"source": "0_1_2", "target": "3_11_2", "weight": 0.25},
            {"source": "1_9_2", "target": "3_11_2", "weight": 2},
            {"source": "lorsa", "target": "3_11_2", "weight": 9.0},
        ],
        "qk_only_nodes": {"x": {"node_id": "x"}},
    }


def read(stored: dict[str, Any]) -> Any:
    return read_graph_json(json.dumps(stored).encode())


def test_nodes_are_read_from_their_fields_and_errors_get_the_newer_id() -> None:
    shared = read(published())
    assert [(entry.id, entry.node) for entry in shared.nodes] == [
        ("E_5_1", NodeId("token", -1, 1, 5)),
        ("0_7_1", NodeId("feature", 0, 1, 7)),
        ("1_9_2", NodeId("feature", 1, 2, 9)),
        ("1_-1_2", NodeId("error", 1, 2, -1)),
        ("0_-1_1", NodeId("error", 0, 1, -1)),
        ("lorsa", None),
        ("3_11_2", NodeId("logit", 2, 2, 11)),
        ("3_12_2", NodeId("logit", 2, 2, 12)),
    ]
    assert shared.pinned == ("0_7_1", "1_-1_2")
    assert shared.supernodes == (("size", ("0_7_1", "1_9_2")),)
    assert shared.nodes[int(shared.sources[2])].id == "1_-1_2"
    assert shared.weights.tolist() == [1.5, -0.5, 0.25, 2.0, 9.0]


def test_what_is_read_and_written_again_is_the_same(tmp_path: Path) -> None:
    shared = read(published())
    path = tmp_path / "graph.json"
    content = write_graph_json(shared, path)
    assert path.read_bytes() == content and len(list(tmp_path.iterdir())) == 1
    again = read_graph_json(path)
    assert write_graph_json(again) == content
    stored = json.loads(content)
    assert stored["nodes"][1]["own"] == {"a": 1}
    assert stored["nodes"][2]["activation"] is None
    assert stored["qk_only_nodes"] == published()["qk_only_nodes"]
    assert stored["qParams"]["linkType"] == "both"
    assert {link["source"] for link in stored["links"]} <= {n["node_id"] for n in stored["nodes"]}


def test_pins_and_supernodes_may_be_texts_and_nulls_are_dropped() -> None:
    stored = published()
    stored["qParams"] = {
        "pinnedIds": "0_7_1,1_9_2",
        "supernodes": '[["size","0_7_1"]]',
        "clickedId": None,
    }
    stored["metadata"]["node_threshold"] = None
    stored["nodes"][0]["clerp"] = None
    shared = read(stored)
    assert shared.pinned == ("0_7_1", "1_9_2")
    assert shared.supernodes == (("size", ("0_7_1",)),)
    written = json.loads(write_graph_json(shared))
    assert "clickedId" not in written["qParams"]
    assert "node_threshold" not in written["metadata"]
    assert written["nodes"][0]["clerp"] == ""


def test_a_paired_feature_is_told_apart_where_the_id_does_not_tell() -> None:
    for layer, index in ((0, 0), (0, 12284), (25, 16383), (3, 2_500_000)):
        assert cantor_unpair(cantor_pair(layer, index)) == (layer, index)
    stored = published()
    stored["nodes"][1] |= {"node_id": "mine"}
    stored["nodes"][2] |= {"node_id": "other", "feature": 9}  # a plain number
    for link in stored["links"]:
        for side in ("source", "target"):
            link[side] = {"0_7_1": "mine", "1_9_2": "other"}.get(link[side], link[side])
    shared = read(stored)
    assert shared.nodes[1].node == NodeId("feature", 0, 1, 7)
    assert shared.nodes[2].node == NodeId("feature", 1, 2, 9)


def damaged(change: str, value: Any = None) -> dict[str, Any]:
    stored = copy.deepcopy(published())
    path = change.split("/")
    place: Any = stored
    for key in path[:-1]:
        place = place[int(key) if key.isdecimal() else key]
    last = int(path[-1]) if path[-1].isdecimal() else path[-1]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return stored


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        (damaged("metadata"), "has no 'metadata'"),
        (damaged("metadata/prompt_tokens"), "has no 'prompt_tokens'"),
        (damaged("metadata/prompt_tokens", "big"), "no list of texts"),
        (damaged("metadata/slug"), "has no 'slug'"),
        (damaged("nodes", {"a": 1}), "expected a list"),
        (damaged("nodes/1/feature_type"), "has no 'feature_type'"),
        (damaged("nodes/1/ctx_idx", 3), "position 3: the prompt has positions 0 to 2"),
        (damaged("nodes/1/ctx_idx", -1), "position -1"),
        (damaged("nodes/1/layer", "-2"), "layer '-2'"),
        (damaged("nodes/1/layer", "x"), "layer 'x'"),
        (damaged("nodes/1/activation", "much"), "activation of node '0_7_1'"),
        (damaged("nodes/1/node_id", "1_9_2"), "two nodes of the graph are called '1_9_2'"),
        (damaged("nodes/1/node_id", "0_1_2"), "called '0_1_2'|both a feature and an error"),
        (damaged("links/0/source", "nowhere"), "link 0 of the graph leads to 'nowhere'"),
        (damaged("links/1/weight", "heavy"), "link 1 of the graph has the weight 'heavy'"),
        (damaged("links/1/weight", float("nan")), "NaN is no number"),
        (damaged("links/1/weight", 1e300), r"link 1 of the graph has the weight 1e\+300"),
        (damaged("links/1/weight", 10**400), "link 1 of the graph has the weight 1000"),
        (damaged("nodes/6/token_prob", -1), "token_prob of node '3_11_2' of the graph is -1"),
        (damaged("nodes/1/clerp", "\ud800"), "surrogates not allowed"),
        (damaged("qParams/pinnedIds", 3), "pinnedIds of the graph cannot be read"),
        (damaged("links/1/weight"), "has no 'weight'"),
        (damaged("links/1", 3), "expected an object"),
        (damaged("qParams/supernodes", [3]), "the supernodes of the graph cannot be read"),
        (damaged("qParams/supernodes", ["ab"]), "found a str among them"),
        (damaged("qParams/supernodes", {"ab": ["0_7_1"]}), "found a str among them"),
        (damaged("qParams/supernodes", "[" * 100_000), "the supernodes of the graph cannot be rea"),
        (damaged("qParams/pinnedIds", "[" * 100_000), "pinnedIds of the graph cannot be read"),
        (damaged("qParams/pinnedIds", {"0_7_1": 1}), "found a dict"),
        (damaged("nodes/1/ctx_idx", True), "position True"),
        (damaged("nodes/1/ctx_idx", 10**4000), "position 1000"),
        (damaged("nodes/1/layer", 0.7), "layer 0.7"),
        (damaged("nodes/1/layer", "1_0"), "layer '1_0'"),
        (damaged("nodes/1/layer", "9" * 4000), "layer '9999"),
        (damaged("nodes/6/token_prob", 5), "token_prob of node '3_11_2' of the graph is 5"),
    ],
)
def test_damage_is_named(stored: dict[str, Any], said: str) -> None:
    with pytest.raises(ExternalGraphError, match=said) as raised:
        read(stored)
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize("place", ["metadata/mine", "nodes/1/own", "links/1/weight"])
def test_a_number_that_could_not_be_written_again_is_refused(place: str) -> None:
    content = json.dumps(damaged(place, "TOO MUCH")).encode().replace(b'"TOO MUCH"', b"1e400")
    with pytest.raises(ExternalGraphError, match="1e400 is larger than any number"):
        read_graph_json(content)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_every_encoding_of_unicode_is_read_but_no_half_characters(encoding: str) -> None:
    text = json.dumps(damaged("nodes/1/clerp", "größer"), ensure_ascii=False)
    assert read_graph_json(text.encode(encoding)).nodes[1].label == "größer"
    raw = text.replace("größer", "\ud800").encode(encoding, "surrogatepass")
    escaped = text.replace("größer", "\\uD800").encode(encoding)
    for half in (raw, escaped):
        with pytest.raises(ExternalGraphError, match="is no JSON"):
            read_graph_json(half)


def test_a_file_that_is_packed_or_empty_is_called_so() -> None:
    with pytest.raises(ExternalGraphError, match="is gzipped: unpack it first"):
        read_graph_json(gzip.compress(json.dumps(published()).encode()))
    for nothing in (b"", b" \n"):
        with pytest.raises(ExternalGraphError, match="is empty"):
            read_graph_json(nothing)


def test_other_threads_go_on_while_a_large_file_is_parsed() -> None:
    stored = damaged("mine", [0.5] * 2_000_000)
    content = json.dumps(stored).encode()
    stalls: list[float] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            before = time.perf_counter()
            time.sleep(0.001)
            stalls.append(time.perf_counter() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    begun = time.perf_counter()
    read_graph_json(content)
    whole = time.perf_counter() - begun
    done.set()
    watcher.join()
    assert len(stalls) > 20 and max(stalls) < whole / 2


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
def test_a_link_that_runs_in_a_circle_downward_or_to_an_error_is_refused(
    source: str, target: str
) -> None:
    stored = published()
    stored["links"].append({"source": source, "target": target, "weight": 1.0})
    with pytest.raises(ExternalGraphError, match=r"link 5 of the graph .* effects that run upward"):
        graph_from_external(read(stored))


def test_links_between_the_same_two_nodes_are_one_effect() -> None:
    stored = published()
    stored["links"].append({"source": "0_7_1", "target": "1_9_2", "weight": 3.0})
    shared = read(stored)
    graph = graph_from_external(shared)
    assert sorted(graph.weights.tolist()) == [0.25, 1.5, 2.0, 2.5]
    assert len(json.loads(write_graph_json(shared))["links"]) == 6
    stored["links"] += [{"source": "0_7_1", "target": "1_9_2", "weight": 3e38}] * 2
    with pytest.raises(ExternalGraphError, match="add up to infinity"):
        graph_from_external(read(stored))


def test_a_graph_without_links_is_read() -> None:
    stored = published() | {"links": []}
    assert graph_from_external(read(stored)).n_edges == 0


@pytest.mark.parametrize(
    ("twice", "name"), [(0, "E_6_1"), (6, "4_11_2"), (1, "00_7_1"), (4, "0_-1_1_")]
)
def test_two_nodes_that_are_the_same_are_refused(twice: int, name: str) -> None:
    stored = published()
    stored["nodes"].append(stored["nodes"][twice] | {"node_id": name})
    with pytest.raises(ExternalGraphError, match=r"at the same token|are called"):
        graph_from_external(read(stored))


def test_answers_without_label_probability_or_a_layer_are_still_answers() -> None:
    stored = published()
    tokens = [entry for entry in stored["nodes"] if entry["feature_type"] == "embedding"]
    answer = node("mine", "logit", "0", 2, feature=11)
    stored |= {"nodes": [*tokens, answer], "links": [], "qParams": {}}
    graph = graph_from_external(read(stored))
    assert [(t.label, t.probability) for t in graph.targets] == [("token 11", 0.0)]
    pruned = tracer.prune(graph)
    assert pruned.replacement_score == pruned.completeness_score == 1.0


def test_names_that_are_nested_too_deeply_are_passed_over() -> None:
    stored = published()
    stored["qParams"]["clerps"] = "[" * 100_000
    assert graph_from_external(read(stored)).provenance["imported"] == "s"


def test_no_json_no_file_and_too_much_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ExternalGraphError, match="is no JSON"):
        read_graph_json(b"{")
    with pytest.raises(ExternalGraphError, match="expected an object"):
        read_graph_json(b"[]")
    with pytest.raises(ExternalGraphError, match="cannot be read: No such file"):
        read_graph_json(tmp_path / "absent.json")
    with pytest.raises(ExternalGraphError, match="cannot be read: Is a directory"):
        read_graph_json(tmp_path)
    monkeypatch.setattr("tracer.interchange.graph_json.MAX_NODES", 7)
    with pytest.raises(ExternalGraphError, match="has 8 nodes, at most 7 can be shown"):
        read(published())
    monkeypatch.setattr("tracer.interchange.graph_json.MAX_BYTES", 100)
    with pytest.raises(ExternalGraphError, match="at most 0 can be read"):
        read(published())


def test_an_imported_graph_is_one_of_ours() -> None:
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
    }
    stored = published()
    stored["nodes"] = [entry for entry in stored["nodes"] if entry["feature_type"] != "logit"]
    stored["links"] = stored["links"][:2]
    with pytest.raises(ExternalGraphError, match="no logit node"):
        graph_from_external(read(stored))


def test_a_trace_of_ours_comes_back_with_every_edge_pin_and_label(model: Model) -> None:
    pruned = tracer.prune(tracer.trace(model, tiny.IDS))
    feature = next(n for n in pruned.nodes if n.kind == "feature")
    error = next(n for n in pruned.nodes if n.kind == "error")
    stranger = NodeId("feature", 0, 1, 10_000)
    shared = external_from_pruned(
        pruned,
        "mine",
        {feature.feature: "about w5"},
        pinned=(feature, stranger),
        supernodes=(Supernode("pair", (feature, error)), Supernode("gone", (stranger,))),
    )
    again = read_graph_json(write_graph_json(shared))
    assert [entry.node for entry in again.nodes] == list(pruned.nodes)
    name = f"{feature.layer}_{feature.index}_{feature.position}"
    assert again.pinned == (name,)
    assert again.supernodes == (("pair", (name, f"{error.layer}_-1_{error.position}")),)
    labelled = [entry for entry in again.nodes if entry.label == "about w5"]
    assert {entry.node.feature for entry in labelled if entry.node} == {feature.feature}
    imported = graph_from_external(again)
    theirs = tracer.prune(imported, 1.0, 1.0)
    found = compare_graphs(pruned, theirs)
    assert not found.same_dictionary  # the file does not say which weights it is from
    ours = sorted(map(float, pruned.edges[2]))
    assert sorted(map(float, imported.weights)) == pytest.approx(ours)
    first = again.nodes[
        int(np.argmax([n.node is not None and n.node.kind == "logit" for n in again.nodes]))
    ]
    assert first.label.startswith('Output "') and first.stored["is_target_logit"] is True
    entered = [n.stored["influence"] for n in again.nodes if n.node and n.node.kind == "feature"]
    assert 0 < min(entered) <= max(entered) <= 1


def test_a_target_that_is_no_token_comes_back_by_its_name(model: Model) -> None:
    graph = tracer.trace(model, tiny.IDS, targets=[tracer.Contrast("w3", "w5")])
    shared = external_from_pruned(tracer.prune(graph), "mine")
    imported = graph_from_external(read_graph_json(write_graph_json(shared)))
    assert [target.label for target in imported.targets] == [graph.targets[0].label]
    assert imported.index.node(imported.n_nodes - 1).index < 0


@pytest.mark.parametrize(
    ("provenance", "found"),
    [
        ({"scan": "gemma-2-2b", "source_set": "clt-hp"}, ("gemma-2-2b", "clt-hp")),
        (
            {"scan": "x", "source_urls": ["https://a.org/b/c", "https://neuronpedia.org/m-2/s-hp"]},
            ("m-2", "s-hp"),
        ),
        ({"transcoder_set": "mntss/clt-gemma-2-2b-2.5M"}, ("gemma-2-2b", "clt-hp")),
        ({"transcoder_set": "mntss/clt-gemma-2-2b-426k"}, None),
        ({"scan": "gemma-2-2b", "source_urls": ["https://neuronpedia.org/gemma-2-2b"]}, None),
        ({"source_urls": ["https://neuronpedia.org/m/../../etc"]}, None),
        ({}, None),
    ],
)
def test_an_imported_graph_says_who_explains_its_features(
    provenance: dict[str, Any], found: tuple[str, str] | None
) -> None:
    assert explained_by(provenance) == found


def test_neuronpedias_own_word_for_the_set_is_kept() -> None:
    stored = published()
    stored["metadata"]["feature_details"] = {"neuronpedia_source_set": "clt-hp"}
    graph = graph_from_external(read_graph_json(json.dumps(stored).encode()))
    assert explained_by(graph.provenance) == ("gemma", "clt-hp")
