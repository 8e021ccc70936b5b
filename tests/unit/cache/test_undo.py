"""A deleted graph comes back complete."""

from __future__ import annotations

import pytest
from fakes import FakeEngine
from flavours import neuronpedia
from imports import content, imported
from small_graphs import same

from cache import Annotations, Backend, StoreError, TraceRequest
from cache.undo import restore, snapshot


@pytest.mark.parametrize("is_imported", [True, False])
def test_undo_brings_a_graph_back_with_everything(
    backend: Backend, engine: FakeEngine, is_imported: bool
) -> None:
    request = TraceRequest("a b")
    if is_imported:
        key = imported(backend, content(neuronpedia()), "x.json")
    else:
        backend.trace(request).result(10)
        key = backend.stored()[0].key
    graph = backend.graph(key)
    assert graph is not None
    backend.annotate(key, title="T", notes="N", tags=("one", "two"))
    backend.save_annotations(key, Annotations((graph.index.node(0),)))
    before = backend.stored()[0]
    deleted = snapshot(backend.store, key)
    backend.forget(key)
    assert backend.graph(key) is None and backend.stored() == ()
    assert deleted is not None
    restore(backend.store, deleted)
    [after] = backend.stored()
    assert (after.title, after.notes, after.tags) == ("T", "N", ("one", "two"))
    assert (after.sha256, after.imported) == (before.sha256, is_imported)
    again = backend.graph(key)
    assert again is not None and same(again, graph)
    assert backend.annotations(key).pinned == (graph.index.node(0),)
    if is_imported:
        assert backend.store.original(key) == content(neuronpedia())
    else:
        assert backend.trace(request).from_cache and engine.traced == ["a b"]


def test_there_is_nothing_to_undo_for_a_graph_that_is_gone(backend: Backend) -> None:
    assert snapshot(backend.store, "f" * 32) is None


def test_undo_says_so_when_the_store_is_full(backend: Backend) -> None:
    backend.trace(TraceRequest("a b")).result(10)
    key = backend.stored()[0].key
    deleted = snapshot(backend.store, key)
    backend.forget(key)
    backend.store.quota_bytes = 10
    assert deleted is not None
    with pytest.raises(StoreError, match="no longer fits"):
        restore(backend.store, deleted)
