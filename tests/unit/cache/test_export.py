"""Every stored graph is exported as published JSON, and an import loses nothing on its way."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from flavours import FLAVOURS, neuronpedia
from imports import ANSWER, ERROR, FEATURE, content, graph_of, imported, pt

from cache import Annotations, Backend, StoreError, TraceRequest
from tracer.errors import ExternalGraphError, FeatureLookupError, TracerError
from tracer.graph.pruning import without_pruning
from tracer.types import FeatureId, NodeId, Supernode, Thresholds

WHOLE = Thresholds(1.0, 1.0)


def export(backend: Backend, key: str, thresholds: Thresholds = WHOLE) -> dict[str, Any]:
    return json.loads(backend.export_graph(key, thresholds))


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("indent", [None, 2])
def test_an_unchanged_graph_is_exported_byte_for_byte(
    flavour: str, indent: int | None, backend: Backend
) -> None:
    file = json.dumps(FLAVOURS[flavour](), indent=indent).replace("0.25", "2.50e-1").encode()
    assert backend.export_graph(imported(backend, file, "x.json")) == file


def test_changed_annotations_are_exported_and_everything_else_stays(backend: Backend) -> None:
    stored = neuronpedia()
    key = imported(backend, content(stored), "x.json")
    backend.save_annotations(key, Annotations((ANSWER,), (Supernode("size", (FEATURE, ERROR)),)))
    out = export(backend, key)
    assert out["qParams"] == {
        "pinnedIds": ["0_7_1", "3_11_2", "1_-1_2"],
        "supernodes": [["size", "0_7_1", "1_-1_2"]],
        "linkType": "both",
    }
    assert {**out, "qParams": 0} == {**stored, "qParams": 0}
    backend.save_annotations(key, Annotations())
    out = export(backend, key)
    assert out["qParams"]["pinnedIds"] == [] and out["qParams"]["supernodes"] == []


def test_a_traced_graph_is_exported_with_its_annotations(backend: Backend) -> None:
    backend.trace(TraceRequest("a b")).result(10)
    key = backend.stored()[0].key
    pinned = graph_of(backend, key).index.node(1)
    backend.save_annotations(key, Annotations((), (Supernode("both", (pinned,)),)))
    out = export(backend, key)
    assert out["metadata"]["slug"] == "a-b" and out["metadata"]["prompt"] == "a b"
    assert out["qParams"]["supernodes"] == [["both", "0_9_2"]]
    assert out["qParams"]["pinnedIds"] == ["0_9_2"]
    assert "0_9_2" in [entry["node_id"] for entry in out["nodes"]]
    again = imported(backend, backend.export_graph(key, WHOLE), "x.json")
    assert backend.annotations(again) == Annotations((), (Supernode("both", (pinned,)),))
    assert backend.key_of(TraceRequest("a b")) == key


def test_a_graph_is_exported_by_the_key_of_its_job_too(backend: Backend) -> None:
    job = backend.trace(TraceRequest("a b"))
    job.result(10)
    backend.annotate(job.key, title="My dog")
    own_key = backend.stored()[0].key
    assert export(backend, job.key) == export(backend, own_key)
    assert export(backend, job.key)["metadata"]["slug"] == "my-dog"


def test_a_pt_is_exported_as_json(backend: Backend) -> None:
    key = imported(backend, pt(), "folder/my dog.pt")
    assert backend.stored()[0].title == "my dog" and backend.stored()[0].imported
    assert graph_of(backend, key).n_edges == 3
    feature = NodeId("feature", 0, 1, 4)
    backend.save_annotations(key, Annotations((feature,)))
    out = export(backend, key, Thresholds())
    assert out["metadata"]["slug"] == "my-dog" and out["qParams"]["pinnedIds"] == ["0_4_1"]
    assert len(out["links"]) == 3


def test_a_damaged_original_is_repaired_by_importing_again(backend: Backend) -> None:
    key = imported(backend, content(neuronpedia()), "x.json")
    (original,) = (backend.store.root / "originals").iterdir()
    original.write_bytes(original.read_bytes()[:-20])
    with pytest.raises(StoreError, match=r"is damaged .* import the graph's file again"):
        backend.export_graph(key)
    imported(backend, content(neuronpedia()), "x.json")
    assert json.loads(backend.export_graph(key)) == neuronpedia()


def test_an_unknown_graph_is_one_sentence(backend: Backend) -> None:
    with pytest.raises(StoreError, match="no graph is stored under 'nowhere'"):
        backend.export_graph("nowhere")


def test_a_damaged_record_costs_a_name_and_not_the_graph(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Index:
        """A feature index with one damaged record."""

        def cached_name(self, feature: FeatureId) -> str:
            if feature == FeatureId(0, 5):
                raise FeatureLookupError("the record of feature 5 is cut short")
            return "a name"

    backend.trace(TraceRequest("a b")).result(10)
    (entry,) = backend.stored()
    graph = graph_of(backend, entry.key)
    graph.provenance["transcoders"] = "x"
    backend.save_annotations(entry.key, Annotations((graph.index.node(0), graph.index.node(1))))
    monkeypatch.setattr(backend.library, "features", lambda choice: Index())
    out = export(backend, entry.key)
    labels = {node["node_id"]: node["clerp"] for node in out["nodes"]}
    assert (labels["0_9_2"], labels["0_5_1"]) == ("a name", "")


@pytest.mark.skipif(
    not Path(os.environ.get("CIRCUIT_SHARED_GRAPHS", "/nowhere")).is_dir(),
    reason="CIRCUIT_SHARED_GRAPHS does not name a folder of published graphs",
)
def test_real_graphs_are_imported_completely_and_exported_unchanged(backend: Backend) -> None:
    files = sorted(Path(os.environ["CIRCUIT_SHARED_GRAPHS"]).glob("*.json"))
    assert files
    for file in files:
        stored = json.loads(file.read_bytes())
        key = imported(backend, file.read_bytes(), file.name)
        graph = graph_of(backend, key)
        assert graph.n_edges == len(stored["links"])
        kinds = [n["feature_type"] for n in stored["nodes"]]
        assert len(graph.features) == kinds.count("cross layer transcoder")
        kept = [n.kind for n in without_pruning(graph).nodes]
        assert kept.count("error") == kinds.count("mlp reconstruction error")
        assert backend.export_graph(key) == file.read_bytes()


def test_every_error_is_a_tracer_error() -> None:
    assert issubclass(ExternalGraphError, TracerError) and issubclass(StoreError, TracerError)
