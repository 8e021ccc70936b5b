"""Graphs of other tools are read in the background, kept, and refused with one sentence."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flavours import FLAVOURS, bare, circuit_tracers_own, neuronpedia
from imports import ANSWER, ATTENTION, FEATURE, changed, content, graph_of, imported, pt

from cache import Annotations, Backend, TraceRequest, stored_labels
from cache.graph_files import ImportedGraph, read_import
from tracer.errors import Cancelled, ExternalGraphError
from tracer.graph.pruning import without_pruning
from tracer.types import FeatureId, Supernode


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


def test_provenance_and_labels_come_from_the_file(backend: Backend) -> None:
    graph = graph_of(backend, imported(backend, content(circuit_tracers_own()), "x.json"))
    assert stored_labels(graph) == {FeatureId(0, 7): "large things", FeatureId(1, 9): "barks"}
    provenance = graph.provenance
    assert provenance["tool"] == "circuit-tracer 0.2.0"
    assert provenance["transcoder_set"] == "someone/clt"
    assert provenance["source_urls"] == ["https://example.org/set"]
    assert (provenance["node_threshold"], provenance["edge_threshold"]) == (0.8, 0.85)
    plain = graph_of(backend, imported(backend, content(bare()), "x.json"))
    assert stored_labels(plain) == {FeatureId(0, 7): "large things"}
    assert plain.provenance.keys() == {"imported", "scan", "labels"}


@pytest.mark.parametrize("flavour", ["neuronpedia", "own"])
def test_pins_and_supernodes_of_the_file_become_annotations(flavour: str, backend: Backend) -> None:
    key = imported(backend, content(FLAVOURS[flavour]()), "x.json")
    members = (FEATURE, ATTENTION) if flavour == "neuronpedia" else (FEATURE,)
    assert backend.annotations(key) == Annotations((ANSWER,), (Supernode("size", members),))


def test_importing_a_file_again_keeps_the_visitors_changes(backend: Backend) -> None:
    key = imported(backend, content(neuronpedia()), "x.json")
    backend.save_annotations(key, Annotations((FEATURE,)))
    backend.annotate(key, title="mine")
    assert imported(backend, content(neuronpedia()), "x.json") == key
    assert backend.annotations(key) == Annotations((FEATURE,))
    assert backend.stored()[0].title == "mine"


def test_files_are_read_one_after_another_in_the_background(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, threads = threading.Event(), []

    def slowly(file: bytes, name: str, check: Callable[[], None]) -> ImportedGraph:
        threads.append(threading.current_thread())
        assert gate.wait(60)
        return read_import(file, name)

    monkeypatch.setattr("cache.backend.read_upload", slowly)
    good = backend.import_graph(content(neuronpedia()), "dog.json", "anna")
    bad = backend.import_graph(b"{", "cat.json", "ben")
    again = backend.import_graph(content(neuronpedia()), "dog.json", "ben")
    assert backend.imports == (good, bad, again) and backend.queue == ()
    assert backend.trace(TraceRequest("a b")).result(10)  # a model runs meanwhile
    gate.set()
    with pytest.raises(ExternalGraphError):
        bad.result(60)
    assert good.result(60) == again.result(60) and backend.imports == ()
    assert threading.current_thread() not in threads and len(set(threads)) == 1
    assert [entry.imported for entry in backend.stored()].count(True) == 1


def test_a_cancelled_import_stores_nothing(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()

    def slowly(file: bytes, name: str, check: Callable[[], None]) -> ImportedGraph:
        assert gate.wait(60)
        return read_import(file, name)

    monkeypatch.setattr("cache.backend.read_upload", slowly)
    jobs = [backend.import_graph(content(make()), "dog.json") for make in (neuronpedia, bare)]
    for job in jobs:
        job.cancel()
    gate.set()
    for job in jobs:
        with pytest.raises(Cancelled):
            job.result(60)
    assert backend.stored() == ()


class Touches:
    """Unpickles by running a command."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize(
    ("file", "about"),
    [
        (b"", "empty"),
        (b"[]", "expected an object"),
        (b"{" * 100_000, "JSON"),
        (b"[" * 100_000, "JSON"),
        (b"\x80\x02}.", "bare pickle"),
        (b"PK\x03\x04", "damaged"),
        (b"\x89PNG\r\n", "JSON"),
        (content(neuronpedia())[:-9], "JSON"),
        (changed(lambda s: s["nodes"].pop()), "no logit node"),
        (changed(lambda s: s["nodes"][2].update(layer=10**9)), "layer|large"),
        (changed(lambda s: s["nodes"][2].update(layer="inf")), "'inf'"),
        (changed(lambda s: s["nodes"][2].update(node_id=f"1_{2**40}_2")), "large"),
        (changed(lambda s: s["nodes"][2].update(feature=2**90, node_id="1_9_2_")), "large"),
        (changed(lambda s: s["nodes"][0].update(node_id=f"E_{2**33}_1")), "large"),
        (changed(lambda s: s["metadata"].update(prompt_tokens=["a"] * 3 * 10**5)), "300,000"),
    ],
)
def test_an_unreadable_file_is_one_sentence_and_nothing_is_stored(
    file: bytes, about: str, backend: Backend
) -> None:
    with pytest.raises(ExternalGraphError, match=about) as caught:
        imported(backend, file, "x.json")
    assert "\n" not in str(caught.value)
    assert backend.stored() == () and not list((backend.store.root / "originals").iterdir())


def test_a_pt_that_would_run_code_is_refused_and_runs_nothing(
    backend: Backend, tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    with pytest.raises(ExternalGraphError, match=r"posix\.system"):
        imported(backend, pt(scan=Touches(marker)), "x.pt")
    assert not marker.exists() and backend.stored() == ()


def test_partial_files_of_dead_processes_are_deleted(
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


def test_imported_graphs_survive_a_lost_catalogue(
    backend: Backend, open_again: Callable[[], Backend]
) -> None:
    key = imported(backend, content(neuronpedia()), "x.json")
    root = backend.store.root
    backend.close(10)
    for file in root.glob("catalogue.sqlite*"):
        file.unlink()
    backend = open_again()
    assert [(e.key, e.title, e.imported) for e in backend.stored()] == [(key, "big-dog", True)]
    assert b"qk_only_nodes" in backend.export_graph(key)


def test_forgetting_an_import_deletes_everything_about_it(backend: Backend) -> None:
    key = imported(backend, content(neuronpedia()), "x.json")
    backend.forget(key)
    assert backend.graph(key) is None and backend.stored() == ()
    assert not backend.annotations(key) and not list((backend.store.root / "originals").iterdir())
