"""`TracePool`: traces on several remote workers that share one queue.

A remote worker is a small protocol: submit, progress, cancel, result. The pool keeps each one busy
with the job whose turn it is, so fast workers do more. What a lost worker was doing is done again.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final, Protocol

from cache.job_queue import unexpected
from cache.jobs import Job
from cache.logs import log_job
from cache.request import TraceRequest
from cache.turns import Turns
from tracer.errors import Cancelled, TracerError
from tracer.graph.graph import AttributionGraph

logger = logging.getLogger(__name__)

ATTEMPTS: Final = 3
"""How often a job is tried when its workers are lost."""
_POLL: Final = 0.1
_STOPPING_SECONDS: Final = 60.0
_FAILURES_KEPT: Final = 256


class WorkerLost(Exception):
    """The process of a remote worker has ended, or its machine is gone."""


@dataclass(frozen=True)
class Traced:
    """What a remote worker returns."""

    files: str
    """Fingerprint of the model's files that it used."""
    token_ids: tuple[int, ...]
    content: bytes
    """The graph, as :meth:`AttributionGraph.to_bytes` writes it."""


class RemoteTracer(Protocol):
    """One worker somewhere else, which does one job at a time.

    Every method may raise :class:`WorkerLost`.
    """

    def submit(self, request: TraceRequest) -> None:
        """Start tracing."""

    def progress(self) -> tuple[int, int, str]:
        """Return how far it is, as a job reports it."""

    def result(self, timeout: float) -> Traced | None:
        """Return the result, or None after ``timeout`` seconds.

        Raises the :class:`TracerError` that tracing failed with.
        """

    def cancel(self) -> None:
        """Ask the worker to stop soon; its result is then :class:`Cancelled`."""

    def close(self) -> None:
        """End the worker."""


Finish = Callable[[Job[AttributionGraph], TraceRequest, Traced], AttributionGraph]


class TracePool:
    """Workers, a thread for each that waits for it, and the queue in front of them."""

    def __init__(self, start: Callable[[], RemoteTracer], count: int, finish: Finish) -> None:
        """Create ``count`` workers, each when it is first needed.

        ``finish`` keeps a result and returns the graph.
        """
        self._start_worker = start
        self._finish = finish
        self._wake = threading.Condition()
        self._waiting = Turns()
        self._running: list[Job[AttributionGraph]] = []
        self._failed: dict[str, Job[AttributionGraph]] = {}
        self._closed = False
        self.lost: deque[str] = deque(maxlen=100)
        """Titles of jobs whose worker was lost."""
        self._threads = [
            threading.Thread(target=self._loop, name=f"remote {number}", daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def size(self) -> int:
        """How many workers there are."""
        return len(self._threads)

    @property
    def jobs(self) -> tuple[Job[Any], ...]:
        """The running jobs, then the waiting ones in the order of their turns."""
        with self._wake:
            jobs = (*self._running, *self._waiting.in_order())
        return tuple(job for job in jobs if job.state in ("queued", "running"))

    def submit(
        self, key: str, title: str, request: TraceRequest, session: str = "", cost: float = 0.0
    ) -> Job[AttributionGraph]:
        """Queue a trace, or join the unfinished job under ``key``.

        A request that failed returns the failed job until :meth:`retry`.
        """
        with self._wake:
            if self._closed:
                raise RuntimeError("the pool is closed")
            if key in self._failed:
                return self._failed[key]
            known: Job[AttributionGraph]
            for known in (*self._running, *self._waiting):
                if known.key == key and known.join(session):
                    return known
            job: Job[AttributionGraph] = Job(key, title)
            job.join(session)
            self._waiting.add(job, lambda job: request, cost)
            self._number()
            self._wake.notify()
        return job

    def retry(self, key: str) -> None:
        """Let a failed request run again."""
        with self._wake:
            self._failed.pop(key, None)

    def withdraw(self, session: str, keep: Collection[str] = ()) -> int:
        """Withdraw every request of a session, except those under the keys in ``keep``."""
        with self._wake:
            wanted = [
                job
                for job in (*self._running, *self._waiting)
                if session in job.sessions and job.key not in keep
            ]
            for job in wanted:
                job.cancel(session)
            self._waiting.drop_ended()
            self._number()
        return len(wanted)

    def close(self, timeout: float | None = None) -> None:
        """Cancel everything and end the workers."""
        with self._wake:
            self._closed = True
            for job in (*self._running, *self._waiting):
                job.abandon()
            self._wake.notify_all()
        for thread in self._threads:
            thread.join(timeout)

    def _number(self) -> None:
        for place, job in enumerate(self._waiting.in_order(), 1):
            job.place = place

    # Everything below runs in the thread of one worker.

    def _loop(self) -> None:
        worker: RemoteTracer | None = None
        while (next_one := self._next()) is not None:
            job, request = next_one
            try:
                worker = self._run(job, request, worker)
            finally:
                with self._wake:
                    self._running.remove(job)
                log_job(job)
        if worker is not None:
            try:
                worker.close()
            except WorkerLost:
                logger.info("a worker was lost before it was closed")

    def _next(self) -> tuple[Job[AttributionGraph], TraceRequest] | None:
        with self._wake:
            while True:
                self._waiting.drop_ended()
                if self._closed:
                    return None
                if self._waiting:
                    break
                self._wake.wait()
            job, work = self._waiting.take()
            self._running.append(job)
            self._number()
            return job, work(job)

    def _run(
        self, job: Job[AttributionGraph], request: TraceRequest, worker: RemoteTracer | None
    ) -> RemoteTracer | None:
        """Run one job and return the worker for the next one; None if it was lost."""
        if not job.begin():
            return worker
        try:
            for _ in range(ATTEMPTS):
                try:
                    worker = worker or self._start_worker()
                    job.succeed(self._finish(job, request, _trace(worker, job, request)))
                    return worker
                except WorkerLost:
                    logger.warning("the worker of %r was lost: it is traced again", job.title)
                    self.lost.append(job.title)
                    worker = None
            raise TracerError(
                f"{job.title!r} was not traced: {ATTEMPTS} workers were lost while they traced it"
            )
        except Cancelled as error:
            job.fail(error)
        except BaseException as error:  # nothing may end the thread
            with self._wake:  # before any visitor sees the failure, and asks again
                self._failed[job.key] = job
                while len(self._failed) > _FAILURES_KEPT:
                    del self._failed[next(iter(self._failed))]
            job.fail(error if isinstance(error, TracerError) else unexpected(job, error))
        return worker


def _trace(worker: RemoteTracer, job: Job[AttributionGraph], request: TraceRequest) -> Traced:
    job.report(0, 0, "waiting for a worker")
    worker.submit(request)
    while True:
        result = worker.result(_POLL)
        if result is not None:
            return result
        try:
            job.report(*worker.progress())
        except Cancelled:
            worker.cancel()
            worker.result(_STOPPING_SECONDS)  # raises Cancelled as soon as it has stopped
            raise
