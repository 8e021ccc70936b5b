"""Damage on the disk is noticed, reported and repaired."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakes import FakeEngine
from flavours import neuronpedia
from imports import content
from small_graphs import make_graph, same

from cache import Backend
from cache.__main__ import main
from cache.annotations import Annotations
from cache.store import Store
from tracer.types import FeatureId, NodeId

A, B = "a" * 32, "b" * 32
PINS = Annotations((NodeId("feature", 0, 1, 5),))
OpenStore = Callable[[], Store]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def open_store(root: Path) -> Iterator[OpenStore]:
    opened: list[Store] = []

    def open_one() -> Store:
        opened.append(Store(root))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def filled(open_store: OpenStore, root: Path) -> Path:
    """A closed store with two graphs, a title, notes and pins."""
    store = open_store()
    store.save(A, make_graph("Dallas"))
    store.save(B, make_graph("Oslo", (1, 9, 4)))
    store.annotate(A, title="two hops", notes="see layer 3")
    store.save_annotations(B, PINS)
    store.close()
    return root


def flip(path: Path, offset: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1 << bit
    path.write_bytes(content)


def graph_file(root: Path, key: str) -> Path:
    return root / "graphs" / key[:2] / f"{key}.safetensors"


def drop_catalogue(root: Path) -> None:
    for file in root.glob("catalogue.sqlite*"):
        file.unlink()


def test_a_flipped_bit_is_noticed_without_the_catalogue(
    filled: Path, open_store: OpenStore
) -> None:
    """58 of 60 graphs were adopted with wrong content."""
    sound = graph_file(filled, A).read_bytes()
    for number in range(16):
        drop_catalogue(filled)
        first = len(sound) - 100 if number % 2 else 0  # its last bytes are numbers
        flip(graph_file(filled, A), random.Random(number).randrange(first, len(sound)), number % 8)
        store = open_store()
        graph = store.load(A)
        assert graph is None or same(graph, make_graph("Dallas")), number
        assert graph is not None or any(file.key == A for file in store.damaged())
        store.close()
        graph_file(filled, A).write_bytes(sound)


@pytest.mark.parametrize("lost", ["deleted", "emptied", "overwritten"])
def test_titles_and_pins_survive_a_lost_catalogue(
    filled: Path, open_store: OpenStore, lost: str
) -> None:
    path = filled / "catalogue.sqlite"
    if lost == "deleted":
        path.unlink()
    else:
        path.write_bytes(b"" if lost == "emptied" else b"this is not a database" * 900)
    store = open_store()
    assert {entry.title for entry in store.entries()} == {"two hops", ""}
    assert store.annotations(B) == PINS
    assert any("restored from the copy" in file.reason for file in store.damaged())


def test_a_flipped_bit_in_a_title_is_restored_and_reported(
    filled: Path, open_store: OpenStore
) -> None:
    """SQLite does not notice it."""
    path = filled / "catalogue.sqlite"
    flip(path, path.read_bytes().index(b"two hops") + 2, 1)
    store = open_store()
    assert [entry.title for entry in store.entries() if entry.key == A] == ["two hops"]
    (damage,) = store.damaged()
    assert damage.key == A and "restored" in damage.reason and damage.found > 0


LABELS = {FeatureId(3, 417): "Texas", FeatureId(0, 5): "capital cities"}


@pytest.fixture
def labelled(filled: Path, open_store: OpenStore) -> Path:
    """The filled store, with two labels of people."""
    store = open_store()
    for feature, label in LABELS.items():
        store.set_label("atlas/per-layer", feature, label)
    store.close()
    return filled


def test_a_flipped_bit_in_a_label_is_restored_and_reported(
    labelled: Path, open_store: OpenStore
) -> None:
    path = labelled / "catalogue.sqlite"
    flip(path, path.read_bytes().index(b"capital cities") + 2, 1)
    store = open_store()
    assert store.labels("atlas/per-layer") == LABELS
    (damage,) = store.damaged()
    assert "restored" in damage.reason and damage.found > 0


def test_labels_survive_a_lost_catalogue(labelled: Path, open_store: OpenStore) -> None:
    drop_catalogue(labelled)
    store = open_store()
    assert store.labels("atlas/per-layer") == LABELS
    assert any("restored from the copy" in file.reason for file in store.damaged())


def test_a_flipped_bit_without_a_copy_is_reported(filled: Path, open_store: OpenStore) -> None:
    path = filled / "catalogue.sqlite"
    flip(path, path.read_bytes().index(b"two hops") + 2, 1)
    (filled / "annotations" / f"{A}.json").write_text("damaged too")
    (damage,) = open_store().damaged()
    assert damage.key == A and "check them" in damage.reason


def test_a_flipped_checksum_in_the_catalogue_costs_no_graph(
    filled: Path, open_store: OpenStore
) -> None:
    with sqlite3.connect(filled / "catalogue.sqlite") as db:
        db.execute("UPDATE graphs SET sha256 = replace(sha256, '1', '2')")
    db.close()
    store = open_store()
    assert same(store.load(A), make_graph("Dallas")) and len(store.entries()) == 2


def test_a_damaged_index_is_rebuilt(filled: Path, open_store: OpenStore) -> None:
    with sqlite3.connect(filled / "catalogue.sqlite") as db:
        db.execute("PRAGMA writable_schema = ON")
        db.execute("INSERT INTO requests VALUES ('d', 'k')")
        (page,) = db.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'requests_by_key'"
        ).fetchone()
        (size,) = db.execute("PRAGMA page_size").fetchone()
    db.close()
    content = bytearray((filled / "catalogue.sqlite").read_bytes())
    content[page * size - 3] ^= 1  # the last bytes of the page are its first entry
    (filled / "catalogue.sqlite").write_bytes(content)
    store = open_store()
    assert store.key_of("d") == "k" and store.damaged() == ()
    assert not list((filled / "damaged").iterdir())


def test_no_flipped_bit_of_the_catalogue_goes_unnoticed(
    filled: Path, open_store: OpenStore
) -> None:
    path, sound = filled / "catalogue.sqlite", (filled / "catalogue.sqlite").read_bytes()
    source = random.Random(0)
    for number in range(30):
        for part in filled.glob("catalogue.sqlite-*"):
            part.unlink()
        path.write_bytes(sound)
        place = number if number < 15 else source.randrange(len(sound))
        flip(path, place, source.randrange(8))
        store = open_store()
        assert {entry.title for entry in store.entries()} == {"two hops", ""}, place
        assert store.annotations(B) == PINS, place
        assert same(store.load(A), make_graph("Dallas")), place
        store.close()


def test_the_log_is_empty_after_annotating(filled: Path, open_store: OpenStore) -> None:
    """One flipped byte of the log used to drop every title and pin after it, unnoticed."""
    store = open_store()
    store.annotate(A, title="new")
    log = filled / "catalogue.sqlite-wal"
    assert not log.exists() or log.stat().st_size == 0


def test_commits_are_flushed_to_the_disk(open_store: OpenStore) -> None:
    file = open_store()._catalogue._file
    assert file._db.execute("PRAGMA synchronous").fetchone() == (2,)


def test_a_damaged_import_is_read_again_from_its_original(
    tmp_path: Path, engine: FakeEngine
) -> None:
    backend = Backend(Store(tmp_path / "store"), engine)
    key = backend.import_graph(content(neuronpedia()), "x.json").result(30)
    graph = backend.graph(key)
    backend.close(10)
    flip(graph_file(tmp_path / "store", key), -1)
    store = Store(tmp_path / "store")
    assert graph is not None and same(store.load(key), graph)
    (damage,) = store.damaged()
    assert "read again from the file it was imported from" in damage.reason
    assert [entry.imported for entry in store.entries()] == [True]
    store.close()


def test_a_crash_after_deleting_brings_nothing_back(
    filled: Path, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(store._folder, "delete", interrupted)
        store.forget(A)
    store.close()
    again = open_store()
    assert [entry.key for entry in again.entries()] == [B]
    assert not graph_file(filled, A).exists() and again.damaged() == ()


def interrupted(key: str) -> None:
    raise KeyboardInterrupt


def test_a_failing_commit_deletes_no_file(
    filled: Path, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file used to be gone before the catalogue said so."""
    store = open_store()

    def fail(key: str) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(store._catalogue, "remove", fail)
    with pytest.raises(Exception, match="disk is full"):
        store.forget(A)
    assert same(store.load(A), make_graph("Dallas"))


