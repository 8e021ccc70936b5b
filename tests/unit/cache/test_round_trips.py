"""JSON in, JSON out: the Library and the command line write the bytes they read, of any tool."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attention_graphs import france
from imports import imported
from published_graphs import node, published

from cache import Backend
from tracer.__main__ import main


def filtered() -> dict[str, Any]:
    """Links to nodes that are not in the file, and neither slug nor scan."""
    stored = published()
    stored["links"].append({"source": "0_99_1", "target": "1_9_2", "weight": 1.0})
    stored["metadata"].pop("slug")
    stored["metadata"].pop("scan")
    return stored


def older() -> dict[str, Any]:
    """A feature and an error with one id, as circuit-tracer once wrote them."""
    stored = published()
    stored["nodes"].append(node("0_1_2", "cross layer transcoder", "0", 2))
    stored["links"].append({"source": "0_1_2", "target": "1_9_2", "weight": 0.5})
    return stored


def marked() -> dict[str, Any]:
    """Supernodes that share a name, labels in a string, pins between commas."""
    stored = published()
    stored["qParams"] = {
        "pinnedIds": "1_9_2,0_7_1,9_9_9",
        "supernodes": json.dumps([["supernode", "0_7_1"], ["supernode", "1_9_2", "gone"]]),
        "clerps": json.dumps([["1_100009_2", "barks"], ["unknown", "x"]]),
        "clickedId": "1_9_2",
    }
    return stored


def described() -> dict[str, Any]:
    """Keys that only some tools write, and nodes that cannot be placed."""
    stored = france()
    stored["metadata"]["info"] = {"neuronpedia_source_set": "x", "unknown": [None, 1.50]}
    stored["metadata"]["feature_details"] = {"feature_json_base_url": "https://a.org/f"}
    stored["nodes"].append({"node_id": "r", "feature_type": "router", "layer": None, "ctx_idx": 0})
    stored["links"].append({"source": "r", "target": "1_cro_9_5", "weight": 1.0})
    stored["unknown"] = {"größe": "½"}
    return stored


@pytest.mark.parametrize("write", [published, france, filtered, older, marked, described])
@pytest.mark.parametrize(("indent", "ascii_only"), [(None, True), (3, False)])
def test_an_unchanged_file_goes_out_byte_for_byte(
    write: Callable[[], dict[str, Any]],
    indent: int | None,
    ascii_only: bool,
    backend: Backend,
    tmp_path: Path,
) -> None:
    text = json.dumps(write(), indent=indent, ensure_ascii=ascii_only)
    file = text.replace(": 0.5", ": 5.0E-1").encode()
    source, target = tmp_path / "graph.json", tmp_path / "out.json"
    source.write_bytes(file)
    assert main(["export", str(source), str(target)]) == 0
    assert target.read_bytes() == file
    key = imported(backend, file, "graph.json")
    assert backend.export_graph(key) == file
