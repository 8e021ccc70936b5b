"""Pins, supernodes and runs are kept with the trace they belong to."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import FakeEngine, FakeFolders, make_graph

from cache import Backend, ModelChoice, StoreError, TraceRequest
from cache.annotations import Annotations, scenarios_from_json, scenarios_to_json
from cache.catalogue import _SCHEMA, Catalogue
from cache.store import Store
from tracer.interventions.scenario import Edit, Scenario
from tracer.types import FeatureId, NodeId, Supernode

A, B = "a" * 32, "b" * 32
TEXAS, SAY = NodeId("feature", 1, 7, 887), NodeId("feature", 4, 8, 3)
MARKS = Annotations(
    (TEXAS, NodeId("token", -1, 7, 55)), (Supernode('"Texas", state', (TEXAS, SAY)),)
)
OFF = Scenario("off", (Edit(FeatureId(1, 887), 7, 8, "scale", 0.0),), freeze_norms=True)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "store", quota_bytes=10_000)
    yield opened
    opened.close()


def test_marks_survive_a_round_trip_and_nothing_else_is_read_as_marks() -> None:
    assert Annotations.from_json(MARKS.to_json()) == MARKS
    assert Annotations().to_json() == ""
    assert Annotations.from_json("") == Annotations()
    for damaged in ("[]", "{}", '{"pinned":["x"],"supernodes":[]}', "{", '{"pinned":3}'):
        with pytest.raises(ValueError):
            Annotations.from_json(damaged)


def test_scenarios_survive_a_round_trip_and_nothing_else_is_read_as_scenarios() -> None:
    assert scenarios_from_json(scenarios_to_json((OFF, OFF))) == (OFF, OFF)
    for damaged in ("{}x", "[1]", '[{"name":"x"}]', "3"):
        with pytest.raises(ValueError):
            scenarios_from_json(damaged)


def test_a_marked_graph_is_not_evicted_and_keeps_its_marks(store: Store) -> None:
    graph = make_graph()
    store.save(A, graph)
    store.save_annotations(A, MARKS)
    assert store.annotations(A) == MARKS
    assert store.annotations(B) == Annotations()
    for number in range(30):
        store.save(f"{number:032x}", graph)
    assert store.load(A) is not None
    store.save_annotations(A, Annotations())
    assert store.annotations(A) == Annotations()
    for number in range(30, 60):
        store.save(f"{number:032x}", graph)
    assert store.load(A) is None


def test_marks_leave_title_and_notes_alone(store: Store) -> None:
    store.save(A, make_graph())
    store.annotate(A, title="Texas", notes="look here")
    store.save_annotations(A, MARKS)
    store.annotate(A, notes="")
    [entry] = store.entries()
    assert (entry.title, entry.notes) == ("Texas", "")
    assert store.annotations(A) == MARKS


def test_runs_are_kept_the_latest_first_and_the_oldest_make_room(store: Store) -> None:
    for number in range(60):
        store.remember_run(A, (Scenario(f"run {number}", OFF.edits),), f"said {number}")
    runs = store.runs(A)
    assert [run.said for run in runs] == [f"said {number}" for number in range(59, 9, -1)]
    assert runs[0].scenarios == (Scenario("run 59", OFF.edits),)
    store.remember_run(A, runs[-1].scenarios, "again")
    assert store.runs(A)[0].said == "again"
    assert len(store.runs(A)) == 50
    assert store.runs(B) == ()


def test_a_catalogue_of_the_first_version_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.sqlite"
    db = sqlite3.connect(path)
    db.executescript(_SCHEMA)
    db.execute("INSERT INTO annotations VALUES (?, 'Texas', 'notes')", (A,))
    db.execute("PRAGMA user_version = 1")
    db.commit()
    db.close()
    catalogue = Catalogue(path)
    catalogue.annotate(A, None, None, "marked")
    assert catalogue.annotations(A) == "marked"
    catalogue.add_run(A, "[]", "said")
    assert catalogue.runs(A)[0][:2] == ("[]", "said")
    catalogue.close()


def test_the_backend_finds_them_by_either_key_and_says_what_is_wrong(tmp_path: Path) -> None:
    folders, store = FakeFolders(), Store(tmp_path / "store")
    backend = Backend(store, FakeEngine(folders), folders)
    job = backend.trace(TraceRequest("a prompt", ModelChoice()))
    assert job.wait(10)
    backend.save_annotations(job.key, MARKS)
    backend.remember_run(job.key, (OFF,), "said")
    [entry] = backend.stored()
    assert backend.annotations(entry.key) == backend.annotations(job.key) == MARKS
    assert backend.runs(entry.key)[0].said == "said"
    store._catalogue.annotate(entry.key, None, None, "damaged")
    with pytest.raises(StoreError, match="could not be read"):
        backend.annotations(job.key)
    backend.close(5)
    with pytest.raises(StoreError, match="could not be saved"):
        backend.save_annotations(job.key, MARKS)