def test_damage_while_the_store_is_open_is_repaired(filled: Path, open_store: OpenStore) -> None:
    store = open_store()
    path = filled / "catalogue.sqlite"
    path.write_bytes(path.read_bytes()[:100] + b"x" * 30_000)
    for part in filled.glob("catalogue.sqlite-*"):
        part.unlink()
    assert {entry.title for entry in store.entries()} == {"two hops", ""}


def test_the_command_verifies_and_repairs(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--store", str(filled)]
    assert main([*arguments, "verify"]) == 0
    flip(graph_file(filled, A), -1)
    assert main([*arguments, "verify"]) == 1
    assert "SHA-256" in capsys.readouterr().out
    assert main([*arguments, "repair"]) == 0
    assert "1 graphs are intact, 1 were damaged just now" in capsys.readouterr().out
    assert main([*arguments, "verify", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"graphs": 1, "problems": []}


def test_the_command_prunes_and_counts(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--store", str(filled)]
    assert main([*arguments, "stats", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["graphs"] == 2
    assert main([*arguments, "prune", "--gb", "0"]) == 0
    assert main([*arguments, "stats"]) == 0
    assert "graphs: 2" in capsys.readouterr().out, "annotated graphs are never deleted"


def test_the_command_refuses_a_folder_that_is_not_a_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--store", str(tmp_path), "stats"]) == 2
    assert "is not a store" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_damaged_name_in_the_schema_is_damage(filled: Path, open_store: OpenStore) -> None:
    """SQLite's own message about it was not text, and opening raised UnicodeDecodeError."""
    path = filled / "catalogue.sqlite"
    content = path.read_bytes()
    place = content.index(b"sqlite_autoindex_annotations_1")
    path.write_bytes(content[: place + 12] + b"\xe5\xe5" + content[place + 14 :])
    store = open_store()
    assert {entry.title for entry in store.entries()} == {"two hops", ""}
    assert store.annotations(B) == PINS and store.damaged()
