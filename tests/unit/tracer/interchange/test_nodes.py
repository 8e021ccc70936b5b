"""Labels and the provenance of an imported graph are read, or left out where they are damaged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from published_graphs import published, read

import tracer
from tracer.errors import ExternalGraphError
from tracer.interchange.convert import graph_from_external
from tracer.interchange.nodes import origin, stored_labels
from tracer.types import FeatureId


def test_provenance_of_another_type_than_expected_is_left_out(tmp_path: Path) -> None:
    """A nested value once made a graph that could be saved but not loaded."""
    deep: Any = "x"
    for _ in range(300):
        deep = [deep]
    stored = published()
    stored["metadata"] |= {
        "info": {"transcoder_set": deep, "source_urls": deep, "generator": {"name": deep}},
        "feature_details": {"neuronpedia_source_set": deep},
        "pruning_settings": {"node_threshold": deep, "edge_threshold": "0.9"},
    }
    external = read(stored)
    assert origin(external) == {"scan": "gemma", "imported": "s"}
    graph_from_external(external).save(tmp_path / "graph")
    assert tracer.load_graph(tmp_path / "graph").provenance == origin(external)


@pytest.mark.parametrize(
    "clerps", ["[" * 100_000, '[["0_7_1", "\\ud800"]]', 3, [3], [["0_7_1"]], {"a": 1}, "x"]
)
def test_labels_that_cannot_be_read_are_left_out(clerps: Any) -> None:
    stored = published()
    stored["qParams"]["clerps"] = clerps
    graph = graph_from_external(read(stored))
    assert stored_labels(graph) == {}


def test_a_readers_own_label_comes_before_the_files() -> None:
    stored = published()
    stored["nodes"][1]["clerp"], stored["nodes"][2]["clerp"] = "large", "dogs"
    stored["qParams"]["clerps"] = '[["0_7_1", "huge"]]'
    graph = graph_from_external(read(stored))
    assert stored_labels(graph) == {FeatureId(0, 7): "huge", FeatureId(1, 9): "dogs"}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["L0/7"], "the labels of the graph are a list, expected a mapping"),
        ({"L0-7": "a"}, "the label 'a' of 'L0-7' is not a string for a feature such as 'L3/417'"),
        ({"L0/7": 3}, "the label 3 of 'L0/7' is not a string for a feature"),
        ({"L0/" + "9" * 5000: "a"}, "the label 'a' of 'L0/999"),
    ],
)
def test_damaged_labels_of_a_stored_graph_are_named(labels: Any, message: str) -> None:
    graph = graph_from_external(read(published()))
    graph = replace(graph, provenance={"labels": labels})
    with pytest.raises(ExternalGraphError, match=message):
        stored_labels(graph)
