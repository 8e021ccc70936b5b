"""Take a graph out of the store in a way that can be undone."""

from __future__ import annotations

from dataclasses import dataclass

from cache.annotations import Annotations
from cache.catalogue import StoredGraph, StoreError
from cache.store import Store
from tracer.graph.graph import AttributionGraph


@dataclass(frozen=True)
class DeletedGraph:
    """Everything that the store knew about a graph that was deleted."""

    entry: StoredGraph
    graph: AttributionGraph
    original: bytes | None
    annotations: Annotations
    requests: tuple[str, ...]
    """Digests of the requests that the graph answers."""


def snapshot(store: Store, key: str) -> DeletedGraph | None:
    """Return what :func:`restore` needs to bring a graph back, or None if it cannot be read.

    Raises :class:`StoreError` when the store fails.
    """
    entry = next((each for each in store.entries() if each.key == key), None)
    graph = store.load(key) if entry is not None else None
    if entry is None or graph is None:
        return None
    return DeletedGraph(
        entry, graph, store.original(key), store.annotations(key), store.requests_of(key)
    )


def restore(store: Store, deleted: DeletedGraph) -> None:
    """Put a deleted graph back, with its title, notes, tags, pins and supernodes.

    Raises :class:`StoreError` when it cannot be kept.
    """
    entry = deleted.entry
    if entry.imported:
        store.add_import(
            entry.key, deleted.graph, deleted.original, entry.title, deleted.annotations
        )
    else:
        store.save(entry.key, deleted.graph)
        store.save_annotations(entry.key, deleted.annotations)
    store.annotate(entry.key, title=entry.title, notes=entry.notes, tags=entry.tags)
    for digest in deleted.requests:
        store.link(digest, entry.key)
    if all(each.key != entry.key for each in store.entries()):
        raise StoreError(
            f"“{entry.title or entry.prompt}” no longer fits into the store: raise CIRCUIT_STORE_GB"
        )
