"""Workers on a Ray cluster, for `TracePool`; see `tracer.cluster`.

An actor opens models itself, by name and revision, so every machine needs their files.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from cache.engine import TracerEngine
from cache.request import ModelChoice, TraceRequest, identity
from cache.trace_pool import Traced
from tracer import cluster as cluster_room
from tracer import errors
from tracer.cluster import VARIABLE as VARIABLE
from tracer.cluster import calling
from tracer.errors import Cancelled, TracerError

_PROGRESS_SECONDS: Final = 2.0
_ROOT: Final = Path(__file__).resolve().parents[1]
"""The folder that `cache` is in; an installed `tracer` is in another one."""


class TraceActor:
    """The process of one worker. Its methods run in threads; only :meth:`trace` runs a model."""

    def __init__(self, cores: int, has_gpu: bool) -> None:
        self._engine = TracerEngine("auto" if has_gpu else "cpu", cores)
        self._models: dict[ModelChoice, Any] = {}
        self._progress = (0, 0, "starting")
        self._cancelled = threading.Event()

    def trace(self, request: dict[str, Any]) -> dict[str, Any]:
        """Trace a prompt; an error that was raised on purpose is returned by name."""
        self._engine.start()  # its thread count is that of the calling thread
        self._cancelled.clear()
        wanted = TraceRequest(**{**request, "choice": ModelChoice(**request["choice"])})
        try:
            model = self._model(wanted.choice)
            graph = self._engine.trace(model, wanted, self._report)
            return {
                "files": identity(model.source, wanted.choice),
                "token_ids": tuple(model.encode(wanted.prompt)),
                "content": graph.to_bytes(),
            }
        except TracerError as error:
            return {"error": str(error), "kind": type(error).__name__}

    def progress(self) -> tuple[int, int, str]:
        """Return how far the running trace is."""
        return self._progress

    def cancel(self) -> None:
        """Stop the running trace at its next layer."""
        self._cancelled.set()

    def process_id(self) -> int:
        """Return the id of this process on its machine."""
        return os.getpid()

    def _model(self, choice: ModelChoice) -> Any:
        if choice not in self._models:
            self._models.clear()
            self._engine.free_memory()
            self._models[choice] = self._engine.load(choice, self._report)
        return self._models[choice]

    def _report(self, done: int, total: int, what: str) -> None:
        if self._cancelled.is_set():
            raise Cancelled("the work was cancelled: ask again to start over")
        self._progress = (done, total, what)


class RayTracer:
    """A :class:`cache.trace_pool.RemoteTracer` in a Ray actor."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self._running: Any = None

    def submit(self, request: TraceRequest) -> None:
        with calling():
            self._running = self.actor.trace.remote(asdict(request))

    def progress(self) -> tuple[int, int, str]:
        import ray

        try:
            with calling():
                done, total, what = ray.get(self.actor.progress.remote(), timeout=_PROGRESS_SECONDS)
        except ray.exceptions.GetTimeoutError:
            return (0, 0, "working")
        return (done, total, what)

    def result(self, timeout: float) -> Traced | None:
        import ray

        with calling():
            ready, _ = ray.wait([self._running], timeout=timeout)
            if not ready:
                return None
            answer = ray.get(self._running)
        if "error" in answer:
            kind = getattr(errors, answer["kind"], TracerError)
            raise kind(answer["error"])
        return Traced(answer["files"], tuple(answer["token_ids"]), answer["content"])

    def cancel(self) -> None:
        with calling():
            self.actor.cancel.remote()

    def close(self) -> None:
        import ray

        with calling():
            ray.kill(self.actor)


def connect(address: str) -> tuple[Callable[[], RayTracer], int]:
    """Connect to a cluster; return a function that starts a worker, and how many to start.

    Raises :class:`TracerError` when Ray is not installed, or the cluster does not answer.
    """
    cluster = cluster_room.connect(address, _ROOT)
    return lambda: RayTracer(cluster.start(TraceActor)), cluster.count
