"""`JobQueue`: one thread that runs jobs, sessions in turn. It knows nothing about models.

The thread is a daemon, unlike those of `concurrent.futures`: a download of gigabytes must not keep
a stopped server alive.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any, TypeVar

from cache.jobs import Job
from cache.logs import log_job
from cache.turns import Turns
from tracer.errors import TracerError, one_line

logger = logging.getLogger(__name__)

T = TypeVar("T")


class JobQueue:
    """A thread and the jobs that wait for it. It starts with the first job.

    A request that is already queued or running is joined, not run twice. Safe from any thread.

    >>> queue = JobQueue("sums")
    >>> queue.submit("2 + 3", "add two numbers", lambda job: 2 + 3).result()
    5
    >>> queue.close()
    """

    def __init__(self, name: str, keep: int = 0, at_end: Callable[[], None] = lambda: None) -> None:
        """Create the queue.

        ``keep`` is how many ended jobs :meth:`get` still finds; ``at_end`` runs last in the thread.
        """
        self._name = name
        self._at_end = at_end
        self._wake = threading.Condition()
        self._waiting = Turns()
        self._actions: deque[Callable[[], None]] = deque()
        self._running: Job[Any] | None = None
        self._ended: deque[Job[Any]] = deque(maxlen=keep)
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def jobs(self) -> tuple[Job[Any], ...]:
        """The running job, then the waiting ones in the order of their turns."""
        with self._wake:
            running = () if self._running is None else (self._running,)
            jobs = (*running, *self._waiting.in_order())
            return tuple(job for job in jobs if job.state in ("queued", "running"))

    def get(self, *keys: str) -> Job[Any] | None:
        """Return the latest job under one of ``keys``: an unfinished one if there is one."""
        with self._wake:
            jobs = [job for job in (*self._ended, *self._unfinished()) if job.key in keys]
        active = [job for job in jobs if job.state in ("queued", "running")]
        latest = active or jobs
        return latest[-1] if latest else None

    def join(self, key: str, session: str = "") -> Job[Any] | None:
        """Have ``session`` want the unfinished job under ``key`` too; None if there is none."""
        with self._wake:
            return self._join(key, session)

    def submit(
        self,
        key: str,
        title: str,
        work: Callable[[Job[T]], T],
        session: str = "",
        cost: float = 0.0,
    ) -> Job[T]:
        """Queue ``work(job)``, or join the unfinished job under ``key``.

        Of one session's jobs, those of less ``cost`` come first.

        ``work`` may raise anything: a :class:`TracerError` becomes the job's error, everything
        else is logged and becomes one sentence.
        """
        with self._wake:
            if self._closed:
                raise RuntimeError(f"the queue {self._name!r} is closed")
            job: Job[T] | None = self._join(key, session)
            if job is None:
                job = Job(key, title)
                job.join(session)
                self._drop_cancelled()
                self._waiting.add(job, work, cost)
                self._start()
            self._number()
        return job

    def withdraw(self, session: str, keep: Collection[str] = ()) -> int:
        """Withdraw every request of a session, except those under the keys in ``keep``.

        Jobs that other sessions want go on. Returns how many requests there were.
        """
        with self._wake:
            withdrawn = [
                job for job in self._unfinished() if session in job.sessions and job.key not in keep
            ]
            for job in withdrawn:
                job.cancel(session)
            self._drop_cancelled()
            self._number()
        return len(withdrawn)

    def sessions(self) -> frozenset[str]:
        """Return the sessions that want an unfinished job."""
        with self._wake:
            return frozenset().union(*(job.sessions for job in self._unfinished()))

    def soon(self, action: Callable[[], None]) -> None:
        """Run ``action`` in the thread, after the running job and before the next one.

        Does nothing on a closed queue.
        """
        with self._wake:
            if not self._closed:
                self._actions.append(action)
                self._start()

    def close(self, timeout: float | None = None, cancel: bool = False) -> None:
        """Finish the queue, or ``cancel`` everything in it, and end the thread."""
        with self._wake:
            self._closed = True
            if cancel:
                for job in self._unfinished():
                    job.abandon()
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(timeout)

    # Call these with the lock held.

    def _unfinished(self) -> Iterator[Job[Any]]:
        if self._running is not None:
            yield self._running
        yield from self._waiting

    def _join(self, key: str, session: str) -> Job[Any] | None:
        return next(
            (job for job in self._unfinished() if job.key == key and job.join(session)), None
        )

    def _drop_cancelled(self) -> None:
        """Let go of cancelled work now: its closure may hold a large file."""
        self._ended.extend(self._waiting.drop_ended())

    def _number(self) -> None:
        """Tell every waiting job how many are before it."""
        before = 0 if self._running is None else 1
        for place, job in enumerate(self._waiting.in_order(), before):
            job.place = place

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name=self._name, daemon=True)
            self._thread.start()
        self._wake.notify()

    # Everything below runs in the thread.

    def _loop(self) -> None:
        while (step := self._next()) is not None:
            step()
            del step  # its closure must not keep anything alive while the queue is empty
        self._at_end()

    def _next(self) -> Callable[[], None] | None:
        with self._wake:
            if self._running is not None:
                self._ended.append(self._running)
                self._running = None
            self._wake.wait_for(lambda: self._actions or self._waiting or self._closed)
            if self._actions:
                return partial(_act, self._actions.popleft())
            self._drop_cancelled()
            if not self._waiting:
                return None if self._closed else _nothing
            job, work = self._waiting.take()
            self._running = job
            self._number()
            return partial(_run, job, work)


def _nothing() -> None:
    """Take no step: everything that waited was cancelled."""


def _act(action: Callable[[], None]) -> None:
    try:
        action()
    except BaseException:  # nothing may end the thread
        logger.exception("%r failed between two jobs", action)


def _run(job: Job[Any], work: Callable[[Job[Any]], Any]) -> None:
    if job.begin():  # else it was cancelled while it waited
        _work(job, work)
        log_job(job)


def _work(job: Job[Any], work: Callable[[Job[Any]], Any]) -> None:
    try:
        result = work(job)
    except TracerError as error:
        job.fail(error)
    except BaseException as error:  # not even SystemExit in a library may end the thread
        job.fail(unexpected(job, error))
    else:
        job.succeed(result)


def unexpected(job: Job[Any], error: BaseException) -> TracerError:
    """Log an error that was not raised on purpose and return the sentence for the visitor."""
    logger.error("the job %s (%s) failed", job.key, job.title, exc_info=error)
    reason = one_line(f"{type(error).__name__}: {error}")
    return TracerError(
        f"{job.title!r} failed with an unexpected error ({reason}): see the server's log"
    )
