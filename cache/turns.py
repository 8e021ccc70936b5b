"""`Turns`: the jobs that wait for a thread, and whose turn it is.

Sessions take turns: the one that was served longest ago is next, so a visitor with one prompt waits
for at most one job of a visitor with thirty. Within a session short work goes before long work, but
long work is not passed over forever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from cache.jobs import Job

Work = Callable[[Job[Any]], Any]
_PASSED_OVER: Final = 8
"""How often short work of the same session may overtake a job."""
_REMEMBERED: Final = 1000
"""Sessions whose last turn is remembered."""


@dataclass
class _Entry:
    job: Job[Any]
    work: Work
    cost: float
    number: int
    passed_over: int = 0


class Turns:
    """The waiting jobs of one queue. Call every method with the queue's lock held."""

    def __init__(self) -> None:
        self._entries: list[_Entry] = []
        self._served: dict[str, int] = {}
        self._turn = 0
        self._added = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Job[Any]]:
        """Yield the jobs in the order in which they were added."""
        return (entry.job for entry in self._entries)

    def add(self, job: Job[Any], work: Work, cost: float) -> None:
        """Add a job; ``cost`` says how long it takes, in any unit."""
        self._entries.append(_Entry(job, work, cost, self._added))
        self._added += 1

    def take(self) -> tuple[Job[Any], Work]:
        """Remove and return the job whose turn it is."""
        entry = self._next(self._entries, self._served)
        self._entries.remove(entry)
        sessions = entry.job.sessions
        for other in self._entries:
            if other.number < entry.number and other.job.sessions & sessions:
                other.passed_over += 1
        self._turn += 1
        self._served |= dict.fromkeys(sessions, self._turn)
        if len(self._served) > _REMEMBERED:
            latest = sorted(self._served, key=self._served.__getitem__)[_REMEMBERED // 2 :]
            self._served = {session: self._served[session] for session in latest}
        return entry.job, entry.work

    def in_order(self) -> list[Job[Any]]:
        """Return the jobs in the order of their turns, if nothing is added."""
        waiting, served, turn, jobs = list(self._entries), dict(self._served), self._turn, []
        while waiting:
            entry = self._next(waiting, served)
            waiting.remove(entry)
            turn += 1
            served |= dict.fromkeys(entry.job.sessions, turn)
            jobs.append(entry.job)
        return jobs

    def drop_ended(self) -> list[Job[Any]]:
        """Remove and return the jobs that were cancelled while they waited."""
        ended = [entry.job for entry in self._entries if entry.job.state != "queued"]
        self._entries = [entry for entry in self._entries if entry.job.state == "queued"]
        return ended

    @staticmethod
    def _next(entries: list[_Entry], served: dict[str, int]) -> _Entry:
        def turn(entry: _Entry) -> tuple[int, bool, float, int]:
            last = min((served.get(session, 0) for session in entry.job.sessions), default=0)
            return last, entry.passed_over < _PASSED_OVER, entry.cost, entry.number

        return min(entries, key=turn)
