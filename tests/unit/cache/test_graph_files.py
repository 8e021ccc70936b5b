"""Graphs of other tools come in, are marked, and go out again with nothing lost."""

from __future__ import annotations

import copy
import io
import json
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import FakeEngine, make_graph
from flavours import FLAVOURS, bare, circuit_tracers_own, neuronpedia

from cache import (
    Annotations,
    Backend,
    ModelChoice,
    StoreError,
    StoreUse,
    TraceRequest,
    stored_labels,
)
from cache.graph_files import ImportedGraph, read_import
from cache.store import Store
from tracer.errors import Cancelled, ExternalGraphError, FeatureLookupError, TracerError
from tracer.graph.pruning import without_pruning
from tracer.types import FeatureId, NodeId, Supernode, Thresholds

FEATURE, ATTENTION, ERROR, ANSWER = (
    NodeId("feature", 0, 1, 7),
    NodeId("lorsa", 1, 2, 0),
    NodeId("error", 1, 2, -1),
    NodeId("logit", 2, 2, 11),
)


def content(stored: dict[str, Any]) -> bytes:
    return json.dumps(stored).encode()


def imported(backend: Backend, file: bytes, name: str) -> str:
    return backend.import_graph(file, name).result(60)


def graph_of(backend: Backend, key: str) -> Any:
    graph = backend.graph(key)
    assert graph is not None
    return graph


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_published_graph_is_kept_and_opens_after_a_restart(
    flavour: str, backend: Backend, open_again: Callable[[], Backend]
) -> None:
    key = imported(backend, content(FLAVOURS[flavour]()), "x.json")
    assert imported(backend, content(FLAVOURS[flavour]()), "y.json") == key
    backend = open_again()
    graph = graph_of(backend, key)
    assert graph.features.tolist() == [[0, 1, 7], [1, 2, 9]]
    assert graph.activations[0] == 2.5 and np.isnan(graph.activations[1])
    attention = [9.0] if flavour != "bare" else []
    assert sorted(map(float, graph.weights)) == [-0.5, 0.25, 1.5, 2.0, *attention]
    assert len(without_pruning(graph).nodes) == 2 + len(attention) + 1 + 3 + 1
    (entry,) = backend.stored()
    assert (entry.key, entry.title, entry.imported) == (key, "big-dog", True)
    assert entry.prompt == "<bos> big dog" and entry.model == "gemma-2-2b"


def test_where_it_is_from_and_what_it_calls_its_features_is_known(backend: Backend) -> None:
    graph = graph_of(backend, imported(backend, content(circuit_tracers_own()), "x.json"))
    assert stored_labels(graph) == {FeatureId(0, 7): "large things", FeatureId(1, 9): "barks"}
    made = graph.provenance
    assert made["tool"] == "circuit-tracer 0.2.0" and made["transcoder_set"] == "someone/clt"
    assert made["source_urls"] == ["https://example.org/set"]
    assert (made["node_threshold"], made["edge_threshold"]) == (0.8, 0.85)
    plain = graph_of(backend, imported(backend, content(bare()), "x.json"))
    assert stored_labels(plain) == {FeatureId(0, 7): "large things"}
    assert plain.provenance.keys() == {"imported", "scan", "labels"}


@pytest.mark.parametrize("flavour", ["neuronpedia", "own"])
def test_pins_and_supernodes_of_the_file_are_the_graphs_marks(
    flavour: str, backend: Backend
) -> None:
    key = imported(backend, content(FLAVOURS[flavour]()), "x.json")
    members = (FEATURE, ATTENTION) if flavour == "neuronpedia" else (FEATURE,)
    assert backend.annotations(key) == Annotations((ANSWER,), (Supernode("size", members),))


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("indent", [None, 2])
def test_an_unchanged_graph_goes_out_byte_for_byte(
    flavour: str, indent: int | None, backend: Backend
) -> None:
    file = json.dumps(FLAVOURS[flavour](), indent=indent).replace("0.25", "2.50e-1").encode()
    assert backend.export_graph(imported(backend, file, "x.json")) == file


