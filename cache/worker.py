"""The thread that owns the models of one device, and the queue in front of it.

Hooks on a shared model are silently wrong when two threads run it, so no other thread ever
touches one. Requests wait their turn, the same request waits once however many sessions want it,
and whatever goes wrong in one job ends that job alone.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from cache.engine import Engine, M
from cache.jobs import Job
from cache.request import ModelChoice, identity
from tracer.errors import Cancelled, MemoryLimitError, ModelError, TracerError
from tracer.types import Progress

logger = logging.getLogger(__name__)

MODELS_KEPT: Final = 2
PAUSE: Final = 30.0
"""Seconds for which a failure stands before the same request is worked on again. A page asks again
whenever it is drawn: without a pause, what takes a while to fail would be begun for ever."""
T = TypeVar("T")


@dataclass(frozen=True)
class _Task(Generic[M]):
    """A job and how to do it."""

    job: Job[Any]
    choice: ModelChoice
    fingerprint: str
    work: Callable[[M, Job[Any]], Any]


class Worker(Generic[M]):
    """Runs jobs one after another in a thread of its own, which starts with the first job."""

    def __init__(
        self, engine: Engine[M], models_kept: int = MODELS_KEPT, pause: float = PAUSE
    ) -> None:
        self.engine = engine
        self._models_kept = models_kept
        self._pause = pause
        self._failed: dict[tuple[str, str], Job[Any]] = {}
        self._models: OrderedDict[str, tuple[ModelChoice, M]] = OrderedDict()
        self._opened: tuple[ModelChoice, ...] = ()
        self._unwanted: set[ModelChoice] = set()
        self._device: str | None = None
        self._wake = threading.Condition()
        self._waiting: deque[_Task[M]] = deque()
        self._running: Job[Any] | None = None
        self._thread: threading.Thread | None = None
        self._started = False
        self._closed = False

    @property
    def device(self) -> str | None:
        """Where the models are; None until the first one is open."""
        return self._device

    @property
    def opened(self) -> tuple[ModelChoice, ...]:
        """The models in memory, the one used last at the end."""
        return self._opened

    def unload(self, choice: ModelChoice) -> None:
        """Let a model go once no job is running; nothing happens where it is not open."""
        with self._wake:
            if choice in self._opened:
                self._unwanted.add(choice)
                self._wake.notify()

    @property
    def queue(self) -> tuple[Job[Any], ...]:
        """The job that runs, then those that wait, in their order."""
        with self._wake:
            jobs = [task.job for task in self._waiting]
            if self._running is not None:
                jobs.insert(0, self._running)
        return tuple(job for job in jobs if job.state in ("queued", "running"))

    def submit(
        self,
        key: str,
        title: str,
        choice: ModelChoice,
        fingerprint: str,
        work: Callable[[M, Job[T]], T],
        session: str = "",
    ) -> Job[T]:
        """Queue ``work(model, job)``, or join the job that already does ``key``.

        ``fingerprint`` says which files the caller means by ``choice``. The work reports progress
        through ``job.report``, which is also where a cancelled job stops. A job that failed less
        than :data:`PAUSE` seconds ago is answered with itself, unless a model was unloaded since.
        """
        with self._wake:
            if self._closed:
                raise RuntimeError("the worker is closed")
            for job in self._open_jobs():
                if job.key == key and job.join(session):
                    return job
            self._failed = {k: job for k, job in self._failed.items() if self._stands(job)}
            if (key, fingerprint) in self._failed:
                return self._failed[key, fingerprint]
            job = Job[T](key, title)
            job.join(session)
            self._waiting.append(_Task(job, choice, fingerprint, work))
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="worker", daemon=True)
                self._thread.start()
            self._wake.notify()
        return job

    def close(self, timeout: float | None = None) -> None:
        """Finish the queue, let the models go and end the thread."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(timeout)

    def _open_jobs(self) -> list[Job[Any]]:
        jobs = [task.job for task in self._waiting]
        return jobs if self._running is None else [self._running, *jobs]

    def _stands(self, failed: Job[Any]) -> bool:
        return failed.age is None or failed.age < self._pause

    # Everything below runs in the worker's thread.

    def _loop(self) -> None:
        while (task := self._next()) is not None:
            if task.job.begin():
                self._run(task)
            with self._wake:
                self._running = None
            del task  # its closure must not keep anything alive while the queue is empty
        self._models.clear()
        self._note_opened()

    def _next(self) -> _Task[M] | None:
        with self._wake:
            while True:
                self._wake.wait_for(lambda: self._waiting or self._closed or self._unwanted)
                if not self._unwanted:
                    break
                self._let_go()
            if not self._waiting:
                return None
            task = self._waiting.popleft()
            self._running = task.job
            return task

    def _run(self, task: _Task[M]) -> None:
        job = task.job
        try:
            result = task.work(self._model(task), job)
        except TracerError as error:
            self._fail(task, error)
        except BaseException as error:  # not even SystemExit in a library may end the thread
            logger.exception("the job %s (%s) failed", job.key, job.title)
            if _out_of_memory(error):
                failure: TracerError = MemoryLimitError(
                    f"the memory of {self._device or 'this machine'} was not enough for "
                    f"{job.title!r}: shorten the prompt, or allow fewer features"
                )
                self._models.clear()
                self._note_opened()
            else:
                failure = TracerError(
                    f"{job.title!r} failed for an unexpected reason "
                    f"({type(error).__name__}: {error}): the log of the server says where"
                )
            # The error's frames hold the tensors that filled the memory.
            error.__traceback__ = error.__cause__ = error.__context__ = None
            self.engine.free_memory()
            self._fail(task, failure)
        else:
            job.succeed(result)

    def _fail(self, task: _Task[M], error: TracerError) -> None:
        if not isinstance(error, Cancelled):
            with self._wake:  # before anybody learns of it, and asks again
                self._failed[task.job.key, task.fingerprint] = task.job
        task.job.fail(error)

    def _let_go(self) -> None:
        for key, (choice, _) in list(self._models.items()):
            if choice in self._unwanted:
                del self._models[key]
        self._unwanted.clear()
        self._failed.clear()  # what had no room may have some now
        self._note_opened()
        self.engine.free_memory()

    def _note_opened(self) -> None:
        self._opened = tuple(choice for choice, _ in self._models.values())

    def _model(self, task: _Task[M]) -> M:
        """The model a task needs, opened if it is not among those kept open."""
        known = self._models.get(task.fingerprint)
        if known is not None:
            self._models.move_to_end(task.fingerprint)
            self._note_opened()
            return known[1]
        if not self._started:
            task.job.report(0, 0, "starting")
            self.engine.start()
            self._started = True
        while len(self._models) >= self._models_kept:
            self._models.popitem(last=False)
            self._note_opened()
            self.engine.free_memory()
        task.job.report(0, 0, f"opening {task.choice.model}")
        model = self.engine.load(task.choice, _opening(task))
        if identity(model.source, task.choice) != task.fingerprint:
            raise ModelError(
                f"the files of {task.choice.model} changed while it was being opened: ask again"
            )
        self._models[task.fingerprint] = (task.choice, model)
        self._note_opened()
        self._device = str(model.device)
        return model


def _opening(task: _Task[Any]) -> Progress:
    """Progress of opening a task's model, said to be that."""

    def report(done: int, total: int, what: str) -> None:
        task.job.report(done, total, f"opening {task.choice.model}: {what}")

    return report


def _out_of_memory(error: BaseException) -> bool:
    """Python's, an accelerator's and the CPU allocator's ways of saying it, torch not imported."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and ("out of memory" in text or "defaultcpuallocator" in text)
    )
