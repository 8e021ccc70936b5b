"""Published graphs are read in every flavour, and written again without losing anything."""

from __future__ import annotations

import gzip
import json
import re
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from published_graphs import changed, published, read

from tracer.errors import ExternalGraphError
from tracer.interchange.graph_json import (
    cantor_pair,
    cantor_unpair,
    read_graph_json,
    write_graph_json,
)
from tracer.types import NodeId


def test_nodes_are_read_from_their_fields_and_keep_their_ids() -> None:
    external = read(published())
    assert [(entry.id, entry.node) for entry in external.nodes] == [
        ("E_5_1", NodeId("token", -1, 1, 5)),
        ("0_7_1", NodeId("feature", 0, 1, 7)),
        ("1_9_2", NodeId("feature", 1, 2, 9)),
        ("0_1_2", NodeId("error", 1, 2, -1)),
        ("0_-1_1", NodeId("error", 0, 1, -1)),
        ("lorsa", NodeId("lorsa", 1, 2, 3)),
        ("3_11_2", NodeId("logit", 2, 2, 11)),
        ("3_12_2", NodeId("logit", 2, 2, 12)),
    ]
    assert external.pinned == ("0_7_1", "0_1_2")
    assert external.supernodes == (("size", ("0_7_1", "1_9_2")),)
    assert external.nodes[int(external.sources[2])].id == "0_1_2"
    assert external.weights.tolist() == [1.5, -0.5, 0.25, 2.0, 9.0]


def test_reading_and_writing_again_loses_nothing(tmp_path: Path) -> None:
    external = read(published())
    path = tmp_path / "graph.json"
    content = write_graph_json(replace(external, pinned=()), path)
    assert path.read_bytes() == content and len(list(tmp_path.iterdir())) == 1
    again = read_graph_json(path)
    assert write_graph_json(again) == content
    stored = json.loads(content)
    assert stored["nodes"][1]["own"] == {"a": 1}
    assert stored["nodes"][2]["activation"] is None
    assert stored["qk_only_nodes"] == published()["qk_only_nodes"]
    assert stored["qParams"]["linkType"] == "both"
    assert {link["source"] for link in stored["links"]} <= {n["node_id"] for n in stored["nodes"]}


def test_pins_and_supernodes_may_be_strings_and_a_changed_graph_has_no_nulls() -> None:
    stored = published()
    stored["qParams"] = {
        "pinnedIds": "0_7_1,1_9_2",
        "supernodes": '[["size","0_7_1"]]',
        "clickedId": None,
    }
    stored["metadata"]["node_threshold"] = None
    stored["nodes"][0]["clerp"] = None
    external = read(stored)
    assert external.pinned == ("0_7_1", "1_9_2")
    assert external.supernodes == (("size", ("0_7_1",)),)
    written = json.loads(write_graph_json(replace(external, pinned=("1_9_2",))))
    assert written["qParams"] == {
        "pinnedIds": ["1_9_2"],
        "supernodes": '[["size","0_7_1"]]',  # as it was, because nobody changed it
    }
    assert "node_threshold" not in written["metadata"]
    assert written["nodes"][0]["clerp"] == ""