def test_changed_marks_go_out_and_everything_else_stays(backend: Backend) -> None:
    stored = neuronpedia()
    key = imported(backend, content(stored), "x.json")
    backend.save_annotations(key, Annotations((ANSWER,), (Supernode("size", (FEATURE, ERROR)),)))
    out = json.loads(backend.export_graph(key))
    assert out["qParams"] == {
        "pinnedIds": ["0_7_1", "3_11_2", "1_-1_2"],
        "supernodes": [["size", "0_7_1", "1_-1_2"]],
        "linkType": "both",
    }
    assert {**out, "qParams": 0} == {**stored, "qParams": 0}
    backend.save_annotations(key, Annotations())
    out = json.loads(backend.export_graph(key))
    assert out["qParams"]["pinnedIds"] == [] and out["qParams"]["supernodes"] == []


def test_the_same_file_again_does_not_undo_what_a_person_did(backend: Backend) -> None:
    key = imported(backend, content(neuronpedia()), "x.json")
    backend.save_annotations(key, Annotations((FEATURE,)))
    backend.annotate(key, title="mine")
    assert imported(backend, content(neuronpedia()), "x.json") == key
    assert (
        backend.annotations(key) == Annotations((FEATURE,)) and backend.stored()[0].title == "mine"
    )


def test_a_graph_traced_here_goes_out_with_its_marks(backend: Backend) -> None:
    key = backend.trace(TraceRequest("a b")).result(10) and backend.stored()[0].key
    pinned = graph_of(backend, key).index.node(1)
    backend.save_annotations(key, Annotations((), (Supernode("both", (pinned,)),)))
    out = json.loads(backend.export_graph(key, Thresholds(1.0, 1.0)))
    assert out["metadata"]["slug"] == "a-b" and out["metadata"]["prompt"] == "a b"
    assert out["qParams"]["supernodes"] == [["both", "0_9_2"]]
    assert out["qParams"]["pinnedIds"] == ["0_9_2"]
    assert "0_9_2" in [entry["node_id"] for entry in out["nodes"]]
    again = imported(backend, backend.export_graph(key, Thresholds(1.0, 1.0)), "x.json")
    assert backend.annotations(again) == Annotations((), (Supernode("both", (pinned,)),))
    assert backend.key_of(TraceRequest("a b")) == key
    assert backend.key_of(TraceRequest("a b", ModelChoice("missing"))) is None


def pt(**changes: Any) -> bytes:
    """A `.pt` of an older circuit-tracer: one layer, one feature, two tokens, one target."""
    dense = torch.zeros(6, 6)
    dense[0, 3:5] = torch.tensor([1.0, 2.0])
    dense[5, 0] = 3.0
    stored = {
        "input_string": "big dog",
        "adjacency_matrix": dense,
        "cfg": {"n_layers": 1, "d_vocab": 50},
        "active_features": torch.tensor([[0, 1, 4]]),
        "activation_values": torch.tensor([2.0]),
        "logit_targets": torch.tensor([11]),
        "logit_probabilities": torch.tensor([0.5]),
        "input_tokens": torch.tensor([5, 6]),
        "scan": "gemma",
    }
    buffer = io.BytesIO()
    torch.save(stored | changes, buffer)
    return buffer.getvalue()


def test_a_pt_comes_in_and_goes_out_as_json(backend: Backend) -> None:
    key = imported(backend, pt(), "folder/my dog.pt")
    assert backend.stored()[0].title == "my dog" and backend.stored()[0].imported
    assert graph_of(backend, key).n_edges == 3
    feature = NodeId("feature", 0, 1, 4)
    backend.save_annotations(key, Annotations((feature,)))
    out = json.loads(backend.export_graph(key))
    assert out["metadata"]["slug"] == "my-dog" and out["qParams"]["pinnedIds"] == ["0_4_1"]
    assert len(out["links"]) == 3


