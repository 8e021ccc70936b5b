"""`GraphMemory`: graphs and their pruned forms, decoded and bounded together."""

from __future__ import annotations

import threading
from dataclasses import fields
from typing import Final

from cachetools import LRUCache

from cache.memory import held_bytes
from tracer.graph.graph import AttributionGraph
from tracer.graph.pruning import PrunedGraph, prune, without_pruning
from tracer.types import Thresholds

WHOLE: Final = Thresholds(1.0, 1.0)
"""Thresholds that prune nothing."""
_INDEX_BYTES: Final = 200
"""Per node of a graph, for its dictionary from nodes to rows. Measured: 146 to 173."""
_NODE_BYTES: Final = 128
"""Per kept node of a pruned graph, for its tuple of nodes. Measured: about 80."""

_Key = str | tuple[str, Thresholds]


class GraphMemory:
    """The least recently used graphs and pruned graphs, up to ``limit`` bytes in total.

    A pruned graph refers to its graph, so it is kept only while its graph is. That follows from
    the order of use: whoever reads a pruned graph reads its graph after it, so a graph is always
    more recently used than its pruned forms, and they are evicted first.

    Safe to share between threads.
    """

    def __init__(self, limit: int) -> None:
        self._lock = threading.Lock()
        self._kept: LRUCache[_Key, AttributionGraph | PrunedGraph] = LRUCache(limit, _size)

    @property
    def n_bytes(self) -> int:
        """How much memory the kept graphs take, counted when they were added."""
        return int(self._kept.currsize)

    def get(self, key: str) -> AttributionGraph | None:
        """Return the graph under ``key``, or None."""
        with self._lock:
            return self._graph(key)

    def put(self, key: str, graph: AttributionGraph) -> None:
        """Keep a graph, unless it is larger than the limit."""
        with self._lock:
            if self._graph(key) is graph:
                return
            self._drop(key)
            if _size(graph) <= self._kept.maxsize:
                self._kept[key] = graph

    def drop(self, key: str) -> None:
        """Forget a graph and its pruned forms."""
        with self._lock:
            self._drop(key)

    def pruned(self, key: str, graph: AttributionGraph, thresholds: Thresholds) -> PrunedGraph:
        """Return ``graph``, kept under ``key``, pruned at ``thresholds``.

        Pruning runs in the caller's thread, outside the lock.
        """
        with self._lock:
            known = self._kept.get((key, thresholds))
            self._graph(key)
            if isinstance(known, PrunedGraph) and known.graph is graph:
                return known
        pruned = _prune(graph, thresholds)
        size = _size(graph) + _size(pruned)
        with self._lock:
            if self._graph(key) is graph and size <= self._kept.maxsize:
                self._kept[key, thresholds] = pruned
                self._graph(key)
        return pruned

    # Call these with the lock held.

    def _graph(self, key: str) -> AttributionGraph | None:
        """Return the graph under ``key`` and mark it as the most recently used."""
        graph = self._kept.get(key)
        return graph if isinstance(graph, AttributionGraph) else None

    def _drop(self, key: str) -> None:
        for kept in list(self._kept):
            if key == (kept if isinstance(kept, str) else kept[0]):
                del self._kept[kept]


def _prune(graph: AttributionGraph, thresholds: Thresholds) -> PrunedGraph:
    if graph.provenance.get("imported") and thresholds == WHOLE:
        return without_pruning(graph)  # its maker pruned it; dead ends stay
    return prune(graph, thresholds.node, thresholds.edge)


def _size(value: AttributionGraph | PrunedGraph) -> int:
    """Return how many bytes a graph holds at most, once everything it computes lazily is there.

    The graph that a pruned graph refers to is not counted with it.
    """
    if isinstance(value, AttributionGraph):
        stored = sum(held_bytes(getattr(value, field.name)) for field in fields(value))
        rows = 8 * value.n_edges
        # Target weights, influence (two arrays), layers and positions are 8 bytes a node each.
        return stored + rows + value.n_nodes * (5 * 8 + _INDEX_BYTES)
    masks = value.node_mask.nbytes + value.edge_mask.nbytes + value.cumulative_influence.nbytes
    kept_nodes, kept_edges = int(value.node_mask.sum()), int(value.edge_mask.sum())
    edges = kept_edges * (value.graph.sources.itemsize + 8 + value.graph.weights.itemsize)
    return masks + kept_nodes * (8 + _NODE_BYTES) + edges
