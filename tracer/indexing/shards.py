"""Hand the shards of a corpus to workers somewhere else, and take their statistics in order.

A worker is a small protocol: submit, progress, finished. A fast one simply does more shards. What a
lost worker was doing is done again. This module knows no cluster: see `tracer.indexing.ray_shards`.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from tracer.cluster import WorkerLost
from tracer.errors import TracerError
from tracer.indexing.gather import Arrays
from tracer.indexing.plan import Shard, TokenBatch
from tracer.model.model import Model

logger = logging.getLogger(__name__)

ATTEMPTS: Final = 3
"""How often a shard is tried when its workers are lost."""
_POLL: Final = 0.1


@dataclass(frozen=True)
class ShardSetup:
    """What a worker needs to know before its first shard."""

    identity: tuple[str, ...]
    """The model that the statistics are about: :func:`model_identity`."""
    promoted: tuple[NDArray[np.int32], ...]
    """The tokens that the features of each layer promote most."""
    n_tags: int
    context: int


def model_identity(model: Model) -> tuple[str, ...]:
    """Return what must be equal where the shards of one index run."""
    sizes = [str(layer.n_features) for layer in model.transcoders.layers]
    return (model.source.fingerprint, str(model.bridge.dtype), *sizes)


class ShardWorker(Protocol):
    """One worker, which does one shard at a time. Every method may raise :class:`WorkerLost`."""

    def submit(self, batches: tuple[TokenBatch, ...]) -> None:
        """Start gathering the statistics of a shard."""

    def progress(self) -> int:
        """Return how many tokens of the shard have been run."""

    def finished(self, timeout: float) -> Callable[[], Arrays] | None:
        """Return a function that fetches the statistics, or None after ``timeout`` seconds.

        Raises the :class:`TracerError` that the shard failed with. The function may raise
        :class:`WorkerLost`.
        """

    def close(self) -> None:
        """End the worker."""


class ShardWorkers(Protocol):
    """Where shards can run."""

    @property
    def count(self) -> int:
        """How many workers there can be at a time."""

    def start(self, setup: ShardSetup) -> ShardWorker:
        """Start a worker."""


def run_shards(
    shards: Iterator[Shard],
    workers: ShardWorkers,
    setup: ShardSetup,
    merge: Callable[[Shard, Arrays], None],
    progress: Callable[[int], None],
) -> None:
    """Run every shard on some worker and merge the statistics in the order of the corpus.

    ``progress`` is called often, with the tokens that have run and are not merged; it may raise.
    The workers are ended in any case.

    Raises :class:`TracerError` if the workers of a shard are lost :data:`ATTEMPTS` times.
    """
    run = _Run(shards, workers, setup)
    try:
        while run.assign():
            run.collect()
            run.merge(merge)
            progress(run.tokens())
    finally:
        run.close()


class _Run:
    """Shards from when they are planned until they are merged."""

    def __init__(self, shards: Iterator[Shard], workers: ShardWorkers, setup: ShardSetup) -> None:
        self._shards, self._workers, self._setup = shards, workers, setup
        self._planned: deque[Shard] = deque()
        """Those that are not merged, in order."""
        self._waiting: deque[Shard] = deque()
        self._idle: list[ShardWorker] = []
        self._running: dict[int, ShardWorker] = {}
        self._finished: dict[int, tuple[Callable[[], Arrays], ShardWorker]] = {}
        self._losses: Counter[int] = Counter()

    def assign(self) -> bool:
        """Give waiting shards to idle workers; return False when all shards are merged."""
        while len(self._planned) <= self._workers.count:  # one is ready when a worker is done
            shard = next(self._shards, None)
            if shard is None:
                break
            self._planned.append(shard)
            self._waiting.append(shard)
        while self._waiting and len(self._running) < self._workers.count:
            shard = self._waiting.popleft()
            try:
                worker = self._idle.pop() if self._idle else self._workers.start(self._setup)
                self._running[shard.number] = worker
                worker.submit(shard.batches)
            except WorkerLost as error:
                self._lost(shard.number, error)
        return bool(self._planned)

    def collect(self) -> None:
        """Wait a moment for the running shards."""
        for number, worker in list(self._running.items()):
            try:
                fetch = worker.finished(_POLL / len(self._running))
            except WorkerLost as error:
                self._lost(number, error)
                continue
            if fetch is not None:
                self._finished[number] = fetch, worker
                self._idle.append(self._running.pop(number))

    def merge(self, merge: Callable[[Shard, Arrays], None]) -> None:
        """Merge the finished shards whose turn it is."""
        while self._planned and self._planned[0].number in self._finished:
            shard = self._planned[0]
            fetch, worker = self._finished.pop(shard.number)
            try:
                arrays = fetch()
            except WorkerLost as error:  # during the shard, or later, with the result
                if worker in self._idle:
                    self._idle.remove(worker)
                    self._end(worker)
                self._lost(shard.number, error)
                return
            merge(shard, arrays)
            self._planned.popleft()

    def tokens(self) -> int:
        """Return how many tokens of the shards that are not merged have run."""
        run = sum(shard.n_tokens for shard in self._planned if shard.number in self._finished)
        for number, worker in list(self._running.items()):
            try:
                run += worker.progress()
            except WorkerLost as error:
                self._lost(number, error)
        return run

    def close(self) -> None:
        """End the workers."""
        for worker in (*self._idle, *self._running.values()):
            self._end(worker)

    @staticmethod
    def _end(worker: ShardWorker) -> None:
        with suppress(WorkerLost):  # it has ended, or is only out of reach
            worker.close()

    def _lost(self, number: int, error: WorkerLost) -> None:
        """Put a shard back; raises :class:`TracerError` if that has not helped before."""
        logger.warning("the worker of shard %d was lost (%s): it is run again", number, error)
        worker = self._running.pop(number, None)
        if worker is not None:
            self._end(worker)
        self._losses[number] += 1
        if self._losses[number] >= ATTEMPTS:
            raise TracerError(
                f"shard {number + 1} of the corpus was not indexed: {ATTEMPTS} workers were lost "
                f"while they ran it ({error})"
            ) from error
        self._waiting.appendleft(next(s for s in self._planned if s.number == number))
