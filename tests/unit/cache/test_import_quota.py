"""Imported graphs are never evicted, so they have a quota of their own."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakes import FakeEngine
from flavours import bare, neuronpedia
from imports import changed, content, imported
from small_graphs import make_graph

from cache import Backend, StoreError, StoreUse
from cache.store import Store

OpenSmall = Callable[[int], Backend]


@pytest.fixture
def open_small(tmp_path: Path, engine: FakeEngine) -> Iterator[OpenSmall]:
    """Open a backend whose store may take a number of bytes."""
    opened: list[Backend] = []

    def open_one(quota_bytes: int) -> Backend:
        opened.append(Backend(Store(tmp_path / "small", quota_bytes), engine))
        return opened[-1]

    yield open_one
    for backend in opened:
        backend.close(10)


def test_a_graph_that_does_not_fit_is_refused_and_leaves_nothing(open_small: OpenSmall) -> None:
    backend = open_small(100)
    with pytest.raises(StoreError, match="raise CIRCUIT_STORE_GB"):
        imported(backend, content(neuronpedia()), "x.json")
    assert backend.stored() == () and not list((backend.store.root / "originals").iterdir())


def test_imported_graphs_are_not_evicted_and_evict_nothing(open_small: OpenSmall) -> None:
    traced = [make_graph(token_ids=(1, 2, number)) for number in range(12)]
    backend = open_small(5 * len(traced[0].to_bytes()))
    for number, graph in enumerate(traced[:5]):
        backend.store.save(f"{number:032x}", graph)
    key = imported(backend, content(neuronpedia()), "x.json")
    backend.annotate(key, title="")  # being imported keeps it, not its title
    assert len(backend.stored()) == 6
    for number, graph in enumerate(traced):
        backend.store.save(f"{number:032x}", graph)
    kept = [entry.key for entry in backend.stored()]
    assert key in kept and len(kept) == 6


def test_imported_graphs_count_with_their_original_files(open_small: OpenSmall) -> None:
    backend = open_small(5_000)
    assert backend.use() == StoreUse(traced=0, imported=0, quota=5_000)
    imported(backend, content(neuronpedia()), "x.json")
    folders = (backend.store.root / name for name in ("graphs", "originals"))
    files = [file for folder in folders for file in folder.rglob("*.*")]
    assert len(files) == 2
    assert backend.use().imported == sum(file.stat().st_size for file in files) > 0
    assert backend.use().traced == 0


def test_imports_beyond_the_quota_are_refused_until_one_is_deleted(open_small: OpenSmall) -> None:
    backend = open_small(5_000)
    first = imported(backend, content(neuronpedia()), "x.json")
    second = imported(backend, content(bare()), "y.json")
    with pytest.raises(StoreError, match=r"already take [\d.]+ kB of 5\.0 kB: delete some"):
        for number in range(5):
            imported(backend, changed(lambda s, n=number: s.update(mine=n)), "z.json")
    assert backend.use().imported <= 5_000
    n_kept = len(backend.stored())
    assert imported(backend, content(bare()), "y.json") == second, "it is stored already"
    backend.forget(first)
    imported(backend, changed(lambda s: s.update(mine="room again")), "z.json")
    assert len(backend.stored()) == n_kept
    assert len(list((backend.store.root / "originals").iterdir())) == n_kept


def test_a_catalogue_from_before_imports_is_migrated(tmp_path: Path, engine: FakeEngine) -> None:
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
