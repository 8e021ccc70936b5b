"""The store returns what was saved, notices damage, and stays within its quota."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save as safetensors_bytes
from small_graphs import make_graph, same

from cache import StoreError
from cache.store import Store

OpenStore = Callable[..., Store]
A, B, C, D = ("a" * 32, "b" * 32, "c" * 32, "d" * 32)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def open_store(root: Path) -> Iterator[OpenStore]:
    """Open the same store as often as a test likes; closes all of them afterwards."""
    opened: list[Store] = []

    def open_one(**options: int) -> Store:
        opened.append(Store(root, **options))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: OpenStore) -> Store:
    return open_store()


def file_of(store: Store, key: str) -> Path:
    return store.root / "graphs" / key[:2] / f"{key}.safetensors"


def flip_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 0xFF
    path.write_bytes(content)


def keys(store: Store) -> set[str]:
    return {entry.key for entry in store.entries()}


def test_a_graph_comes_back_as_it_was_saved(store: Store) -> None:
    graph = make_graph("Dallas is in", (1, 5, 6))
    store.save(A, graph)
    loaded = store.load(A)
    assert loaded is not None
    assert (loaded.prompt, loaded.tokens, loaded.targets) == (
        graph.prompt,
        graph.tokens,
        graph.targets,
    )
    np.testing.assert_array_equal(loaded.weights, graph.weights)
    assert same(loaded, graph)


def test_graphs_and_requests_survive_a_restart(store: Store, open_store: OpenStore) -> None:
    store.save(A, make_graph("Dallas"))
    store.link("question", A)
    store.close()
    again = open_store()
    assert again.key_of("question") == A
    assert same(again.load(A), make_graph("Dallas"))
    (entry,) = again.entries()
    assert (entry.prompt, entry.model) == ("Dallas", "fake")
    assert entry.bytes == file_of(again, A).stat().st_size == again.use.traced


def test_a_good_file_is_never_rewritten(store: Store) -> None:
    """A reader in another process may be between its checksum and its file."""
    store.save(A, make_graph())
    before = file_of(store, A).stat()
    (entry,) = store.entries()
    store.save(A, make_graph())
    after = file_of(store, A).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert store.entries() == (entry,)


def test_an_unknown_graph_is_none(store: Store) -> None:
    assert store.load(A) is None
    assert store.key_of("question") is None


@pytest.mark.parametrize("key", ["../../../etc/passwd", "", "A" * 32, "a" * 31, "a" * 33])
def test_a_key_is_never_a_path(store: Store, key: str) -> None:
    assert store.load(key) is None
    with pytest.raises(StoreError, match="is not a key: expected 32 hexadecimal digits"):
        store.save(key, make_graph())


def test_a_damaged_file_is_set_aside_with_the_reason(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store.save(A, make_graph())
    flip_last_byte(file_of(store, A))
    damaged_content = file_of(store, A).read_bytes()
    with caplog.at_level(logging.WARNING):
        assert store.load(A) is None
    (damage,) = store.damaged()
    assert damage.key == A
    assert "SHA-256" in damage.reason
    assert "damaged" in caplog.text and A in caplog.text
    assert (store.root / "damaged" / damage.file).read_bytes() == damaged_content
    assert not file_of(store, A).exists()
    assert store.entries() == ()


def test_only_the_latest_damaged_files_are_kept(store: Store) -> None:
    for number in range(25):
        store.save(f"{number:032x}", make_graph())
        flip_last_byte(file_of(store, f"{number:032x}"))
        assert store.load(f"{number:032x}") is None
        os.utime(store.root / "damaged" / store.damaged()[0].file, (number, number))
    kept = {file.name.partition(".")[0] for file in (store.root / "damaged").iterdir()}
    assert kept == {f"{number:032x}" for number in range(5, 25)}


def test_a_graph_can_be_saved_again_after_damage(store: Store) -> None:
    store.save(A, make_graph())
    flip_last_byte(file_of(store, A))
    assert store.load(A) is None
    store.save(A, make_graph())
    assert same(store.load(A), make_graph())


def test_a_truncated_or_missing_file_counts_as_damaged(store: Store) -> None:
    for key in (A, B):
        store.save(key, make_graph())
    file_of(store, A).write_bytes(file_of(store, A).read_bytes()[:40])
    file_of(store, B).unlink()
    assert store.load(A) is None
    assert store.load(B) is None
    assert {damage.key for damage in store.damaged()} == {A, B}


def test_an_interrupted_write_leaves_nothing_behind(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(StoreError, match=r"could not be saved .*No space left"):
            store.save(A, make_graph())
    assert [path for path in (store.root / "graphs").rglob("*") if path.is_file()] == []
    assert store.load(A) is None
    store.save(A, make_graph())
    assert same(store.load(A), make_graph())


def test_readers_do_not_wait_for_a_graph_that_is_being_written(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(A, make_graph())
    writing, written = threading.Event(), threading.Event()

    def slow(descriptor: int) -> None:
        writing.set()
        assert written.wait(10)

    monkeypatch.setattr(os, "fsync", slow)
    writer = threading.Thread(target=store.save, args=(B, make_graph("Dallas")))
    writer.start()
    assert writing.wait(10)
    assert same(store.load(A), make_graph()) and keys(store) == {A}
    written.set()
    writer.join(10)
    assert keys(store) == {A, B}


def test_eviction_deletes_the_least_recently_used_graph(open_store: OpenStore) -> None:
    size = len(make_graph().to_bytes())
    store = open_store(quota_bytes=3 * size)
    for key in (A, B, C):
        store.save(key, make_graph())
    store.load(A)
    store.save(D, make_graph())
    assert keys(store) == {A, C, D}
    assert not file_of(store, B).exists()
    assert store.use.traced <= store.quota_bytes


def test_eviction_spares_annotated_graphs(open_store: OpenStore) -> None:
    size = len(make_graph().to_bytes())
    store = open_store(quota_bytes=2 * size)
    store.save(A, make_graph())
    store.annotate(A, title="the flagship")
    store.save(B, make_graph())
    store.save(C, make_graph())
    assert keys(store) == {A, C}
    store.annotate(A, title="")
    store.save(D, make_graph())
    assert keys(store) == {C, D}


def test_annotated_graphs_beyond_the_quota_stay_and_the_log_says_so(
    store: Store, open_store: OpenStore, caplog: pytest.LogCaptureFixture
) -> None:
    for key in (A, B):
        store.save(key, make_graph())
        store.annotate(key, title="mine")
    with caplog.at_level(logging.WARNING):
        again = open_store(quota_bytes=1)
    assert keys(again) == {A, B}
    assert "annotated graphs alone exceed the quota" in caplog.text


def test_a_graph_larger_than_the_quota_is_not_kept_and_evicts_nothing(
    open_store: OpenStore,
) -> None:
    store = open_store(quota_bytes=len(make_graph().to_bytes()))
    store.save(A, make_graph())
    store.save(B, make_graph(token_ids=tuple(range(500)), n_edges=900))
    assert keys(store) == {A}


def test_title_and_notes_are_set_independently(store: Store) -> None:
    store.save(A, make_graph())
    store.annotate(A, title="Dallas")
    store.annotate(A, notes="see the L3 features")
    (entry,) = store.entries()
    assert (entry.title, entry.notes) == ("Dallas", "see the L3 features")


def test_annotations_survive_damage_to_the_file(store: Store) -> None:
    store.save(A, make_graph())
    store.annotate(A, title="Dallas")
    flip_last_byte(file_of(store, A))
    assert store.load(A) is None
    store.save(A, make_graph())
    assert store.entries()[0].title == "Dallas"


def test_a_lost_catalogue_is_rebuilt_from_the_graphs(
    store: Store, root: Path, open_store: OpenStore
) -> None:
    store.save(A, make_graph("Dallas"))
    store.close()
    for file in root.glob("catalogue.sqlite*"):
        file.unlink()
    again = open_store()
    assert [entry.prompt for entry in again.entries()] == ["Dallas"]
    assert same(again.load(A), make_graph("Dallas"))


def test_a_damaged_catalogue_is_set_aside_and_rebuilt(
    store: Store, root: Path, open_store: OpenStore
) -> None:
    store.save(A, make_graph())
    store.close()
    for name in ("catalogue.sqlite", "catalogue.sqlite-wal"):
        (root / name).write_bytes(b"this is not a database" * 500)
    again = open_store()
    assert same(again.load(A), make_graph())
    (damage,) = again.damaged()
    assert "not a database" in damage.reason
    aside = {file.name.partition(".")[0] for file in (root / "damaged").iterdir()}
    assert aside == {"catalogue"} and (root / "damaged" / damage.file).is_file()


@pytest.mark.parametrize(
    "content",
    [
        b"nonsense",
        safetensors_bytes({"features": np.zeros(3)}, {"graph": "null"}),
        safetensors_bytes({"features": np.zeros(3)}, {"graph": "[]"}),
        safetensors_bytes({"features": np.zeros(3)}),
    ],
)
def test_a_stray_file_that_is_not_a_graph_is_set_aside_on_opening(
    store: Store, root: Path, open_store: OpenStore, content: bytes
) -> None:
    store.close()
    stray = root / "graphs" / A[:2] / f"{A}.safetensors"
    stray.parent.mkdir()
    stray.write_bytes(content)
    again = open_store()
    assert again.entries() == ()
    assert [damage.key for damage in again.damaged()] == [A]
    assert not stray.exists()


@pytest.mark.parametrize("header", ["null", "[]", '{"format_version": 1}'])
def test_a_graph_with_a_malformed_header_is_set_aside_on_opening(
    store: Store, root: Path, open_store: OpenStore, header: str
) -> None:
    """`"null"` used to raise AttributeError, and the app did not start."""
    arrays = {
        name: np.ascontiguousarray(getattr(make_graph(), name))
        for name in ("features", "activations", "indptr", "sources", "weights")
    }
    store.close()
    stray = root / "graphs" / A[:2] / f"{A}.safetensors"
    stray.parent.mkdir()
    stray.write_bytes(safetensors_bytes(arrays, {"graph": header}))
    again = open_store()
    assert again.entries() == ()
    assert [damage.key for damage in again.damaged()] == [A]


def test_only_partial_files_of_dead_processes_are_deleted(
    store: Store, root: Path, open_store: OpenStore
) -> None:
    store.close()
    folder = root / "graphs" / "aa"
    folder.mkdir()
    old, fresh = folder / ".old.part", folder / ".fresh.part"
    old.write_bytes(b"x")
    fresh.write_bytes(b"x")
    os.utime(old, (0, 0))
    open_store()
    assert not old.exists()
    assert fresh.exists()


def test_a_catalogue_of_a_newer_version_is_left_unchanged(
    store: Store, root: Path, open_store: OpenStore
) -> None:
    store.close()
    with sqlite3.connect(root / "catalogue.sqlite") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StoreError, match="version 99"):
        open_store()


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"cannot be opened .* set CIRCUIT_STORE"):
        Store(tmp_path / "file" / "store")
