"""Work that needs no model, off the thread that owns the models: downloads, examples, sizes."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeVar

from cache.jobs import Job
from tracer.errors import TracerError

logger = logging.getLogger(__name__)

T = TypeVar("T")
_Errand = tuple[Job[Any], Callable[[Job[Any]], Any]]
_KEPT: Final = 32
"""Jobs that have ended and can still be asked for their result."""


class BackgroundQueue:
    """One thread and its queue; the same errand for two sessions runs once."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._wake = threading.Condition()
        self._waiting: deque[_Errand] = deque()
        self._jobs: dict[str, Job[Any]] = {}
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def queue(self) -> tuple[Job[Any], ...]:
        """What runs, then what waits."""
        with self._wake:
            return tuple(j for j in self._jobs.values() if j.state in ("queued", "running"))

    def get(self, *keys: str) -> Job[Any] | None:
        """The latest errand under one of ``keys``, ended or not; one that has not, if there is."""
        with self._wake:
            known = [job for key, job in self._jobs.items() if key in keys]
        active = [job for job in known if job.state in ("queued", "running")]
        latest = active or known
        return latest[-1] if latest else None

    def run(self, key: str, title: str, work: Callable[[Job[T]], T], session: str = "") -> Job[T]:
        """Queue ``work(job)``, or join the errand that already does ``key``."""
        with self._wake:
            if self._closed:
                raise RuntimeError("errands are closed")
            known = self._jobs.get(key)
            if known is not None and known.join(session):
                return known
            job = Job[T](key, title)
            job.join(session)
            self._jobs.pop(key, None)
            self._jobs[key] = job
            self._waiting.append((job, work))
            self._forget()
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name=self._name, daemon=True)
                self._thread.start()
            self._wake.notify()
        return job

    def close(self, timeout: float | None = None) -> None:
        """Cancel what is left and end the thread."""
        with self._wake:
            self._closed = True
            for job in self._jobs.values():
                job.abandon()
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(timeout)

    def _forget(self) -> None:
        ended = [k for k, job in self._jobs.items() if job.state not in ("queued", "running")]
        for key in ended[: max(0, len(ended) - _KEPT)]:
            del self._jobs[key]

    # Everything below runs in the thread.

    def _loop(self) -> None:
        while (errand := self._next()) is not None:
            _run(*errand)
            del errand  # it must not keep anything alive while nothing is left to do

    def _next(self) -> _Errand | None:
        with self._wake:
            self._wake.wait_for(lambda: self._waiting or self._closed)
            return self._waiting.popleft() if self._waiting else None


def _run(job: Job[Any], work: Callable[[Job[Any]], Any]) -> None:
    if not job.begin():
        return
    try:
        result = work(job)
    except TracerError as error:
        job.fail(error)
    except BaseException as error:  # not even SystemExit in a library may end the thread
        logger.exception("the errand %s (%s) failed", job.key, job.title)
        job.fail(
            TracerError(
                f"{job.title!r} failed for an unexpected reason ({type(error).__name__}: "
                f"{error}): the log of the server says where"
            )
        )
    else:
        job.succeed(result)
