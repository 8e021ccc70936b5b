"""`Backend`: ask for a trace or an intervention and get a `Job`, at once if it is already known."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from cache.annotations import Annotations, StoredRun
from cache.background import BackgroundQueue
from cache.catalogue import DamagedFile, StoredGraph, StoreError
from cache.devices import DeviceControl
from cache.engine import Engine, M, TracerEngine
from cache.files import StoreUse
from cache.graph_files import exported, read_import
from cache.jobs import Job
from cache.lru import Lru
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
from tracer.catalog.resolve import ModelSource, resolve
from tracer.errors import TracerError
from tracer.graph.graph import AttributionGraph
from tracer.interchange.nodes import stored_labels
from tracer.interventions.scenario import Scenario
from tracer.types import FeatureId, Thresholds

if TYPE_CHECKING:
    from tracer.interventions.run import InterventionResult, ScenarioRun

logger = logging.getLogger(__name__)

GRAPH_BYTES: Final = 512 * 1024**2
"""Decoded graphs kept in memory, in bytes of their arrays."""
INTERVENTION_BYTES: Final = 64 * 1024**2
_NAMES_KEPT: Final = 4096


class Backend(DeviceControl[M]):
    """Answers requests from memory, from the store, or by one worker thread; in that order.

    One per process. Every method may be called from any thread, and none of them computes: what is
    not known yet is queued and comes back as a :class:`Job`. An error, a model that does not exist
    included, is raised by ``job.result()``. ``session`` names who asks: work that several sessions
    want is cancelled only when all of them cancel.
    """

    def __init__(self, store: Store, engine: Engine[M], resolve: Resolve = resolve) -> None:
        self.store = store
        self._resolve = resolve
        self._worker = Worker(engine)
        self._graphs: Lru[str, AttributionGraph] = Lru(GRAPH_BYTES, _graph_bytes)
        self._keys: Lru[str, str] = Lru(_NAMES_KEPT)
        self._interventions: Lru[str, InterventionResult] = Lru(
            INTERVENTION_BYTES, _intervention_bytes
        )
        self._scenario_runs: Lru[str, ScenarioRun] = Lru(INTERVENTION_BYTES, _scenario_bytes)
        self._imports = BackgroundQueue("imports")
        self.library: ModelLibrary[M] = ModelLibrary(self._worker, resolve)
        """The models that can be opened, and what their features fire on."""

    @property
    def device(self) -> str | None:
        """Where the models run, e.g. ``"cpu"``; None until the first one is open."""
        return self._worker.device

    @property
    def queue(self) -> tuple[Job[Any], ...]:
        """The job that is running, then those that wait, in their order."""
        return self._worker.queue

    @property
    def imports(self) -> tuple[Job[Any], ...]:
        """The file that is being read, then those that wait."""
        return self._imports.queue

    def trace(self, request: TraceRequest, session: str = "") -> Job[AttributionGraph]:
        """The attribution graph of a prompt; ``job.key`` is what :meth:`graph` finds it by."""
        try:
            source = self._source(request.choice)
        except TracerError as error:
            return Job.refused("", error, request.prompt)
        digest = trace_digest(identity(source, request.choice), request)
        graph = self.graph(digest)
        if graph is not None:
            return Job.found(digest, graph, request.prompt)

        def work(model: M, job: Job[AttributionGraph]) -> AttributionGraph:
            key = graph_key(identity(source, request.choice), model.encode(request.prompt), request)
            graph = self._known(key)
            if graph is not None:
                job.from_cache = True
            else:
                job.report(0, 0, "running the model")
                graph = self._worker.engine.trace(model, request, job.report)
                self._keep(key, graph)
            self._link(digest, key)
            return graph

        return self._worker.submit(
            digest, request.prompt, request.choice, identity(source, request.choice), work, session
        )

    def intervene(self, request: InterveneRequest, session: str = "") -> Job[InterventionResult]:
        """What the model says with some features set, and without."""
        try:
            source = self._source(request.choice)
        except TracerError as error:
            return Job.refused("", error, request.prompt)
        digest = intervene_digest(identity(source, request.choice), request)
        known = self._interventions.get(digest)
        if known is not None:
            return Job.found(digest, known, request.prompt)

        def work(model: M, job: Job[InterventionResult]) -> InterventionResult:
            job.report(0, 1, "running the model")
            result = self._worker.engine.intervene(model, request)
            self._interventions.put(digest, result)
            return result

        return self._worker.submit(
            digest, request.prompt, request.choice, identity(source, request.choice), work, session
        )

    def scenarios(self, request: ScenarioRequest, session: str = "") -> Job[ScenarioRun]:
        """What the model says under several scenarios, side by side, and without any edits."""
        try:
            source = self._source(request.choice)
        except TracerError as error:
            return Job.refused("", error, request.prompt)
        digest = scenarios_digest(identity(source, request.choice), request)
        known = self._scenario_runs.get(digest)
        if known is not None:
            return Job.found(digest, known, request.prompt)

        def work(model: M, job: Job[ScenarioRun]) -> ScenarioRun:
            result = self._worker.engine.scenarios(model, request, job.report)
            self._scenario_runs.put(digest, result)
            return result

        return self._worker.submit(
            digest, request.prompt, request.choice, identity(source, request.choice), work, session
        )

    def token(self, choice: ModelChoice, text: str, session: str = "") -> Job[int]:
        """Vocabulary id of the one token that ``text`` is; the job raises ``TargetError`` else."""
        try:
            source = self._source(choice)
        except TracerError as error:
            return Job.refused("", error, text)

        def work(model: M, job: Job[int]) -> int:
            return model.token_id(text)

        digest = token_digest(identity(source, choice), text)
        return self._worker.submit(digest, text, choice, identity(source, choice), work, session)

    def warm(self, choice: ModelChoice, session: str = "") -> Job[str]:
        """Have the model open before it is needed; the result is the device it is on."""
        try:
            source = self._source(choice)
        except TracerError as error:
            return Job.refused("", error, choice.model)

        def work(model: M, job: Job[str]) -> str:
            return str(model.device)

        digest = warm_digest(identity(source, choice))
        return self._worker.submit(
            digest, f"open {choice.model}", choice, identity(source, choice), work, session
        )

    def graph(self, key: str) -> AttributionGraph | None:
        """A graph that was traced before, by the key of its job or of its stored entry."""
        graph = self._known(self._keys.get(key) or key)
        if graph is not None:
            return graph
        try:
            stored = self.store.key_of(key)
        except sqlite3.Error as error:
            _log_trouble("looked up in", error)
            return None
        if stored is None:
            return None
        self._keys.put(key, stored)
        return self._known(stored)

    def import_graph(self, content: bytes, name: str, session: str = "") -> Job[str]:
        """Keep a graph of another tool: published JSON, or a `.pt` of circuit-tracer.

        The result is its key. Its pins and supernodes become its marks, unless it is here already
        and has some; it is never evicted. No model is run. The files are read one after the other,
        beside the callers: a large one takes seconds and several times its size in memory.

        The job fails with :class:`ExternalGraphError` for a file that is damaged, too large or
        would run code, with :class:`StoreError` when it cannot be kept; nothing is stored then.
        """

        def read(job: Job[str]) -> str:
            job.report(0, 0, "reading the file")
            found = read_import(content, name)
            job.report(0, 0, "with_nodes the graph")
            with _as_store_error("the graph could not be kept"):
                self.store.add_import(
                    found.key, found.graph, found.original, found.title, found.marks
                )
            self._graphs.put(found.key, found.graph)
            return found.key

        return self._imports.run(f"import {uuid4().hex}", name, read, session)

    def export_graph(self, key: str, thresholds: Thresholds = Thresholds()) -> bytes:  # noqa: B008
        """A graph as published JSON, with its labels, pins and supernodes as they are now.

        One that was imported as JSON goes out whole; all others are pruned at ``thresholds``.
        Raises :class:`StoreError` when there is no such graph.
        """
        graph = self.graph(key)
        if graph is None:
            raise StoreError(
                f"no graph is stored under {key!r}: trace the prompt, or import the file, again"
            )
        stored = self.store.key_of(key) or key
        with _as_store_error("the graph could not be exported"):
            original, marks = self.store.original(stored), self.store.annotations(stored)
            title = next((e.title for e in self.store.entries() if e.key == stored), "")
        return exported(graph, title, marks, self._names(graph), original, thresholds)

    def _names(self, graph: AttributionGraph) -> Mapping[FeatureId, str]:
        """What a graph's features are called, by its file or by the index of its transcoders."""
        made = graph.provenance
        if not {"model", "transcoders"} <= made.keys():
            return stored_labels(graph)
        try:
            choice = ModelChoice(str(made["model"]), str(made["transcoders"]))
            index = self.library.features(choice)
        except TracerError:  # the transcoders are gone, or were never indexed: no names
            return {}
        names: dict[FeatureId, str] = {}
        for feature in {FeatureId(int(f[0]), int(f[2])) for f in graph.features}:
            try:
                names[feature] = index.cached_name(feature)
            except TracerError as error:  # one damaged record is no reason to lose the graph
                logger.warning("feature %s goes without a name: %s", feature, error)
        return names

    def key_of(self, request: TraceRequest) -> str | None:
        """Key of the stored graph that a request would be answered with; None where it is not."""
        with _as_store_error("the store could not be asked"):
            try:
                source = self._source(request.choice)
            except TracerError:  # of a model that is gone
                return None
            return self.store.key_of(trace_digest(identity(source, request.choice), request))

    def forget(self, key: str) -> None:
        """Delete a graph and what was kept with it; raises :class:`StoreError`."""
        with _as_store_error("the graph could not be deleted"):
            self.store.forget(key)
        self._graphs.drop(key)

    def annotate(self, key: str, *, title: str | None = None, notes: str | None = None) -> None:
        """Set the title or notes of a graph, by either of its keys; it is then never evicted.

        Raises :class:`StoreError` when the store cannot be written.
        """
        with _as_store_error("the note could not be saved"):
            self.store.annotate(self.store.key_of(key) or key, title=title, notes=notes)

    def annotations(self, key: str) -> Annotations:
        """Pins and supernodes of a graph, by either of its keys; raises :class:`StoreError`."""
        with _as_store_error("the pins could not be read"):
            return self.store.annotations(self.store.key_of(key) or key)

    def save_annotations(self, key: str, marks: Annotations) -> None:
        """Keep pins and supernodes with a graph; raises :class:`StoreError`."""
        with _as_store_error("the pins could not be saved"):
            self.store.save_annotations(self.store.key_of(key) or key, marks)

    def remember_run(self, key: str, scenarios: tuple[Scenario, ...], said: str) -> None:
        """Keep in a graph's history what was tried on it; raises :class:`StoreError`."""
        with _as_store_error("the run could not be saved"):
            self.store.remember_run(self.store.key_of(key) or key, scenarios, said)

    def runs(self, key: str) -> tuple[StoredRun, ...]:
        """What was tried on a graph, the latest first; raises :class:`StoreError`."""
        with _as_store_error("the history could not be read"):
            return self.store.runs(self.store.key_of(key) or key)

    def stored(self) -> tuple[StoredGraph, ...]:
        """Every graph in the store, the most recently used first."""
        return self.store.entries()

    def use(self) -> StoreUse:
        """What the kept graphs take on the disk; raises :class:`StoreError`."""
        with _as_store_error("the store could not be measured"):
            return self.store.use

    def damaged(self) -> tuple[DamagedFile, ...]:
        """Files that failed their check and were set aside, the latest first."""
        return self.store.damaged()

    def close(self, timeout: float | None = None) -> None:
        """Finish the queue, end the threads and close the store."""
        self._imports.close(timeout)
        self.library.close(timeout)
        self._worker.close(timeout)
        self.store.close()

    def _source(self, choice: ModelChoice) -> ModelSource:
        return self._resolve(choice.model, choice.transcoders)

    # The store is a convenience: when the disk fails, work goes on without it, and the log says so.
    def _known(self, key: str) -> AttributionGraph | None:
        try:
            graph = self._graphs.get(key)
            if graph is not None:
                self.store.touch(key)
                return graph
            graph = self.store.load(key)
        except (OSError, sqlite3.Error) as error:
            _log_trouble("read from", error)
            return graph
        if graph is not None:
            self._graphs.put(key, graph)
        return graph

    def _keep(self, key: str, graph: AttributionGraph) -> None:
        self._graphs.put(key, graph)
        try:
            self.store.save(key, graph)
        except (OSError, sqlite3.Error) as error:
            _log_trouble("written to", error)

    def _link(self, digest: str, key: str) -> None:
        self._keys.put(digest, key)
        try:
            self.store.link(digest, key)
        except sqlite3.Error as error:
            _log_trouble("written to", error)


