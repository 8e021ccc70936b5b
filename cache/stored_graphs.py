"""The part of `Backend` that answers from the store: graphs, titles, pins and runs."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from cache.annotations import Annotations, StoredRun
from cache.catalogue import DamagedFile, StoredGraph, StoreError, StoreUse
from cache.graph_files import exported
from cache.graph_memory import GraphMemory
from cache.memory import BoundedCache
from cache.merge import Saved
from cache.store import Store
from tracer.graph.graph import AttributionGraph
from tracer.graph.pruning import PrunedGraph
from tracer.interventions.scenario import Scenario
from tracer.types import Thresholds

if TYPE_CHECKING:
    from cache.feature_labels import FeatureLabels
    from cache.model_library import ModelLibrary

logger = logging.getLogger(__name__)


class StoredGraphs:
    """Graphs in memory and in the store, and what people wrote about them."""

    store: Store
    library: ModelLibrary
    labels: FeatureLabels
    _graphs: GraphMemory
    _keys: BoundedCache[str, str]

    def graph(self, key: str) -> AttributionGraph | None:
        """Return a graph by either of its keys, or None; a failing store is logged."""
        graph = self._known(self._keys.get(key) or key)
        if graph is not None:
            return graph
        try:
            stored = self.store.key_of(key)
        except StoreError as error:
            logger.warning("%s", error)
            return None
        if stored is None:
            return None
        self._keys.put(key, stored)
        return self._known(stored)

    def pruned(
        self,
        key: str,
        thresholds: Thresholds = Thresholds(),  # noqa: B008
    ) -> PrunedGraph | None:
        """Return a graph pruned at ``thresholds``, by either of its keys, or None.

        It refers to the graph of :meth:`graph`. An imported graph at thresholds of 1 is not pruned
        again: its dead ends stay. Prunes in the caller's thread if the result is not in memory.
        """
        graph = self.graph(key)
        if graph is None:
            return None
        return self._graphs.pruned(self._keys.get(key) or key, graph, thresholds)

    def graph_key_of(self, job_key: str) -> str:
        """Return the key under which the store has the graph of a job."""
        return self._keys.get(job_key) or self.store.key_of(job_key) or job_key

    def stored(self) -> tuple[StoredGraph, ...]:
        """Return every graph in the store, the most recently used first."""
        return self.store.entries()

    @property
    def store_problem(self) -> str:
        """Why nothing can be kept, as one sentence; empty while all is well."""
        return self.store.problem

    def use(self) -> StoreUse:
        """Return how much disk space the stored graphs take."""
        return self.store.use

    def damaged(self) -> tuple[DamagedFile, ...]:
        """Return the files that failed their check and were set aside, the latest first."""
        return self.store.damaged()

    def forget(self, key: str) -> None:
        """Delete a graph by its own key, with its annotations."""
        self.store.forget(key)
        self._graphs.drop(key)

    def export_graph(self, key: str, thresholds: Thresholds = Thresholds()) -> bytes:  # noqa: B008
        """Return a graph as published JSON, with its current labels, pins and supernodes.

        A graph imported as JSON is exported complete; all others are pruned at ``thresholds``.
        Raises :class:`StoreError` when there is no such graph.
        """
        own_key = self.store.key_of(key) or key
        graph = self.graph(key)
        if graph is None:
            raise StoreError(
                f"no graph is stored under {key!r}: trace the prompt or import the file again"
            )
        original, annotations = self.store.original(own_key), self.store.annotations(own_key)
        title = next((e.title for e in self.store.entries() if e.key == own_key), "")
        own = self.labels.of(self.labels.dictionary(graph))
        names = {**self.library.names(graph), **own}
        return exported(graph, title, annotations, names, original, thresholds, own)

    # Annotations

    def annotate(
        self,
        key: str,
        *,
        title: str | None = None,
        notes: str | None = None,
        tags: tuple[str, ...] | None = None,
        read: tuple[str, str] | None = None,
    ) -> bool:
        """Set the title, notes or tags of a graph, by either of its keys; it is never evicted then.

        ``read`` is the title and notes that the change started from. The result is True when
        somebody else had changed them since, and both texts are kept.
        """
        return self.store.annotate(key, title=title, notes=notes, tags=tags, read=read)

    def annotations(self, key: str) -> Annotations:
        """Return the pins and supernodes of a graph, by either of its keys."""
        return self.store.annotations(key)

    def save_annotations(
        self, key: str, annotations: Annotations, read: Annotations | None = None
    ) -> Saved:
        """Keep pins and supernodes with a graph, by either of its keys.

        ``read`` is what the change started from; what somebody else has saved since is merged
        with it. Without it, what is stored is replaced.
        """
        return self.store.save_annotations(key, annotations, read)

    def remember_run(self, key: str, scenarios: tuple[Scenario, ...], summary: str) -> None:
        """Add a run of scenarios to a graph's history, by either of its keys."""
        self.store.remember_run(key, scenarios, summary)

    def runs(self, key: str) -> tuple[StoredRun, ...]:
        """Return the history of a graph, the latest run first, by either of its keys."""
        return self.store.runs(key)

    # The store is a convenience: when the disk fails, work continues and the log says so.

    def _known(self, key: str) -> AttributionGraph | None:
        graph = self._graphs.get(key)
        try:
            if graph is not None:
                self.store.touch(key)
                return graph
            graph = self.store.load(key)
        except StoreError as error:
            logger.warning("%s", error)
            return graph
        if graph is not None:
            self._graphs.put(key, graph)
        return graph

    def _keep(self, key: str, graph: AttributionGraph) -> None:
        self._graphs.put(key, graph)
        try:
            self.store.save(key, graph)
        except StoreError as error:
            logger.warning("%s", error)

    def _link(self, digest: str, key: str) -> None:
        self._keys.put(digest, key)
        try:
            self.store.link(digest, key)
        except StoreError as error:
            logger.warning("%s", error)
