"""`Backend`: ask for a trace or an intervention and get a `Job`; known answers come at once."""

from __future__ import annotations

import logging
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar
from uuid import uuid4

from cache.attention import AttentionAnswers
from cache.catalogue import StoreError
from cache.departures import Departures
from cache.engine import Engine, M
from cache.feature_labels import FeatureLabels
from cache.forecast import LONG_SECONDS, Forecast, Pace, Paces, TraceForecast
from cache.graph_memory import GraphMemory
from cache.health import memory, serve_health, versions
from cache.job_queue import JobQueue
from cache.jobs import Job
from cache.machine import Device
from cache.memory import BoundedCache, held_bytes
from cache.model_library import ModelLibrary, Resolve
from cache.questions import Questions
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
from cache.store import Store
from cache.stored_graphs import StoredGraphs
from cache.trace_pool import RemoteTracer, Traced, TracePool
from cache.upload import read_upload
from cache.worker import Worker
from tracer.catalog.resolve import resolve
from tracer.errors import ModelError, TracerError
from tracer.graph.graph import AttributionGraph, load_graph

if TYPE_CHECKING:
    from tracer.interventions.run import InterventionResult, ScenarioRun

logger = logging.getLogger(__name__)

GRAPH_BYTES: Final = 512 * 1024**2
"""Memory for decoded graphs and their pruned forms."""
RESULT_BYTES: Final = 64 * 1024**2
"""Memory for the results of interventions, and as much again for those of scenarios."""
_KEYS_KEPT: Final = 4096
_TRACE_COST: Final = 1000.0
"""A trace takes longer than anything else on the same prompt; costs count characters."""
T = TypeVar("T")


