"""Files that were filtered or written by older tools open, and say what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from published_graphs import node, published, read

import tracer
from tracer.__main__ import main
from tracer.graph.pruning import without_pruning
from tracer.interchange.convert import graph_from_external
from tracer.interchange.graph_json import cantor_pair, read_graph_json, write_graph_json
from tracer.interchange.notes import import_notes
from tracer.types import NodeId


def test_links_to_missing_nodes_are_left_out_and_counted() -> None:
    stored = published()
    full = graph_from_external(read(stored))
    stored["links"] += [
        {"source": "0_99_1", "target": "1_9_2", "weight": 100.0},
        {"source": "1_9_2", "target": "3_99_2", "weight": 100.0},
    ]
    external = read(stored)
    graph = graph_from_external(external)
    assert (external.missing_links, graph.n_edges) == (2, full.n_edges)
    assert (graph.to_dense() == full.to_dense()).all()
    assert without_pruning(graph).replacement_score == without_pruning(full).replacement_score
    assert (
        "2 links of the file lead to nodes that are not in it: left out, and not part of the "
        "scores."
    ) in import_notes(graph)
    assert write_graph_json(external) == external.original


@pytest.mark.parametrize("key", ["slug", "scan"])
def test_a_missing_name_is_the_files(key: str, tmp_path: Path) -> None:
    stored = published()
    del stored["metadata"][key]
    path = tmp_path / "big-dog.json"
    path.write_text(json.dumps(stored))
    external = read_graph_json(path)
    assert getattr(external, key) == "big-dog"
    assert graph_from_external(external).provenance["imported" if key == "slug" else key] == (
        "big-dog"
    )
    assert write_graph_json(external) == path.read_bytes()


def colliding(*links: tuple[str, str]) -> dict[str, Any]:
    """Return a graph with feature 2 of layer 0, and the error of layer 2, both ``0_2_1``."""
    stored = published()
    kind = "cross layer transcoder"
    stored["nodes"] = [
        node("E_5_1", "embedding", "E", 1),
        node("0_2_1", kind, "0", 1, feature=cantor_pair(0, 2)),
        node("0_2_1", "mlp reconstruction error", "2", 1, feature=-1),
        node("1_9_1", kind, "1", 1, feature=cantor_pair(1, 9)),
        node("3_4_1", kind, "3", 1, feature=cantor_pair(3, 4)),
        node("5_11_2", "logit", "5", 2, token_prob=0.7),
    ]
    stored["qParams"] = {}
    stored["links"] = [{"source": s, "target": t, "weight": 1.0} for s, t in links]
    return stored


def test_an_older_id_that_two_nodes_share_is_told_by_the_links_direction() -> None:
    feature, error = NodeId("feature", 0, 1, 2), NodeId("error", 2, 1, -1)
    stored = colliding(("E_5_1", "0_2_1"), ("0_2_1", "1_9_1"), ("0_2_1", "3_4_1"))
    graph = graph_from_external(read(stored))
    edges = {
        (graph.index.node(s), graph.index.node(t))
        for s, t in zip(graph.sources.tolist(), graph.rows.tolist(), strict=True)
    }
    assert edges == {
        (NodeId("token", -1, 1, 5), feature),  # an error has no inputs
        (feature, NodeId("feature", 1, 1, 9)),  # an error of layer 2 cannot reach down
    }
    assert error in graph.index
    assert (
        "1 id of the file means both a feature and an error: the direction of each link tells "
        "which, except for 1 link, which is left out and not part of the scores."
    ) in import_notes(graph)


def test_the_command_line_writes_an_unchanged_file_byte_for_byte(tmp_path: Path) -> None:
    stored = published()
    stored["metadata"]["info"] = {"source_urls": ["https://a.org"], "mine": 1}
    stored["metadata"]["feature_details"] = {"neuronpedia_source_set": "x"}
    file = json.dumps(stored, indent=3, ensure_ascii=False).replace("0.25", "2.50E-1").encode()
    source, target = tmp_path / "published.json", tmp_path / "out.json"
    source.write_bytes(file)
    assert main(["export", str(source), str(target)]) == 0
    assert target.read_bytes() == file
    assert write_graph_json(tracer.read_graph_json(source)) == file


def test_the_command_line_prunes_only_when_a_threshold_is_given(tmp_path: Path) -> None:
    stored = published()
    source, target = tmp_path / "published.json", tmp_path / "out.json"
    source.write_text(json.dumps(stored))
    command = ["export", str(source), str(target), "--node-threshold", "0.3", "--slug", "new"]
    assert main(command) == 0
    out = json.loads(target.read_text())
    assert out["metadata"]["slug"] == "new"
    assert out["metadata"]["pruning_settings"] == {"node_threshold": 0.3, "edge_threshold": 0.98}
    assert len(out["nodes"]) < len(stored["nodes"])
    kept = {entry["node_id"] for entry in out["nodes"]}
    assert {"0_7_1", "1_9_2", "0_1_2"} <= kept, "what is marked stays"
    assert {link["source"] for link in out["links"]} <= kept
    assert out["qParams"] == stored["qParams"]
    (first,) = (entry for entry in out["nodes"] if entry["node_id"] == "0_7_1")
    assert first == stored["nodes"][1], "unknown keys included"


def test_a_graph_without_all_embeddings_can_be_written_and_read_again(tmp_path: Path) -> None:
    """The ids of its tokens are unknown; the file written for it was refused."""
    graph = graph_from_external(read(published()))
    assert graph.token_ids == (-1, 5, -3)
    graph.save(tmp_path / "graph.safetensors")
    out = tmp_path / "out.json"
    assert main(["export", str(tmp_path / "graph.safetensors"), str(out)]) == 0
    again = graph_from_external(tracer.read_graph_json(out))
    assert again.token_ids == graph.token_ids and again.tokens == graph.tokens
    assert (again.to_dense() == graph.to_dense()).all()
