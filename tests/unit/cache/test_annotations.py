"""Pins, supernodes and runs are kept with the trace they belong to."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import FakeEngine, FakeFolders
from small_graphs import make_graph

from cache import Backend, ModelChoice, StoreError, TraceRequest
from cache.annotations import Annotations, scenarios_from_json, scenarios_to_json
from cache.catalogue import _SCHEMA, Catalogue
from cache.store import Store
from tracer.interventions.scenario import Edit, Scenario
from tracer.types import FeatureId, NodeId, Supernode

A, B = "a" * 32, "b" * 32
TEXAS, SAY = NodeId("feature", 1, 7, 887), NodeId("feature", 4, 8, 3)
PINS = Annotations(
    (TEXAS, NodeId("token", -1, 7, 55)), (Supernode('"Texas", state', (TEXAS, SAY)),)
)
OFF = Scenario("off", (Edit(FeatureId(1, 887), 7, 8, "scale", 0.0),), freeze_norms=True)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "store", quota_bytes=10_000)
    yield opened
    opened.close()


def test_annotations_survive_a_round_trip() -> None:
    assert Annotations.from_json(PINS.to_json()) == PINS
    assert Annotations().to_json() == ""
    assert Annotations.from_json("") == Annotations()


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"pinned":["x"],"supernodes":[]}', "{", '{"pinned":3}']
)
def test_other_text_is_not_read_as_annotations(text: str) -> None:
    with pytest.raises(ValueError):
        Annotations.from_json(text)


def test_scenarios_survive_a_round_trip() -> None:
    assert scenarios_from_json(scenarios_to_json((OFF, OFF))) == (OFF, OFF)


@pytest.mark.parametrize("text", ["{}x", "[1]", '[{"name":"x"}]', "3"])
def test_other_text_is_not_read_as_scenarios(text: str) -> None:
    with pytest.raises(ValueError):
        scenarios_from_json(text)


def test_a_pinned_graph_is_not_evicted_and_keeps_its_pins(store: Store) -> None:
    graph = make_graph()
    store.save(A, graph)
    store.save_annotations(A, PINS)
    assert store.annotations(A) == PINS
    assert store.annotations(B) == Annotations()
    for number in range(30):
        store.save(f"{number:032x}", graph)
    assert store.load(A) is not None
    store.save_annotations(A, Annotations())
    assert store.annotations(A) == Annotations()
    for number in range(30, 60):
        store.save(f"{number:032x}", graph)
    assert store.load(A) is None


def test_pins_leave_title_and_notes_unchanged(store: Store) -> None:
    store.save(A, make_graph())
    store.annotate(A, title="Texas", notes="look here")
    store.save_annotations(A, PINS)
    store.annotate(A, notes="")
    [entry] = store.entries()
    assert (entry.title, entry.notes) == ("Texas", "")
    assert store.annotations(A) == PINS


def test_the_latest_50_runs_are_kept_with_the_latest_first(store: Store) -> None:
    for number in range(60):
        store.remember_run(A, (Scenario(f"run {number}", OFF.edits),), f"summary {number}")
    runs = store.runs(A)
    assert [run.summary for run in runs] == [f"summary {number}" for number in range(59, 9, -1)]
    assert runs[0].scenarios == (Scenario("run 59", OFF.edits),)
    store.remember_run(A, runs[-1].scenarios, "again")
    assert store.runs(A)[0].summary == "again"
    assert len(store.runs(A)) == 50
    assert store.runs(B) == ()


def test_a_catalogue_of_the_first_version_is_migrated(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.sqlite"
    db = sqlite3.connect(path)
    db.executescript(_SCHEMA)
    db.execute("INSERT INTO annotations VALUES (?, 'Texas', 'notes')", (A,))
    db.execute("PRAGMA user_version = 1")
    db.commit()
    db.close()
    catalogue = Catalogue(path)
    catalogue.annotate(A, None, None, "pins")
    assert catalogue.annotations(A) == "pins"
    catalogue.add_run(A, "[]", "summary")
    assert catalogue.runs(A)[0][:2] == ("[]", "summary")
    catalogue.close()


def test_either_key_of_a_graph_finds_its_annotations(tmp_path: Path) -> None:
    folders, store = FakeFolders(), Store(tmp_path / "store")
    backend = Backend(store, FakeEngine(folders), folders)
    job = backend.trace(TraceRequest("a prompt", ModelChoice()))
    assert job.wait(10)
    backend.save_annotations(job.key, PINS)
    backend.remember_run(job.key, (OFF,), "summary")
    backend.annotate(job.key, title="Dallas")
    [entry] = backend.stored()
    backend.annotate(entry.key, notes="two hops")
    assert job.key != entry.key
    for key in (entry.key, job.key):
        assert backend.annotations(key) == PINS
        assert [run.summary for run in backend.runs(key)] == ["summary"]
    assert [(e.title, e.notes) for e in backend.stored()] == [("Dallas", "two hops")]
    backend.close(5)


def test_damaged_annotations_are_one_sentence(tmp_path: Path) -> None:
    folders, store = FakeFolders(), Store(tmp_path / "store")
    backend = Backend(store, FakeEngine(folders), folders)
    store.save(A, make_graph())
    store._catalogue.annotate(A, None, None, "damaged")
    store._catalogue.add_run(A, "damaged", "summary")
    with pytest.raises(StoreError, match="the pins could not be read"):
        backend.annotations(A)
    with pytest.raises(StoreError, match="the history could not be read"):
        backend.runs(A)
    backend.close(5)
    with pytest.raises(StoreError, match="the pins could not be saved"):
        backend.save_annotations(A, PINS)