def test_a_paired_number_gives_the_feature_where_the_id_does_not() -> None:
    for layer, index in ((0, 0), (0, 12284), (25, 16383), (3, 2_500_000)):
        assert cantor_unpair(cantor_pair(layer, index)) == (layer, index)
    stored = published()
    stored["nodes"][1] |= {"node_id": "mine"}
    stored["nodes"][2] |= {"node_id": "other", "feature": 9}  # a plain number
    for link in stored["links"]:
        for side in ("source", "target"):
            link[side] = {"0_7_1": "mine", "1_9_2": "other"}.get(link[side], link[side])
    external = read(stored)
    assert external.nodes[1].node == NodeId("feature", 0, 1, 7)
    assert external.nodes[2].node == NodeId("feature", 1, 2, 9)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (changed("metadata"), "has no 'metadata'"),
        (changed("metadata", 3), "metadata of the graph is a int, expected an object"),
        (changed("metadata/prompt_tokens"), "has no 'prompt_tokens'"),
        (changed("metadata/prompt_tokens", "big"), "is not a list of strings"),
        (changed("metadata/prompt"), "has no 'prompt'"),
        (changed("metadata/slug", ["s"]), "slug of the graph is a list, expected a string"),
        (changed("metadata/prompt", {}), "prompt of the graph is a dict, expected a string"),
        (changed("nodes", {"a": 1}), "nodes of the graph is a dict, expected a list"),
        (changed("nodes/1/node_id", [1]), "node_id of a node of the graph is a list"),
        (changed("nodes/1/node_id", "1_9_2"), "the graph has two nodes with the id '1_9_2'"),
        (changed("nodes/1/feature_type"), "node '0_7_1' of the graph has no 'feature_type'"),
        (changed("nodes/1/feature_type", [1]), "feature_type of node '0_7_1' of the graph is a li"),
        (changed("nodes/1/ctx_idx", 3), "is at position 3, expected 0 to 2"),
        (changed("nodes/1/ctx_idx", -1), "is at position -1, expected 0 to 2"),
        (changed("nodes/1/ctx_idx", True), "is at position True, expected 0 to 2"),
        (changed("nodes/1/ctx_idx", 10**4000), "is at position 1000"),
        (changed("nodes/1/layer", "-2"), "layer of node '0_7_1' of the graph is '-2'"),
        (changed("nodes/1/layer", "x"), "layer of node '0_7_1' of the graph is 'x'"),
        (changed("nodes/1/layer", 0.7), "layer of node '0_7_1' of the graph is 0.7"),
        (changed("nodes/1/layer", "1_0"), "layer of node '0_7_1' of the graph is '1_0'"),
        (changed("nodes/1/layer", "9" * 4000), "layer of node '0_7_1' of the graph is '9999"),
        (changed("nodes/1/layer", [0]), "layer of node '0_7_1' of the graph is a list"),
        (
            changed("nodes/1/activation", "much"),
            "activation of node '0_7_1' of the graph is 'much'",
        ),
        (changed("nodes/1/clerp", ["a"]), "clerp of node '0_7_1' of the graph is a list"),
        (changed("nodes/1/clerp", "\ud800"), "surrogates not allowed"),
        (changed("nodes/6/token_prob", -1), "token_prob of node '3_11_2' of the graph is -1"),
        (changed("nodes/6/token_prob", 5), "token_prob of node '3_11_2' of the graph is 5"),
        (changed("links/0/source"), "link 0 of the graph has no 'source'"),
        (changed("links/0/target", [1]), "target of link 0 of the graph is a list"),
        (changed("links/1/weight", "heavy"), "link 1 of the graph has the weight 'heavy'"),
        (changed("links/1/weight", float("nan")), "NaN is not a JSON number"),
        (changed("links/1/weight", 1e300), r"link 1 of the graph has the weight 1e\+300"),
        (changed("links/1/weight", 10**400), "link 1 of the graph has the weight 1000"),
        (changed("links/1/weight"), "link 1 of the graph has no 'weight'"),
        (changed("links/1", 3), "link 1 of the graph is a int, expected an object"),
        (changed("qParams/pinnedIds", 3), "pinnedIds of the graph cannot be read .it is a int"),
        (
            changed("qParams/pinnedIds", {"0_7_1": 1}),
            "pinnedIds .*it is a dict",
        ),
        (changed("qParams/pinnedIds", [["0_7_1"]]), "pinnedIds .*an entry is a list"),
        (changed("qParams/pinnedIds", "[" * 100_000), "pinnedIds .*it is nested too deeply"),
        (changed("qParams/supernodes", [3]), "supernodes .*an entry is a int"),
        (changed("qParams/supernodes", ["ab"]), "supernodes .*an entry is a str"),
        (changed("qParams/supernodes", {"ab": ["0_7_1"]}), "supernodes .*an entry is a str"),
        (changed("qParams/supernodes", [[]]), "supernodes of the graph cannot be read"),
        (changed("qParams/supernodes", [["a", ["b"]]]), "supernodes .*an entry is a list"),
        (changed("qParams/supernodes", "[" * 100_000), "supernodes .*it is nested too deeply"),
        (changed("qParams/supernodes", '[["\\ud800"]]'), "supernodes .*surrogates not allowed"),
    ],
)
def test_the_error_names_what_is_wrong(stored: dict[str, Any], message: str) -> None:
    with pytest.raises(ExternalGraphError, match=message) as raised:
        read(stored)
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize("place", ["metadata/mine", "nodes/1/own", "links/1/weight"])
def test_a_number_that_cannot_be_written_again_is_refused(place: str) -> None:
    content = json.dumps(changed(place, "TOO MUCH")).encode().replace(b'"TOO MUCH"', b"1e400")
    with pytest.raises(ExternalGraphError, match="1e400 is out of range"):
        read_graph_json(content)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_every_unicode_encoding_is_read_but_lone_surrogates_are_not(encoding: str) -> None:
    text = json.dumps(changed("nodes/1/clerp", "größer"), ensure_ascii=False)
    assert read_graph_json(text.encode(encoding)).nodes[1].label == "größer"
    raw = text.replace("größer", "\ud800").encode(encoding, "surrogatepass")
    escaped = text.replace("größer", "\\uD800").encode(encoding)
    for lone in (raw, escaped):
        with pytest.raises(ExternalGraphError, match="is not JSON"):
            read_graph_json(lone)


