"""`Worker`: the thread that owns the models of one device, and the queue in front of it.

Hooks on a model that two threads run at once give wrong numbers without an error, so no other
thread ever touches a model. Whatever goes wrong in one job ends only that job.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, Final, Generic, TypeVar

from cache.engine import Engine, M
from cache.job_queue import JobQueue, unexpected
from cache.jobs import Job
from cache.request import ModelChoice, identity
from tracer import errors
from tracer.errors import Cancelled, MemoryLimitError, ModelError, TracerError
from tracer.types import Progress

logger = logging.getLogger(__name__)

MODELS_KEPT: Final = 2
PAUSE: Final = 30.0
"""Seconds before a failed request is tried again for another session. The same session has to ask
for that: its page asks again whenever it is drawn, and work that fails would run forever."""
_FAILURES_KEPT: Final = 256
T = TypeVar("T")

_LOST: Final = ("device-side assert", "illegal memory access", "unspecified launch failure")
"""CUDA errors after which every call on the device fails, until the process ends."""
_LostError: Final = getattr(errors, "DeviceLostError", ())


class Worker(Generic[M]):
    """Runs jobs one after another in its own thread, which starts with the first job."""

    def __init__(
        self, engine: Engine[M], models_kept: int = MODELS_KEPT, pause: float = PAUSE
    ) -> None:
        self.engine = engine
        self._models_kept = models_kept
        self._pause = pause
        self._queue = JobQueue("worker", at_end=self._drop_all)
        self._failed: dict[tuple[str, str], Job[Any]] = {}
        self._failed_lock = threading.Lock()
        self._models: OrderedDict[str, tuple[ModelChoice, M]] = OrderedDict()
        self._opened: tuple[ModelChoice, ...] = ()
        self._device_name = engine.device_name
        self._device: str | None = None
        self._lost = ""
        self._started = False
        self._announced = False

    @property
    def device(self) -> str | None:
        """The device that the models are on; None until the first one is open."""
        return self._device

    @property
    def device_name(self) -> str:
        """The device as it was asked for: ``auto``, ``cpu``, ``cuda:1`` …"""
        return self._device_name

    @property
    def lost(self) -> str:
        """Why no job can run until the server is restarted; empty while the device works."""
        return self._lost

    @property
    def opened(self) -> tuple[ModelChoice, ...]:
        """The models in memory, the most recently used one last."""
        return self._opened

    @property
    def queue(self) -> tuple[Job[Any], ...]:
        """The running job, then the waiting ones in order."""
        return self._queue.jobs

    def submit(
        self,
        key: str,
        title: str,
        choice: ModelChoice,
        fingerprint: str,
        work: Callable[[M, Job[T]], T],
        session: str = "",
        cost: float = 0.0,
    ) -> Job[T]:
        """Queue ``work(model, job)``, or join the unfinished job under ``key``.

        ``cost`` orders the work of one session: less comes first.
        ``fingerprint`` identifies the files that the caller means by ``choice``. ``work`` reports
        progress through ``job.report``, which is also where a cancelled job stops. A request that
        failed returns the failed job, however often the same session asks, until :meth:`retry`;
        other sessions may run it again after :data:`PAUSE` seconds, and everybody after a model was
        unloaded. On a lost device every job fails at once.
        """

        def run(job: Job[T]) -> T:
            try:
                self._check_device()
                return work(self._model(choice, fingerprint, job), job)
            except Cancelled:
                raise
            except BaseException as error:
                failure = self._failure(job, error)
            with self._failed_lock:  # before any visitor sees the failure, and asks again
                self._failed.pop((key, fingerprint), None)
                self._failed[key, fingerprint] = job
                while len(self._failed) > _FAILURES_KEPT:
                    del self._failed[next(iter(self._failed))]
            raise failure

        if self._lost:
            return Job.refused(key, TracerError(self._lost), title)
        job = self._queue.join(key, session) or self._failure_of(key, fingerprint, session)
        return job or self._queue.submit(key, title, run, session, cost)

    def retry(self, key: str) -> None:
        """Let a failed request run again at once, whoever asks."""
        with self._failed_lock:
            self._failed = {name: job for name, job in self._failed.items() if name[0] != key}

    def withdraw(self, session: str, keep: Collection[str] = ()) -> int:
        """Withdraw a session's requests, except those under the keys in ``keep``."""
        return self._queue.withdraw(session, keep)

    def sessions(self) -> frozenset[str]:
        """Return the sessions that want an unfinished job."""
        return self._queue.sessions()

    def unload(self, choice: ModelChoice) -> None:
        """Drop a model once no job is running; does nothing if it is not open."""
        if choice in self._opened:
            self._queue.soon(lambda: self._unload(choice))

    def set_device(self, name: str) -> None:
        """Drop all models after the running job and open later ones on this device.

        The caller checks that the device exists.
        """
        if name != self._device_name:
            self._device_name = name
            self._queue.soon(lambda: self._switch_device(name))

    def close(self, timeout: float | None = None) -> None:
        """Finish the queue, drop the models and end the thread."""
        self._queue.close(timeout)

    def _failure_of(self, key: str, fingerprint: str, session: str) -> Job[Any] | None:
        """Return the failed job that answers a request, if the session may not run it again."""
        with self._failed_lock:
            job = self._failed.get((key, fingerprint))
            if job is None or not (self._has_seen(job, session) or self._is_recent(job)):
                return None
            job.seen_by(session)
            return job

    @staticmethod
    def _has_seen(failed: Job[Any], session: str) -> bool:
        return bool(session) and session in failed.sessions

    def _is_recent(self, failed: Job[Any]) -> bool:
        return failed.age is None or failed.age < self._pause

    # Everything below runs in the worker's thread.

    def _check_device(self) -> None:
        if self._lost:
            raise TracerError(self._lost)

    def _failure(self, job: Job[Any], error: BaseException) -> TracerError:
        """Free the memory of failed work and return the error to show for it."""
        failure = error if isinstance(error, TracerError) else unexpected(job, error)
        chain = list(_causes(error))
        if self._lost:
            return failure
        if cause := next(filter(_loses_device, chain), None):
            self._lost = (
                f"{self._device or 'the device'} stopped working and no model can run until the "
                f"server is restarted ({str(cause).partition(chr(10))[0]})"
            )
            logger.error("%s", self._lost)
            failure = TracerError(self._lost)
            self._drop_all()
        elif any(map(_out_of_memory, chain)):
            if failure is not error:
                failure = MemoryLimitError(
                    f"{self._device or 'this machine'} ran out of memory on {job.title!r}: shorten "
                    "the prompt, or limit the number of features"
                )
            self._drop_all()
        elif failure is error:
            return failure
        # The frames of an error hold the tensors that filled the memory.
        for cause in chain:
            cause.__traceback__ = cause.__cause__ = cause.__context__ = None
        self._free_memory()
        return failure

    def _free_memory(self) -> None:
        if not self._lost:  # a call on a lost device fails
            self.engine.free_memory()

    def _unload(self, choice: ModelChoice) -> None:
        self._drop(name for name, (kept, _) in self._models.items() if kept == choice)
        self._forget_failures()
        self._free_memory()

    def _switch_device(self, name: str) -> None:
        self._drop_all()
        self._device, self._announced = None, False
        self.engine.use_device(name)
        self._forget_failures()
        self._free_memory()

    def _forget_failures(self) -> None:
        """Let failed requests run again: what did not fit may fit now."""
        with self._failed_lock:
            self._failed.clear()

    def _drop_all(self) -> None:
        self._drop(self._models)

    def _drop(self, fingerprints: Iterable[str]) -> None:
        """Let go of models; :attr:`opened` stops listing them first."""
        dropped = set(fingerprints)
        kept = OrderedDict(entry for entry in self._models.items() if entry[0] not in dropped)
        self._opened = tuple(choice for choice, _ in kept.values())
        self._models = kept

    def _note_opened(self) -> None:
        self._opened = tuple(choice for choice, _ in self._models.values())

    def _model(self, choice: ModelChoice, fingerprint: str, job: Job[Any]) -> M:
        """Return the model a job needs, opening it if it is not in memory."""
        known = self._models.get(fingerprint)
        if known is not None:
            self._models.move_to_end(fingerprint)
            self._note_opened()
            return known[1]
        if not self._started:
            job.report(0, 0, "starting")
            self.engine.start()
            self._started = True
        if not self._announced:
            logger.info("device: %s", self.engine.describe_device(choice.dtype))
            self._announced = True
        while len(self._models) >= self._models_kept:
            self._drop([next(iter(self._models))])
            self._free_memory()
        job.report(0, 0, f"opening {choice.model}")
        model = self.engine.load(choice, _opening(choice, job))
        if identity(model.source, choice) != fingerprint:
            raise ModelError(
                f"the files of {choice.model} changed while it was being opened: try again"
            )
        self._models[fingerprint] = (choice, model)
        self._note_opened()
        self._device = str(model.device)
        return model


def _opening(choice: ModelChoice, job: Job[Any]) -> Progress:
    """Return a progress callback that names the model being opened."""

    def report(done: int, total: int, what: str) -> None:
        job.report(done, total, f"opening {choice.model}: {what}")

    return report


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and the errors that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _loses_device(error: BaseException) -> bool:
    text = str(error)
    return isinstance(error, _LostError) or (
        isinstance(error, RuntimeError) and any(phrase in text for phrase in _LOST)
    )


def _out_of_memory(error: BaseException) -> bool:
    """Recognise the errors of Python, CUDA and the CPU allocator without importing torch."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and ("out of memory" in text or "defaultcpuallocator" in text)
    )