def test_files_are_read_one_after_the_other_and_nobody_waits_for_it(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, threads = threading.Event(), []

    def slowly(file: bytes, name: str) -> ImportedGraph:
        threads.append(threading.current_thread())
        assert gate.wait(60)
        return read_import(file, name)

    monkeypatch.setattr("cache.backend.read_import", slowly)
    good = backend.import_graph(content(neuronpedia()), "dog.json", "ann")
    bad = backend.import_graph(b"{", "cat.json", "bob")
    same = backend.import_graph(content(neuronpedia()), "dog.json", "bob")
    assert backend.imports == (good, bad, same) and backend.queue == ()
    assert backend.trace(TraceRequest("a b")).result(10)  # a model runs meanwhile
    gate.set()
    with pytest.raises(ExternalGraphError, match="is not JSON"):
        bad.result(60)
    assert good.result(60) == same.result(60) and backend.imports == ()
    assert set(threads) & {threading.current_thread()} == set() and len(set(threads)) == 1
    assert [entry.imported for entry in backend.stored()].count(True) == 1


def test_a_file_that_nobody_wants_any_more_is_not_read(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()

    def slowly(file: bytes, name: str) -> ImportedGraph:
        assert gate.wait(60)
        return read_import(file, name)

    monkeypatch.setattr("cache.backend.read_import", slowly)
    jobs = [backend.import_graph(content(make()), "dog.json") for make in (neuronpedia, bare)]
    for job in jobs:
        job.cancel()
    gate.set()
    for job in jobs:
        with pytest.raises(Cancelled):
            job.result(60)
    assert backend.stored() == ()


def damaged(change: Callable[[dict[str, Any]], Any]) -> bytes:
    stored = copy.deepcopy(neuronpedia())
    change(stored)
    return content(stored)


class Touches:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (b"", "is empty"),
        (b"[]", "expected an object"),
        (b"{" * 100_000, "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"\x80\x02}.", "bare pickle"),
        (b"PK\x03\x04", "truncated or damaged"),
        (b"\x89PNG\r\n", "is not JSON"),
        (content(neuronpedia())[:-9], "is not JSON"),
        (damaged(lambda s: s["nodes"].pop()), "the graph has no logit node"),
        (
            damaged(lambda s: s["nodes"][2].update(layer=10**9)),
            "no known model is as large",
        ),
        (
            damaged(lambda s: s["nodes"][2].update(layer="inf")),
            "layer of node '1_9_2' of the graph is 'inf'",
        ),
        (
            damaged(lambda s: s["nodes"][2].update(node_id=f"1_{2**40}_2")),
            "no known model is as large",
        ),
        (
            damaged(lambda s: s["nodes"][2].update(feature=2**90, node_id="1_9_2_")),
            "no known model is as large",
        ),
        (
            damaged(lambda s: s["nodes"][0].update(node_id=f"E_{2**33}_1")),
            "no known model is as large",
        ),
        (
            damaged(lambda s: s["metadata"].update(prompt_tokens=["a"] * 3 * 10**5)),
            "300,000 tokens",
        ),
    ],
)
def test_what_cannot_be_read_is_one_sentence_and_nothing_is_stored(
    file: bytes, said: str, backend: Backend
) -> None:
    with pytest.raises(ExternalGraphError, match=said):
        imported(backend, file, "x.json")
    assert backend.stored() == () and not list((backend.store.root / "originals").iterdir())


