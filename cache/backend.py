"""`Backend`: ask for a trace or an intervention and get a `Job`; known answers come at once."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar
from uuid import uuid4

from cache.annotations import Annotations, StoredRun
from cache.attention import AttentionAnswers
from cache.catalogue import DamagedFile, StoredGraph, StoreError, StoreUse
from cache.engine import Engine, M, TracerEngine
from cache.graph_files import exported, read_import
from cache.graph_memory import GraphMemory
from cache.job_queue import JobQueue
from cache.jobs import Job
from cache.machine import Device
from cache.memory import BoundedCache, held_bytes
from cache.model_library import ModelLibrary, Resolve
from cache.request import (
    InterveneRequest,
    ModelChoice,
    ScenarioRequest,
    TraceRequest,
    graph_key,
    identity,
    intervene_digest,
    scenarios_digest,
    token_digest,
    trace_digest,
    warm_digest,
)
from cache.store import DEFAULT_QUOTA, Store
from cache.worker import Worker
from tracer import paths
from tracer.catalog.resolve import resolve
from tracer.errors import TracerError
from tracer.graph.graph import AttributionGraph
from tracer.graph.pruning import PrunedGraph
from tracer.interventions.scenario import Scenario
from tracer.types import Thresholds

if TYPE_CHECKING:
    from tracer.interventions.run import InterventionResult, ScenarioRun

logger = logging.getLogger(__name__)

GRAPH_BYTES: Final = 512 * 1024**2
"""Memory for decoded graphs and their pruned forms."""
RESULT_BYTES: Final = 64 * 1024**2
"""Memory for the results of interventions, and as much again for those of scenarios."""
_KEYS_KEPT: Final = 4096
T = TypeVar("T")


class Backend(Generic[M]):
    """Answers requests from memory, from the store, or by one worker thread, in that order.

    One per process. Any thread may call any method. Nothing but pruning is computed in the
    caller's thread: a request whose answer is not known yet is queued and returns a :class:`Job`.
    ``job.result()`` raises the errors, that of a missing model included. ``session`` names the
    visitor: a job that several sessions want is cancelled only when all of them cancel.

    The graphs in the store are found by two keys: that of the job that traced them, and their own,
    which :meth:`stored` lists. Methods that read or write the store raise :class:`StoreError` when
    the disk or the catalogue fails.
    """

    def __init__(self, store: Store, engine: Engine[M], resolve: Resolve = resolve) -> None:
        self.store = store
        self._worker = Worker(engine)
        self._graphs = GraphMemory(GRAPH_BYTES)
        self._keys: BoundedCache[str, str] = BoundedCache(_KEYS_KEPT)
        self._interventions: BoundedCache[str, InterventionResult] = BoundedCache(
            RESULT_BYTES, held_bytes
        )
        self._scenario_runs: BoundedCache[str, ScenarioRun] = BoundedCache(RESULT_BYTES, held_bytes)
        self._imports = JobQueue("imports")
        self.library: ModelLibrary[M] = ModelLibrary(self._worker, resolve)
        """The models that can be opened, and the examples of their features."""
        self.attention = AttentionAnswers(self.graph, self._ask)
        """Which heads carried what, and why they looked where they looked."""

    @property
    def device(self) -> str | None:
        """The device that the models are on, e.g. ``"cpu"``; None until the first one is open."""
        return self._worker.device

    @property
    def device_name(self) -> str:
        """The device as it was asked for: ``"auto"``, ``"cpu"``, ``"cuda:1"`` …"""
        return self._worker.device_name

    def devices(self) -> tuple[Device, ...]:
        """Return the devices to choose from; see :meth:`ModelLibrary.devices`."""
        return self.library.devices()

    def set_device(self, name: str) -> None:
        """Open models on another device; see :meth:`ModelLibrary.set_device`."""
        self.library.set_device(name)

    @property
    def queue(self) -> tuple[Job[Any], ...]:
        """The running job, then the waiting ones in order."""
        return self._worker.queue

    @property
    def imports(self) -> tuple[Job[Any], ...]:
        """The import that is running, then the waiting ones in order."""
        return self._imports.jobs

    def close(self, timeout: float | None = None) -> None:
        """Finish the queue, end the threads and close the store."""
        self._imports.close(timeout, cancel=True)
        self.library.close(timeout)
        self._worker.close(timeout)
        self.store.close()

    # Work that needs a model

    def trace(self, request: TraceRequest, session: str = "") -> Job[AttributionGraph]:
        """Trace a prompt; :meth:`graph` finds the graph by ``job.key``."""

        def work(model: M, job: Job[AttributionGraph]) -> AttributionGraph:
            files = identity(model.source, request.choice)
            key = graph_key(files, model.encode(request.prompt), request)
            graph = self._known(key)
            if graph is not None:
                job.from_cache = True
            else:
                job.report(0, 0, "running the model")
                graph = self._worker.engine.trace(model, request, job.report)
                self._keep(key, graph)
            self._link(job.key, key)
            return graph

        return self._ask(
            request.choice,
            request.prompt,
            lambda files: trace_digest(files, request),
            work,
            session,
            self.graph,
        )

    def intervene(self, request: InterveneRequest, session: str = "") -> Job[InterventionResult]:
        """Run a prompt with some features set, and without."""

        def work(model: M, job: Job[InterventionResult]) -> InterventionResult:
            job.report(0, 1, "running the model")
            result = self._worker.engine.intervene(model, request, job.report)
            self._interventions.put(job.key, result)
            return result

        return self._ask(
            request.choice,
            request.prompt,
            lambda files: intervene_digest(files, request),
            work,
            session,
            self._interventions.get,
        )

    def scenarios(self, request: ScenarioRequest, session: str = "") -> Job[ScenarioRun]:
        """Run a prompt under several scenarios, and without any edits."""

        def work(model: M, job: Job[ScenarioRun]) -> ScenarioRun:
            result = self._worker.engine.scenarios(model, request, job.report)
            self._scenario_runs.put(job.key, result)
            return result

        return self._ask(
            request.choice,
            request.prompt,
            lambda files: scenarios_digest(files, request),
            work,
            session,
            self._scenario_runs.get,
        )

    def token(self, choice: ModelChoice, text: str, session: str = "") -> Job[int]:
        """Look up the vocabulary id of ``text``; ``TargetError`` if it is not one token."""

        def work(model: M, job: Job[int]) -> int:
            return model.token_id(text)

        return self._ask(choice, text, lambda files: token_digest(files, text), work, session)

    def warm(self, choice: ModelChoice, session: str = "") -> Job[str]:
        """Open a model before it is needed; the result is the device it is on."""

        def work(model: M, job: Job[str]) -> str:
            return str(model.device)

        return self._ask(choice, f"open {choice.model}", warm_digest, work, session)

    def _ask(
        self,
        choice: ModelChoice,
        title: str,
        digest: Callable[[str], str],
        work: Callable[[M, Job[T]], T],
        session: str,
        known: Callable[[str], T | None] = lambda key: None,
    ) -> Job[T]:
        """Answer a request from memory or the store, or queue its ``work``.

        ``digest`` names the request, given the identity of the model's files; that name is the
        job's key. ``known`` returns the answer under a name, if there is one.
        """
        try:
            files = identity(self.library.source(choice), choice)
        except TracerError as error:
            return Job.refused("", error, title)
        key = digest(files)
        answer = known(key)
        if answer is not None:
            return Job.found(key, answer, title)
        return self._worker.submit(key, title, choice, files, work, session)

    # Graphs

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

    def key_of(self, request: TraceRequest) -> str | None:
        """Return the key of the stored graph that answers a request, or None."""
        try:
            source = self.library.source(request.choice)
        except TracerError:  # the model is gone
            return None
        return self.store.key_of(trace_digest(identity(source, request.choice), request))

    def stored(self) -> tuple[StoredGraph, ...]:
        """Return every graph in the store, the most recently used first."""
        return self.store.entries()

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

    def import_graph(self, content: bytes, name: str, session: str = "") -> Job[str]:
        """Keep a graph of another tool: published JSON, or a `.pt` of circuit-tracer.

        The result is its key. Its pins and supernodes become its annotations, unless the graph is
        in the store already and has some. Imported graphs are never evicted. Files are read one
        after another in the background: a large one takes seconds, and several times its size in
        memory.

        The job fails with :class:`ExternalGraphError` for a file that is damaged, too large or
        would run code, and with :class:`StoreError` when it cannot be kept. Nothing is stored then.
        """

        def read(job: Job[str]) -> str:
            job.report(0, 0, "reading the file")
            new = read_import(content, name)
            job.report(0, 0, "saving the graph")
            self.store.add_import(new.key, new.graph, new.original, new.title, new.annotations)
            self._graphs.put(new.key, new.graph)
            return new.key

        return self._imports.submit(f"import {uuid4().hex}", name, read, session)

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
        return exported(graph, title, annotations, self.library.names(graph), original, thresholds)

    # Annotations

    def annotate(self, key: str, *, title: str | None = None, notes: str | None = None) -> None:
        """Set the title or notes of a graph, by either of its keys; it is never evicted then."""
        self.store.annotate(key, title=title, notes=notes)

    def annotations(self, key: str) -> Annotations:
        """Return the pins and supernodes of a graph, by either of its keys."""
        return self.store.annotations(key)

    def save_annotations(self, key: str, annotations: Annotations) -> None:
        """Keep pins and supernodes with a graph, by either of its keys."""
        self.store.save_annotations(key, annotations)

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


def open_backend(root: Path | None = None, device: str | None = None) -> Backend[Any]:
    """Open the backend of this process, with its store in ``root`` and its models on ``device``.

    Without ``root`` the store is in ``CIRCUIT_STORE``, else in ``.store`` next to this package.
    ``CIRCUIT_STORE_GB`` limits its size (default 2). Without ``device``, or with ``"auto"``, models
    are opened on ``CIRCUIT_DEVICE``, else on CUDA, Apple MPS or the CPU. A device that is missing
    fails the jobs, not this function: torch is not imported here.

    Raises :class:`StoreError` when the store cannot be opened or its size is not a number.

    >>> import tempfile
    >>> backend = open_backend(Path(tempfile.mkdtemp()), "cpu")
    >>> job = backend.trace(TraceRequest("The capital of the state containing Dallas is"))
    >>> job.result().targets[0].label
    ' Austin'
    >>> backend.trace(TraceRequest("The capital of the state containing Dallas is")).from_cache
    True
    >>> backend.close()
    """
    if root is None:
        default = Path(__file__).resolve().parent.parent / ".store"
        root = paths.expand_user(os.environ.get("CIRCUIT_STORE") or str(default))
    quota = paths.shared_quota("CIRCUIT_STORE_GB", DEFAULT_QUOTA, StoreError)
    return Backend(Store(root, quota), TracerEngine(device))