def open_backend(root: Path | None = None, *, device: str = "auto") -> Backend[Any]:
    """The backend of this process, with its store in ``root``.

    Without ``root`` the store is in ``CIRCUIT_STORE``, else in ``.store`` beside this package.
    ``CIRCUIT_STORE_GB`` bounds its size (default 2).

    Raises :class:`StoreError` when the store cannot be opened or its size is no number.
    """
    if root is None:
        beside = Path(__file__).resolve().parent.parent / ".store"
        root = Path(os.environ.get("CIRCUIT_STORE") or beside).expanduser()
    quota = paths.shared_quota("CIRCUIT_STORE_GB", DEFAULT_QUOTA, StoreError)
    return Backend(Store(root, quota), TracerEngine(device))


def _graph_bytes(graph: AttributionGraph) -> int:
    arrays = (graph.features, graph.activations, graph.indptr, graph.sources, graph.weights)
    return sum(array.nbytes for array in arrays)


def _intervention_bytes(result: InterventionResult) -> int:
    return int(result.baseline_logits.nbytes + result.edited_logits.nbytes)


def _scenario_bytes(run: ScenarioRun) -> int:
    logits = run.baseline.logits
    return int(logits.nbytes) * (1 + len(run.outcomes))


@contextmanager
def _as_store_error(what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error, ValueError) as error:
        raise StoreError(f"{what}: {error}") from error


def _log_trouble(what: str, error: Exception) -> None:
    logger.warning("a graph could not be %s the store: %s", what, error)