def test_a_pt_that_would_run_code_does_not(backend: Backend, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    with pytest.raises(ExternalGraphError, match=r"names 'posix\.system'"):
        imported(backend, pt(scan=Touches(marker)), "x.pt")
    assert not marker.exists() and backend.stored() == ()


def test_a_graph_that_does_not_fit_is_refused_and_leaves_nothing(
    tmp_path: Path, engine: FakeEngine
) -> None:
    backend = Backend(Store(tmp_path / "small", quota_bytes=100), engine)
    with pytest.raises(StoreError, match="set CIRCUIT_STORE_GB to more"):
        imported(backend, content(neuronpedia()), "x.json")
    assert backend.stored() == () and not list((tmp_path / "small" / "originals").iterdir())
    backend.close(10)


def test_imported_graphs_are_not_evicted_and_evict_nothing(
    tmp_path: Path, engine: FakeEngine
) -> None:
    traced = [make_graph(token_ids=(1, 2, number)) for number in range(12)]
    size = len(traced[0].to_bytes())
    store = Store(tmp_path / "small", quota_bytes=5 * size)
    backend = Backend(store, engine)
    for number, graph in enumerate(traced[:5]):
        store.save(f"{number:032x}", graph)
    key = imported(backend, content(neuronpedia()), "x.json")
    backend.annotate(key, title="")  # what keeps it is that it was imported, not its title
    assert len(backend.stored()) == 6
    for number, graph in enumerate(traced):
        store.save(f"{number:032x}", graph)
    kept = [entry.key for entry in backend.stored()]
    assert key in kept and len(kept) == 6
    backend.close(10)


def test_imported_graphs_count_with_their_files_and_are_refused_when_they_are_too_much(
    tmp_path: Path, engine: FakeEngine
) -> None:
    store = Store(tmp_path / "small", quota_bytes=5_000)
    backend = Backend(store, engine)
    assert backend.use() == StoreUse(traced=0, imported=0, quota=5_000)
    key = imported(backend, content(neuronpedia()), "x.json")
    files = [f for folder in ("graphs", "originals") for f in (store.root / folder).rglob("*.*")]
    assert len(files) == 2
    assert backend.use().imported == sum(file.stat().st_size for file in files) > 0
    assert backend.use().traced == 0
    second = imported(backend, content(bare()), "y.json")
    with pytest.raises(StoreError, match=r"already take [\d.]+ kB of 5\.0 kB: delete some"):
        for number in range(5):
            imported(backend, damaged(lambda s, n=number: s.update(mine=n)), "z.json")
    assert backend.use().imported <= 5_000
    n_kept = len(backend.stored())
    assert imported(backend, content(bare()), "y.json") == second  # here already
    backend.forget(key)
    imported(backend, damaged(lambda s: s.update(mine="room again")), "z.json")
    assert len(backend.stored()) == n_kept
    assert len(list((store.root / "originals").iterdir())) == n_kept
    backend.close(10)


def test_what_a_process_left_half_written_is_cleared_away(
    backend: Backend, open_again: Callable[[], Backend]
) -> None:
    key = imported(backend, content(neuronpedia()), "x.json")
    folder = backend.store.root / "originals"
    old, new = folder / ".a.part", folder / ".b.part"
    for file in (old, new):
        file.write_bytes(b"half")
    os.utime(old, (0, 0))
    open_again()
    assert sorted(file.name for file in folder.iterdir()) == [".b.part", f"{key}.json.gz"]


def test_when_the_catalogue_is_lost_imported_graphs_are_found_and_stay(
    backend: Backend, open_again: Callable[[], Backend]
) -> None:
    key = imported(backend, content(neuronpedia()), "x.json")
    root = backend.store.root
    backend.close(10)
    for file in root.glob("catalogue.sqlite*"):
        file.unlink()
    backend = open_again()
    assert [(e.key, e.title, e.imported) for e in backend.stored()] == [(key, "big-dog", True)]
    assert json.loads(backend.export_graph(key))["qk_only_nodes"] == {"x": 1}


def test_a_damaged_original_is_said_and_mended_by_importing_again(backend: Backend) -> None:
    key = imported(backend, content(neuronpedia()), "x.json")
    (original,) = (backend.store.root / "originals").iterdir()
    original.write_bytes(original.read_bytes()[:-20])
    with pytest.raises(StoreError, match=r"is damaged .* import the graph's file again"):
        backend.export_graph(key)
    imported(backend, content(neuronpedia()), "x.json")
    assert json.loads(backend.export_graph(key)) == neuronpedia()


def test_a_graph_that_is_not_there_is_a_sentence(backend: Backend) -> None:
    with pytest.raises(StoreError, match="no graph is stored under 'nowhere'"):
        backend.export_graph("nowhere")
    key = imported(backend, content(neuronpedia()), "x.json")
    backend.forget(key)
    assert backend.graph(key) is None and backend.stored() == ()
    assert not backend.annotations(key) and not list((backend.store.root / "originals").iterdir())


def test_a_damaged_record_costs_a_name_and_not_the_graph(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Index:
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
    out = json.loads(backend.export_graph(entry.key, Thresholds(1.0, 1.0)))
    labels = {node["node_id"]: node["clerp"] for node in out["nodes"]}
    assert (labels["0_9_2"], labels["0_5_1"]) == ("a name", "")


def test_a_catalogue_of_the_version_before_is_brought_up_to_date(
    tmp_path: Path, engine: FakeEngine
) -> None:
    store = Store(tmp_path / "old")
    store.save("0" * 32, make_graph())
    store.close()
    with sqlite3.connect(tmp_path / "old" / "catalogue.sqlite") as db:
        db.execute("ALTER TABLE graphs DROP COLUMN imported")
        db.execute("PRAGMA user_version = 2")
    db.close()
    backend = Backend(Store(tmp_path / "old"), engine)
    assert [entry.imported for entry in backend.stored()] == [False]
    backend.close(10)


@pytest.mark.skipif(
    not Path(os.environ.get("CIRCUIT_SHARED_GRAPHS", "/nowhere")).is_dir(),
    reason="CIRCUIT_SHARED_GRAPHS names no folder of published graphs",
)
def test_real_graphs_come_in_complete_and_go_out_byte_for_byte(backend: Backend) -> None:
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


def test_an_error_is_always_a_tracer_error() -> None:
    assert issubclass(ExternalGraphError, TracerError) and issubclass(StoreError, TracerError)
