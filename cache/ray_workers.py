"""Workers on a Ray cluster, for `TracePool`: one actor per GPU, or per several CPU cores.

Ray is optional (``requirements-ray.txt``) and imported only when ``CIRCUIT_RAY`` asks for it:
``local`` for actors on this machine, or the address of a cluster, such as ``ray://head:10001``.
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
from cache.trace_pool import Traced, WorkerLost
from tracer import errors
from tracer.errors import Cancelled, TracerError, one_line

VARIABLE: Final = "CIRCUIT_RAY"
ACTORS: Final = "CIRCUIT_RAY_ACTORS"
CORES: Final = "CIRCUIT_RAY_CORES"
_CORES: Final = 4
_PROGRESS_SECONDS: Final = 2.0
_ROOT: Final = Path(__file__).resolve().parents[1]


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
        self._running = self._call(lambda: self.actor.trace.remote(asdict(request)))

    def progress(self) -> tuple[int, int, str]:
        import ray

        try:
            done, total, what = self._call(
                lambda: ray.get(self.actor.progress.remote(), timeout=_PROGRESS_SECONDS)
            )
        except ray.exceptions.GetTimeoutError:
            return (0, 0, "working")
        return (done, total, what)

    def result(self, timeout: float) -> Traced | None:
        import ray

        ready, _ = self._call(lambda: ray.wait([self._running], timeout=timeout))
        if not ready:
            return None
        answer = self._call(lambda: ray.get(self._running))
        if "error" in answer:
            kind = getattr(errors, answer["kind"], TracerError)
            raise kind(answer["error"])
        return Traced(answer["files"], tuple(answer["token_ids"]), answer["content"])

    def cancel(self) -> None:
        self._call(self.actor.cancel.remote)

    def close(self) -> None:
        import ray

        self._call(lambda: ray.kill(self.actor))

    @staticmethod
    def _call(call: Callable[[], Any]) -> Any:
        import ray

        try:
            return call()
        except ray.exceptions.GetTimeoutError:
            raise
        except (ray.exceptions.RayActorError, ray.exceptions.NodeDiedError) as error:
            raise WorkerLost(one_line(error)) from error
        except ray.exceptions.RayTaskError as error:
            raise TracerError(
                f"a worker failed with an unexpected error ({one_line(error.cause)}): see Ray's log"
            ) from error


def connect(address: str) -> tuple[Callable[[], RayTracer], int]:
    """Connect to a cluster; return a function that starts a worker, and how many to start.

    Raises :class:`TracerError` when Ray is not installed, or the cluster does not answer.
    """
    try:
        import ray
    except ImportError as error:
        raise TracerError(
            f"{VARIABLE} is set and Ray is not installed: pip install -r requirements-ray.txt"
        ) from error
    cores = _number(CORES, _CORES)
    path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    options: dict[str, Any] = {
        "runtime_env": {"env_vars": {"PYTHONPATH": path, "OMP_NUM_THREADS": str(cores)}},
        "log_to_driver": False,
        "ignore_reinit_error": True,
    }
    if address == "local":
        os.environ.setdefault("RAY_worker_niceness", "0")  # else all other work comes first
        options |= {"include_dashboard": False, "num_cpus": cores * _number(ACTORS, 1)}
        options["num_cpus"] = max(options["num_cpus"], os.cpu_count() or 1)
    else:
        options["address"] = address
    try:
        ray.init(**options)
        resources = ray.cluster_resources()
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise TracerError(
            f"the Ray cluster at {address} does not answer ({one_line(error)}): check {VARIABLE}"
        ) from error
    gpus = int(resources.get("GPU", 0))
    count = _number(ACTORS, gpus or max(1, int(resources.get("CPU", 1)) // cores))
    remote = ray.remote(TraceActor).options(
        num_gpus=1 if gpus else 0, num_cpus=0 if gpus else cores, max_concurrency=4
    )
    return lambda: RayTracer(remote.remote(cores, bool(gpus))), count


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable, "")
    if not text:
        return default
    if not text.isdecimal() or int(text) < 1:
        raise TracerError(f"{variable} is {text!r}: expected a number from 1")
    return int(text)
