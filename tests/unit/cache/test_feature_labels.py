"""Labels that people give to features are kept per dictionary, shared by its graphs, exported."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable

import pytest
from fakes import FakeEngine
from flavours import circuit_tracers_own, neuronpedia
from imports import content, graph_of, imported

from cache import Annotations, Backend, ModelChoice, Published, TraceRequest
from cache.catalogue import SCHEMA_VERSION, Catalogue
from tracer.features.names import FeatureName
from tracer.types import FeatureId, Thresholds

SIZE, OTHER = FeatureId(0, 7), FeatureId(1, 9)


def test_a_label_is_kept_for_the_feature_in_every_graph_of_its_dictionary(
    backend: Backend, open_again: Callable[[], Backend]
) -> None:
    for prompt in ("a b", "c d"):
        backend.trace(TraceRequest(prompt)).result(10)
    first, second = (graph_of(backend, entry.key) for entry in backend.stored())
    dictionary = backend.labels.dictionary(first)
    assert backend.labels.dictionary(second) == dictionary
    backend.labels.set(dictionary, OTHER, "  about\n dogs\x00 ")
    for graph in (first, second):
        assert backend.labels.names(graph, [OTHER], None) == {
            OTHER: FeatureName("about dogs", "yours")
        }
    assert open_again().labels.of(dictionary) == {OTHER: "about dogs"}
    assert backend.labels.of("another/dictionary") == {}


def test_an_empty_label_removes_it(backend: Backend) -> None:
    backend.labels.set("set", OTHER, "dogs")
    backend.labels.set("set", SIZE, "size")
    backend.labels.set("set", OTHER, "cats")
    assert backend.labels.of("set") == {OTHER: "cats", SIZE: "size"}
    backend.labels.set("set", OTHER, "  ")
    assert backend.labels.of("set") == {SIZE: "size"}


def test_a_dictionary_is_named_by_where_its_features_are_published(
    backend: Backend, backend_here: Backend
) -> None:
    named = backend.labels.dictionary
    assert named(Published(("gemma-2-2b", "clt-hp"))) == "gemma-2-2b/clt-hp"
    assert named(ModelChoice("missing", "set")) == "missing/set"
    assert backend_here.labels.dictionary(ModelChoice()) == "atlas/per-layer"
    stored = neuronpedia()
    graph = graph_of(backend, imported(backend, content(stored), "x.json"))
    assert named(graph) == "someone/clt"
    stored["metadata"]["info"]["source_urls"] = ["https://neuronpedia.org/gemma-2-2b/clt-hp"]
    graph = graph_of(backend, imported(backend, content(stored), "x.json"))
    assert named(graph) == "gemma-2-2b/clt-hp"
    del stored["metadata"]["info"]
    graph = graph_of(backend, imported(backend, content(stored), "x.json"))
    assert named(graph) == "file:gemma-2-2b"


def test_names_come_from_the_visitor_then_the_file_then_the_number(backend: Backend) -> None:
    graph = graph_of(backend, imported(backend, content(neuronpedia()), "x.json"))
    assert backend.labels.names(graph, [SIZE, OTHER], None) == {
        SIZE: FeatureName("large things", "file"),
        OTHER: FeatureName("L1/9", "number"),
    }
    backend.labels.set(backend.labels.dictionary(graph), SIZE, "big")
    assert backend.labels.names(graph, [SIZE], None) == {SIZE: FeatureName("big", "yours")}


@pytest.mark.parametrize("flavour", [neuronpedia, circuit_tracers_own])
def test_labels_are_exported_with_an_imported_graph(backend: Backend, flavour: Callable) -> None:
    key = imported(backend, content(flavour()), "x.json")
    graph = graph_of(backend, key)
    backend.labels.set(backend.labels.dictionary(graph), SIZE, "big <b>")
    out = json.loads(backend.export_graph(key))
    clerps = out["qParams"]["clerps"]
    pairs = json.loads(clerps) if isinstance(clerps, str) else clerps
    expected = {"0_7_1": "big <b>"} | ({} if flavour is neuronpedia else {"1_9_2": "barks"})
    assert dict(pairs) == expected
    again = graph_of(backend, imported(backend, json.dumps(out).encode(), "again.json"))
    assert again.provenance["labels"]["L0/7"] == "big <b>"


def test_labels_are_exported_with_a_traced_graph(backend: Backend, engine: FakeEngine) -> None:
    backend.trace(TraceRequest("a b")).result(10)
    key = backend.stored()[0].key
    graph = graph_of(backend, key)
    node = graph.index.node(1)
    backend.save_annotations(key, Annotations((node,)))
    backend.labels.set(backend.labels.dictionary(graph), node.feature, "mine")
    out = json.loads(backend.export_graph(key, Thresholds(1.0, 1.0)))
    labels = {entry["node_id"]: entry["clerp"] for entry in out["nodes"]}
    assert labels["0_9_2"] == "mine"


def test_a_catalogue_of_the_version_before_gains_labels_and_keeps_its_titles(tmp_path) -> None:
    path = tmp_path / "catalogue.sqlite"
    Catalogue(path).close()
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE labels")
        db.execute("ALTER TABLE annotations DROP COLUMN tags")
        db.execute("INSERT INTO graphs VALUES ('k', '', 1, 'prompt', 'm', 0, 0, 0)")
        db.execute("INSERT INTO annotations (key, title) VALUES ('k', 'Dallas')")
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION - 1}")
    db.close()
    catalogue = Catalogue(path)
    [entry] = catalogue.entries()
    assert (entry.title, entry.tags) == ("Dallas", ())
    catalogue.annotate("k", None, None, tags="one\ntwo")
    assert catalogue.entries()[0].tags == ("one", "two")
    assert catalogue.labels("any") == ()
    catalogue.close()
