"""`Job`: one piece of work that a thread does while several sessions watch it."""

from __future__ import annotations

import copy
import threading
import time
from typing import Final, Generic, Literal, TypeVar, cast

from tracer.errors import Cancelled, TracerError

JobState = Literal["queued", "running", "done", "failed", "cancelled"]
T = TypeVar("T")
_WAITING: Final = "waiting for its turn"


class Job(Generic[T]):
    """One piece of work, shared by every session that asked for it. Safe from any thread.

    Watchers read ``state``, ``progress``, ``seconds`` and ``result``, and may ``cancel``. The
    thread that does the work calls ``begin``, ``report``, and then ``succeed`` or ``fail``.

    >>> job = Job.found("sum", 5)
    >>> job.state, job.from_cache, job.result()
    ('done', True, 5)
    """

    def __init__(self, key: str, title: str = "") -> None:
        self.key = key
        """Name of the request; for a trace, `Backend.graph` finds the graph by it."""
        self.title = title
        """What is being worked on, for display: the prompt or the model."""
        self.from_cache = False
        """Whether the result was known and not computed."""
        self.place = 0
        """How many jobs come before it while it waits, the running one included."""
        self._lock = threading.Lock()
        self._finished = threading.Event()
        self._state: JobState = "queued"
        self._progress = (0, 0, _WAITING)
        self._sessions: set[str] = set()
        self._cancel_wanted = False
        self._result: T | None = None
        self._error: TracerError | None = None
        self.phases: dict[str, float] = {}
        """Seconds that each step took, by what was reported."""
        self._created = time.perf_counter()
        self._phase_begun = self._created
        self._begun: float | None = None
        self._ended: float | None = None

    @classmethod
    def found(cls, key: str, result: T, title: str = "") -> Job[T]:
        """Return a finished job for a result that was known before."""
        job = cls(key, title)
        job.from_cache = True
        job.begin()
        job.succeed(result)
        return job

    @classmethod
    def refused(cls, key: str, error: TracerError, title: str = "") -> Job[T]:
        """Return a failed job for a request that cannot be queued."""
        job = cls(key, title)
        job.begin()
        job.fail(error)
        return job

    # For watchers

    @property
    def state(self) -> JobState:
        """Where the job is in its life."""
        return self._state

    @property
    def progress(self) -> tuple[int, int, str]:
        """``(done, total, what)``; ``total`` is 0 while it is unknown."""
        if self._state == "queued" and self.place:
            jobs = "1 job is" if self.place == 1 else f"{self.place} jobs are"
            return (0, 0, f"waiting for its turn: {jobs} before it")
        return self._progress

    @property
    def sessions(self) -> frozenset[str]:
        """The sessions that want this job."""
        return frozenset(self._sessions)

    @property
    def seconds(self) -> float | None:
        """How long the job has run, without waiting; None before it began."""
        begun, ended = self._begun, self._ended
        if begun is None:
            return None
        return (time.perf_counter() if ended is None else ended) - begun

    @property
    def waited(self) -> float:
        """Seconds between the request and the begin of the work, or until now."""
        return (time.perf_counter() if self._begun is None else self._begun) - self._created

    @property
    def age(self) -> float | None:
        """Seconds since the job ended; None before, and for a job that never began."""
        return None if self._ended is None else time.perf_counter() - self._ended

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the job has ended; False if ``timeout`` seconds passed first."""
        return self._finished.wait(timeout)

    def result(self, timeout: float | None = None) -> T:
        """Wait for the result and return it.

        Raises the :class:`TracerError` that the job failed with, :class:`Cancelled` when it was
        cancelled, ``TimeoutError`` when it takes longer than ``timeout`` seconds.
        """
        if not self._finished.wait(timeout):
            raise TimeoutError(f"{self.title or self.key} is not finished after {timeout} s")
        if self._error is not None:
            # A copy: the same exception raised in two threads would mix their tracebacks.
            raise copy.copy(self._error)
        return cast(T, self._result)

    def cancel(self, session: str = "") -> None:
        """Withdraw the wish of ``session``; the work stops when no other session wants it.

        A queued job ends at once, a running one at its next report of progress.
        """
        with self._lock:
            self._sessions.discard(session)
            if not self._sessions:
                self._stop()

    def abandon(self) -> None:
        """Cancel for every session."""
        with self._lock:
            self._stop()

    def seen_by(self, session: str) -> None:
        """Note that a session was told how this job, which has ended, ended."""
        with self._lock:
            self._sessions.add(session)

    def join(self, session: str = "") -> bool:
        """Have ``session`` want this job too; False if it has ended or is being cancelled."""
        with self._lock:
            if self._cancel_wanted or self._finished.is_set():
                return False
            self._sessions.add(session)
            return True

    # For the thread that does the work

    def begin(self) -> bool:
        """Mark the job as running; False if it was cancelled while it waited."""
        with self._lock:
            if self._state != "queued":
                return False
            self._state = "running"
            self._begun = self._phase_begun = time.perf_counter()
            return True

    def check(self) -> None:
        """Raise :class:`Cancelled` when no session wants the work any more."""
        if self._cancel_wanted:
            raise _cancelled()

    def report(self, done: int, total: int, what: str) -> None:
        """Publish progress; raises :class:`Cancelled` when no session wants the work any more."""
        self.check()
        if what != self._progress[2]:
            self._end_phase()
        self._progress = (done, total, what)

    def succeed(self, result: T) -> None:
        """End with ``result``; a job that was cancelled first stays cancelled."""
        with self._lock:
            if self._cancel_wanted:
                self._end("cancelled", error=_cancelled())
            else:
                self._result = result
                self._end("done")

    def fail(self, error: TracerError) -> None:
        """End with ``error``; :class:`Cancelled` makes the job cancelled instead of failed."""
        with self._lock:
            # The frames behind an error hold the tensors it was working on.
            error = error.with_traceback(None)
            error.__cause__ = error.__context__ = None
            self._end("cancelled" if isinstance(error, Cancelled) else "failed", error=error)

    def _stop(self) -> None:
        if self._finished.is_set():
            return
        self._cancel_wanted = True
        if self._state == "queued":
            self._end("cancelled", error=_cancelled())

    def _end_phase(self) -> None:
        now, phase = time.perf_counter(), self._progress[2]
        if self._begun is not None and phase != _WAITING:
            self.phases[phase] = self.phases.get(phase, 0.0) + now - self._phase_begun
        self._phase_begun = now

    def _end(self, state: JobState, error: TracerError | None = None) -> None:
        self._end_phase()
        self._state = state
        self._error = error
        self._ended = time.perf_counter() if self._begun is not None else None
        self._finished.set()


def _cancelled() -> Cancelled:
    return Cancelled("the work was cancelled: start it again if you need it")
