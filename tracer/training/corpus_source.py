"""Training examples from text: windows run through the model, a shard of activations at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from tracer.errors import ModelError
from tracer.model.model import Model
from tracer.training.source import Batch, Moments
from tracer.training.token_store import TokenStore
from tracer.types import Progress

_MOMENT_TOKENS: Final = 2**14
_RUN_TOKENS: Final = 2048
"""Tokens that the model runs at a time."""


@dataclass(frozen=True)
class Padded:
    """Windows of one forward pass, padded on the right, where a causal model does not see it."""

    ids: Int[Tensor, "windows pos"]
    carries: Bool[Tensor, "windows pos"]
    """Positions with features: neither padding nor before the model's first position."""


def padded(
    store: TokenStore, windows: Sequence[int], first_position: int, device: torch.device
) -> Padded:
    """Return windows as one rectangle, each filled up with its own first token."""
    rows = [store.window(number) for number in windows]
    lengths = np.array([[len(row)] for row in rows])
    place = np.arange(lengths.max())
    ids = np.repeat(np.array([[row[0]] for row in rows], dtype=np.int64), len(place), axis=1)
    ids[place < lengths] = np.concatenate(rows)
    carries = (place < lengths) & (place >= first_position)
    return Padded(torch.from_numpy(ids).to(device), torch.from_numpy(carries).to(device))


def by_length(
    store: TokenStore, windows: NDArray[np.int64], batch_tokens: int
) -> Iterator[NDArray[np.int64]]:
    """Yield groups of windows of similar length, at most ``batch_tokens`` with their padding."""
    lengths = store.lengths[windows]
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        longest = max(int(lengths[order[start]]), 1)
        stop = start + max(1, batch_tokens // longest)
        yield windows[order[start:stop]]
        start = stop


class CorpusSource:
    """Shards of at most ``shard_tokens`` tokens, from windows shuffled anew in each pass.

    ``windows`` are the ones to train on. A shard's activations are collected in one buffer of
    ``dtype``, shuffled, and yielded in batches of ``batch_tokens``; an incomplete last batch is
    dropped.
    """

    def __init__(
        self,
        model: Model,
        store: TokenStore,
        windows: NDArray[np.int64],
        shard_tokens: int,
        batch_tokens: int,
        seed: int,
        dtype: torch.dtype = torch.float32,
        progress: Progress | None = None,
    ) -> None:
        self.model, self.store, self.windows = model, store, windows
        self.shard_tokens, self.batch_tokens, self.seed = shard_tokens, batch_tokens, seed
        self._dtype, self._progress = dtype, progress
        layers = range(model.n_layers)
        self._reads = [model.read_hook(layer) for layer in layers]
        self._writes = [model.write_hook(layer) for layer in layers]
        self._ends = [0]
        """The end of each shard in the sequence of windows, after a leading 0."""
        self.peak_bytes = 0
        """Largest buffer so far."""

    def sequence(self, start: int, count: int) -> NDArray[np.int64]:
        """Return windows ``start`` to ``start + count`` of the endless shuffled sequence."""
        n = len(self.windows)
        parts = []
        for number in range(start // n, -(-(start + count) // n)):
            order = np.random.default_rng([self.seed, 2, number]).permutation(n)
            inside = slice(max(start - number * n, 0), min(start + count - number * n, n))
            parts.append(self.windows[order[inside]])
        return np.concatenate(parts)

    def bounds(self, number: int) -> tuple[int, int]:
        """Return the range of windows in a shard: as many as fit, at least one."""
        while len(self._ends) < number + 2:
            start = self._ends[-1]
            self._ends.append(start + self._fitting(start, self.shard_tokens))
        return self._ends[number], self._ends[number + 1]

    def _fitting(self, start: int, tokens: int) -> int:
        """Return how many windows from ``start`` fit in ``tokens``, at least 1."""
        count = 1 + int(1.5 * tokens / self.mean_tokens)
        while True:
            windows = self.sequence(start, count)
            sums = (self.store.lengths[windows] - self.model.first_position).cumsum()
            fitting = int(np.searchsorted(sums, tokens, side="right"))
            if fitting < count:
                return max(1, fitting)
            count *= 2

    def moments(self) -> Moments:
        """Measure the first windows of the sequence."""
        return Moments.of(self.examples(0, _MOMENT_TOKENS))

    def examples(self, start: int, tokens: int) -> Batch:
        """Return at most ``tokens`` examples from window ``start`` on, and at most one shard."""
        count = self._fitting(start, min(tokens, self.shard_tokens))
        return self.collect(self.sequence(start, count))

    def shard(self, number: int) -> Iterator[Batch]:
        """Yield the batches of a shard."""
        start, stop = self.bounds(number)
        buffer = self.collect(self.sequence(start, stop - start))
        n = buffer.inputs.shape[1]
        generator = torch.Generator().manual_seed(self.seed * 2**20 + number)
        order = torch.randperm(n, generator=generator).to(buffer.inputs.device)
        for start in range(0, n - self.batch_tokens + 1, self.batch_tokens):
            rows = order[start : start + self.batch_tokens]
            yield Batch(buffer.inputs[:, rows], buffer.outputs[:, rows])

    @property
    def mean_tokens(self) -> float:
        """Tokens with features in a window, on average."""
        return self.n_tokens(self.windows) / len(self.windows)

    def n_tokens(self, windows: NDArray[np.int64]) -> int:
        """Return the number of tokens with features in the windows."""
        lengths = self.store.lengths[windows] - self.model.first_position
        return int(lengths.clip(min=0).sum())

    def run(self, batch: Padded) -> tuple[Float[Tensor, "windows pos vocab"], Batch]:
        """Return the logits, and the MLPs' inputs and outputs at positions with features."""
        logits, seen = self.model.bridge.capture_batch(batch.ids, [*self._reads, *self._writes])
        return logits, Batch(
            torch.stack([seen[name][batch.carries] for name in self._reads]),
            torch.stack([seen[name][batch.carries] for name in self._writes]),
        )

    def collect(self, windows: NDArray[np.int64]) -> Batch:
        """Return every MLP's input and output at each token of ``windows`` that has features.

        Raises :class:`ModelError` if the model computes numbers that are not finite.
        """
        model = self.model
        n = self.n_tokens(windows)
        shape = (model.n_layers, n, model.bridge.d_model)
        buffer = Batch(
            torch.empty(shape, dtype=self._dtype, device=model.device),
            torch.empty(shape, dtype=self._dtype, device=model.device),
        )
        self.peak_bytes = max(self.peak_bytes, 2 * buffer.inputs.nbytes)
        done = 0
        for group in by_length(self.store, windows, _RUN_TOKENS):
            batch = padded(self.store, group.tolist(), model.first_position, model.device)
            seen = model.bridge.capture_inside(batch.ids, [*self._reads, *self._writes])
            count = int(batch.carries.sum())
            for names, room in ((self._reads, buffer.inputs), (self._writes, buffer.outputs)):
                for layer, name in enumerate(names):
                    room[layer, done : done + count] = seen[name][batch.carries]
            done += count
            if self._progress is not None:
                self._progress(done, n, "collecting activations")
        extremes = [extreme for part in buffer for extreme in part.aminmax()] if n else []
        if not all(torch.isfinite(extreme) for extreme in extremes):
            raise ModelError(
                f"{model.source.name} computes numbers that are not finite: its weights are "
                "damaged or the data type is too narrow; try dtype float32"
            )
        return buffer