class Backend(StoredGraphs, Generic[M]):
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
        self._visitors: Departures | None = None
        self.library: ModelLibrary[M] = ModelLibrary(self._worker, resolve)
        """The models that can be opened, and the examples of their features."""
        self.attention = AttentionAnswers(self.graph, self._ask)
        """Which heads carried what, and why they looked where they looked."""
        self._pool: TracePool | None = None
        self._asked: Counter[str] = Counter()
        self._health: ThreadingHTTPServer | None = None
        self.labels = FeatureLabels(store, self.library)
        """The labels that people gave to features."""
        self._paces = Paces()
        self.questions = Questions(self._ask, self.library)
        """Searches of dictionaries, and what a feature or the tokenizer does with a text."""

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
        """The running jobs, then the waiting ones in the order of their turns."""
        return (*self._worker.queue, *(self._pool.jobs if self._pool is not None else ()))

    @property
    def imports(self) -> tuple[Job[Any], ...]:
        """The import that is running, then the waiting ones in order."""
        return self._imports.jobs

    def close(self, timeout: float | None = None) -> None:
        """Finish the queue, end the threads and close the store."""
        if self._health is not None:
            self._health.shutdown()
            self._health.server_close()
        if self._visitors is not None:
            self._visitors.close()
        self._imports.close(timeout, cancel=True)
        self.questions.close(timeout)
        self.library.close(timeout)
        if self._pool is not None:
            self._pool.close(timeout)
        self._worker.close(timeout)
        self.store.close()

    # Visitors

    def withdraw(self, session: str, keep: Collection[str] = ()) -> int:
        """Withdraw what a visitor asked of the models, except the jobs with the keys in ``keep``.

        Work that another visitor wants goes on. Downloads and imports go on too.
        """
        elsewhere = 0 if self._pool is None else self._pool.withdraw(session, keep)
        return elsewhere + self._worker.withdraw(session, keep)

    def watch_visitors(self, departed: Callable[[], Iterable[str]]) -> None:
        """Withdraw the requests of visitors who have left, as ``departed`` tells; once only.

        A visitor who comes back within seconds, as after a reload, loses nothing.
        """
        if self._visitors is None:
            self._visitors = Departures(departed, self.withdraw)

    def retry(self, job: Job[Any]) -> None:
        """Let a failed request run again: it is asked again when the page is drawn next."""
        self._worker.retry(job.key)
        if self._pool is not None:
            self._pool.retry(job.key)

    def trace_on(self, start: Callable[[], RemoteTracer], count: int) -> None:
        """Trace on ``count`` remote workers from now on; everything else stays in this process."""
        self._pool = TracePool(start, count, self._fetched)

    def _fetched(
        self, job: Job[AttributionGraph], request: TraceRequest, traced: Traced
    ) -> AttributionGraph:
        """Keep the graph that a remote worker traced."""
        if trace_digest(traced.files, request) != job.key:
            raise ModelError(
                f"a worker has other files of {request.choice.model} than this machine: name a "
                "revision, or copy the files"
            )
        with tempfile.TemporaryDirectory(prefix="traced-") as folder:
            path = Path(folder) / "graph"
            path.write_bytes(traced.content)
            graph = load_graph(path)
        key = graph_key(traced.files, traced.token_ids, request)
        self._keep(key, graph)
        self._link(job.key, key)
        return graph

    # Seeing inside

    def diagnostics(self) -> dict[str, Any]:
        """Return the facts that a bug report needs, as JSON values; no prompts."""
        try:
            store: dict[str, Any] = {**asdict(self.use()), "graphs": len(self.stored())}
            store["damaged"] = len(self.damaged())
        except StoreError as error:
            store = {"error": str(error)}
        return {
            "device": self.device or self.device_name,
            "models": [asdict(choice) for choice in self.library.opened],
            "queue": [
                {"request": job.key, "state": job.state, "what": job.progress[2]}
                for job in self.queue
            ],
            "requests": dict(self._asked),
            "memory": {**memory(), "graphs": self._graphs.n_bytes},
            "store": {**store, "problem": self.store_problem},
            "remote_workers": self._pool.size if self._pool is not None else 0,
            "versions": dict(versions()),
        }

    def health(self) -> dict[str, Any]:
        """Return whether requests can be served, and why not."""
        problem = self._worker.lost or self.store_problem
        return {"ok": not problem, "problem": problem, "queue": len(self.queue)}

    def serve_health(self, port: int) -> int:
        """Answer ``GET /health`` on the loopback interface; returns the port.

        Raises :class:`StoreError` when the port is taken.
        """
        try:
            self._health = serve_health(self.health, port)
        except OSError as error:
            raise StoreError(
                f"port {port} cannot be used for the health endpoint ({error.strerror}): set "
                "CIRCUIT_HEALTH_PORT to another"
            ) from error
        return int(self._health.server_address[1])

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
                begun = time.monotonic()
                graph = self._worker.engine.trace(model, request, job.report)
                self._paces.note_graph(files, graph, time.monotonic() - begun)
                self._keep(key, graph)
            self._link(job.key, key)
            return graph

        cost = _TRACE_COST + len(request.prompt)
        pool = self._pool
        return self._ask(
            request.choice,
            request.prompt,
            lambda files: trace_digest(files, request),
            work,
            session,
            self.graph,
            cost,
            None
            if pool is None
            else lambda key: pool.submit(key, request.prompt, request, session, cost),
        )

    def forecast(self, request: TraceRequest, session: str = "") -> Job[Forecast]:
        """Estimate the memory and the time of a trace; the model is opened, but not run."""
        question = TraceForecast(request.prompt, request.max_features, self._pace(request))
        return self.questions.forecast(request.choice, question, session)

    def may_take_long(self, request: TraceRequest, n_tokens: int) -> bool:
        """Whether earlier traces of a model suggest that one of ``n_tokens`` is a long one."""
        pace = self._pace(request)
        return pace is not None and pace.expected(n_tokens, request.max_features) > LONG_SECONDS

    def _pace(self, request: TraceRequest) -> Pace | None:
        try:
            source = self.library.source(request.choice)
        except TracerError:  # the model is gone
            return None
        return self._paces.of(identity(source, request.choice))

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
            len(request.prompt),
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
            len(request.prompt) * (1 + len(request.scenarios)) / 2,
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
        cost: float = 0.0,
        elsewhere: Callable[[str], Job[T]] | None = None,
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
        self._asked["known" if answer is not None else "computed"] += 1
        if answer is not None:
            return Job.found(key, answer, title)
        if elsewhere is not None:
            return elsewhere(key)
        return self._worker.submit(key, title, choice, files, work, session, cost)

    def key_of(self, request: TraceRequest) -> str | None:
        """Return the key of the stored graph that answers a request, or None."""
        try:
            source = self.library.source(request.choice)
        except TracerError:  # the model is gone
            return None
        return self.store.key_of(trace_digest(identity(source, request.choice), request))

    def import_graph(self, content: bytes, name: str, session: str = "") -> Job[str]:
        """Keep a graph of another tool: published JSON, or a `.pt` of circuit-tracer.

        The result is its key. Its pins and supernodes become its annotations, unless the graph is
        in the store already and has some. Imported graphs are never evicted. Files are read one
        after another in the background, large ones in a process of their own.

        The job fails with :class:`ExternalGraphError` for a file that is damaged, too large or
        would run code, and with :class:`StoreError` when it cannot be kept. Nothing is stored then.
        """

        def read(job: Job[str]) -> str:
            job.report(0, 0, "reading the file")
            new = read_upload(content, name, job.check)
            job.report(0, 0, "saving the graph")
            self.store.add_import(new.key, new.graph, new.original, new.title, new.annotations)
            self._graphs.put(new.key, new.graph)
            return new.key

        return self._imports.submit(f"import {uuid4().hex}", name, read, session)