def test_a_nested_value_is_written_again_or_refused_whatever_its_depth() -> None:
    """The parser and the writer give up at slightly different depths."""
    written = 0
    for depth in range(500, 1200):
        content = json.dumps(changed("mine", "DEEP")).replace('"DEEP"', "[" * depth + "]" * depth)
        try:
            again = write_graph_json(read_graph_json(content.encode()))
        except ExternalGraphError:
            continue
        assert again.count(b"[") > depth
        written += 1
    assert 100 < written < 700


def test_a_value_that_is_not_json_cannot_be_written() -> None:
    external = read(published())
    for value in ({1}, float("nan"), "\ud800"):
        external.metadata["mine"] = value  # type: ignore[index]
        with pytest.raises(ExternalGraphError, match="the graph cannot be written as JSON"):
            write_graph_json(external)


def test_a_compressed_or_empty_file_is_recognised() -> None:
    with pytest.raises(ExternalGraphError, match="is gzip-compressed: decompress it"):
        read_graph_json(gzip.compress(json.dumps(published()).encode()))
    for nothing in (b"", b" \n"):
        with pytest.raises(ExternalGraphError, match="is empty"):
            read_graph_json(nothing)


def test_other_threads_run_while_a_large_file_is_parsed() -> None:
    content = json.dumps(changed("mine", [0.5] * 2_000_000)).encode()
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
    duration = time.perf_counter() - begun
    done.set()
    watcher.join()
    assert len(stalls) > 20 and max(stalls) < duration / 2


def test_what_is_not_json_or_not_a_file_is_refused(tmp_path: Path) -> None:
    for content, message in (
        (b"{", "the graph is not JSON"),
        (b"9" * 5000, "the graph is not JSON"),
        (b"[]", "the graph is a list, expected an object"),
    ):
        with pytest.raises(ExternalGraphError, match=message):
            read_graph_json(content)
    for path, message in (
        (tmp_path / "absent.json", "absent.json cannot be read: No such file"),
        (tmp_path, "cannot be read: Is a directory"),
        ("a\0.json", r"'a\x00.json' cannot be read: embedded null byte"),
    ):
        with pytest.raises(ExternalGraphError, match=re.escape(message)):
            read_graph_json(path)


def test_a_graph_beyond_the_limits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracer.interchange.graph_json.MAX_NODES", 7)
    with pytest.raises(ExternalGraphError, match="has 8 nodes, at most 7 can be read"):
        read(published())
    monkeypatch.setattr("tracer.interchange.graph_json.MAX_BYTES", 100)
    with pytest.raises(ExternalGraphError, match="at most 100 bytes can be read"):
        read(published())
