"""Cut a corpus into batches and shards: what must run, which does not depend on any activation.

One process plans, because a prefix counts only where the corpus has it first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tracer.indexing.checkpoint import BuildState, TokenLog
from tracer.indexing.output_folder import OutputFolder
from tracer.indexing.prefixes import Hashes, PrefixSet, prefix_hashes
from tracer.indexing.windows import Window, WindowReader, padded
from tracer.model.model import Model

Array = NDArray[np.int64]
MAX_TOKENS: Final = 2**31 - 2**20
"""Offsets in the corpus are stored in 32 bits."""


@dataclass(frozen=True)
class TokenBatch:
    """Windows that run together."""

    first: int
    """Offset of the first token in the corpus."""
    first_window: int
    """Number of the first window in the corpus, of those that run."""
    ids: Array
    """``(windows, positions)`` token ids, padded on the right."""
    real: NDArray[np.bool_]
    """``(windows, positions)`` which of them are the windows' own tokens."""
    counted: NDArray[np.bool_]
    """``(tokens,)`` whether the prefix that ends at each of the windows' tokens is new."""
    tag_rows: Array
    """Together with ``tag_numbers``: the rows and tags of all tagged tokens that are counted."""
    tag_numbers: Array

    @property
    def n_tokens(self) -> int:
        return len(self.counted)


@dataclass(frozen=True)
class Shard:
    """Batches that follow each other in the corpus."""

    number: int
    batches: tuple[TokenBatch, ...]
    state: BuildState
    """The state of the build after them."""
    prefixes: Hashes | None
    """All prefixes up to there; None if no checkpoint is written."""

    @property
    def n_tokens(self) -> int:
        return sum(batch.n_tokens for batch in self.batches)


class Planner:
    """Reads the corpus from where a build is, batch by batch."""

    def __init__(
        self,
        model: Model,
        reader: WindowReader,
        output: OutputFolder,
        batch_tokens: int,
        shard_tokens: int,
        state: BuildState,
        prefixes: PrefixSet,
    ) -> None:
        self.reader, self._prefixes = reader, prefixes
        self._first_position, self._output = model.first_position, output
        self._batch_tokens, self._shard_tokens = batch_tokens, shard_tokens
        self.at_shard_end = state.ends_shard
        """Whether the last batch was the last one of its shard."""
        self.n_counted = state.n_counted
        self.tag_totals = np.array(state.tag_totals, np.int64)
        with output.disk_errors():
            self.log = TokenLog(output.work, state.n_tokens, state.n_windows, state.n_source_bytes)

    def state(self) -> BuildState:
        """Return the state of the build after the last batch."""
        return BuildState(
            replace(self.reader.position),
            self.log.n_tokens,
            self.log.n_windows,
            self.log.n_source_bytes,
            self.n_counted,
            tuple(self.tag_totals.tolist()),
            self.at_shard_end,
        )

    def prefixes(self) -> Hashes:
        """Return the prefixes up to the last batch."""
        return self._prefixes.hashes()

    def batches(self) -> Iterator[TokenBatch | None]:
        """Yield the remaining batches; None for one of which everything has been counted."""
        while windows := self.reader.batch(self._batch_tokens):
            before = self.log.n_tokens // self._shard_tokens
            batch = self._batch(windows)
            if batch is not None:
                self.at_shard_end = self.log.n_tokens // self._shard_tokens > before
            yield batch

    def shards(self, with_prefixes: bool) -> Iterator[Shard]:
        """Yield the remaining batches, shard by shard."""
        batches: list[TokenBatch] = []
        number = 0

        def shard() -> Shard:
            prefixes = self.prefixes() if with_prefixes else None
            return Shard(number, tuple(batches), self.state(), prefixes)

        for batch in self.batches():
            batches += [] if batch is None else [batch]
            if batches and self.at_shard_end:
                yield shard()
                batches, number = [], number + 1
        if batches:
            yield shard()

    def _batch(self, windows: list[Window]) -> TokenBatch | None:
        """Return the windows that have a new prefix, and add them to the log."""
        new = self._new_prefixes(windows)
        windows = [window for window, is_new in zip(windows, new, strict=True) if is_new.any()]
        if not windows:
            return None
        counted = np.concatenate([is_new for is_new in new if is_new.any()])
        ids, real = padded(windows)
        rows, numbers = _tag_pairs(windows, counted)
        first = self.log.n_tokens, self.log.n_windows
        batch = TokenBatch(*first, ids, real, counted, rows, numbers)
        self.tag_totals += np.bincount(numbers, minlength=len(self.tag_totals))
        with self._output.disk_errors():
            lengths = (len(window.ids) for window in windows)
            sources = (window.source for window in windows)
            self.log.append(ids[real].astype(np.int32), lengths, sources)
        self.n_counted += int(counted.sum())
        return batch

    def _new_prefixes(self, windows: list[Window]) -> list[NDArray[np.bool_]]:
        """Return, by window and token, whether the prefix that ends there is new.

        Positions that have no features do not count.
        """
        ids, real = padded(windows)
        has_features = real.copy()
        has_features[:, : self._first_position] = False
        new = np.zeros(real.shape, bool)
        new[has_features] = self._prefixes.add(prefix_hashes(ids)[has_features])
        return [row[: len(window.ids)] for row, window in zip(new, windows, strict=True)]


def _tag_pairs(windows: list[Window], counted: NDArray[np.bool_]) -> tuple[Array, Array]:
    lengths = np.array([len(window.ids) for window in windows])
    starts = lengths.cumsum() - lengths
    pairs = [
        (start + position, number)
        for window, start in zip(windows, starts.tolist(), strict=True)
        for position, tags in enumerate(window.tags or ())
        if tags and counted[start + position]
        for number in tags
    ]
    rows, numbers = np.array(pairs, np.int64).reshape(-1, 2).T
    return np.ascontiguousarray(rows), np.ascontiguousarray(numbers)
