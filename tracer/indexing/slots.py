"""A few observations of each feature in fixed memory: the strongest ones, and a random sample.

The choice depends only on the observations and their order in the corpus, never on batches.
`Strongest` and `Sample` decide which old and new observations to keep, `Slots` stores them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

REACH: Final = 24
"""Tokens on either side of an observation whose activations are kept with it."""
SAME_TOKEN: Final = 3
"""How many of the strongest observations of one token come before other tokens."""
_LOW: Final = 0x7FFFFFFF


@dataclass(frozen=True)
class BatchActivations:
    """Activations of one layer's features on a batch, and where its tokens are in the corpus."""

    activations: Float[Tensor, "tokens features"]
    first: int
    """Offset of the batch's first token in the corpus; the others follow."""
    tokens: Int[Tensor, " tokens"]
    starts: Int[Tensor, " tokens"]
    """Row at which each token's window begins."""
    stops: Int[Tensor, " tokens"]
    """Row after the end of each token's window."""

    def context(
        self, rows: Int[Tensor, " n"], features: Int[Tensor, " n"], width: int
    ) -> Float[Tensor, "n width"]:
        """Return a feature's activations from ``REACH`` tokens before each row, in its window."""
        start = torch.maximum(self.starts[rows], rows - REACH)
        columns = start[:, None] + torch.arange(width, device=rows.device)
        inside = columns < torch.minimum(self.stops[rows], rows + REACH + 1)[:, None]
        values = self.activations[columns.clamp(max=len(self.tokens) - 1), features[:, None]]
        return torch.where(inside, values, 0)


@dataclass(frozen=True)
class Observations:
    """Where features fire, and how strongly."""

    features: Int[Tensor, " n"]
    offsets: Int[Tensor, " n"]
    """Offset of the token in the corpus."""
    values: Float[Tensor, " n"]

    def take(self, chosen: Tensor) -> Observations:
        """Return the chosen observations, by index or mask."""
        return Observations(self.features[chosen], self.offsets[chosen], self.values[chosen])


class Slots:
    """``n_slots`` observations of each feature; the first ``n_windows`` with their context."""

    def __init__(
        self, n_features: int, n_slots: int, n_windows: int, width: int, device: torch.device
    ) -> None:
        self.values = torch.zeros(n_features, n_slots, device=device)
        """Zero in an empty slot."""
        self.offsets = torch.zeros(n_features, n_slots, dtype=torch.int32, device=device)
        self.windows = torch.zeros(n_features, n_windows, width, device=device)

    def of(self, features: Int[Tensor, " n"]) -> tuple[Observations, Int[Tensor, " m"]]:
        """Return the stored observations of ``features``, and the slots they are in."""
        values = self.values[features]
        row, slot = (values > 0).nonzero(as_tuple=True)
        offsets = self.offsets[features].long()
        return Observations(features[row], offsets[row, slot], values[row, slot]), slot

    def replace(
        self,
        features: Int[Tensor, " n"],
        kept: Observations,
        slots: Int[Tensor, " m"],
        before: Int[Tensor, " m"],
        batch: BatchActivations,
    ) -> None:
        """Store ``kept`` in ``slots`` instead of the old observations of ``features``.

        ``before`` is the slot that each observation was in, -1 for a new one from ``batch``.
        """
        with_window = slots < self.windows.shape[1]
        at, slot, old = kept.take(with_window), slots[with_window], before[with_window]
        new = old < 0
        windows = self.windows[at.features, old.clamp(min=0)]
        fresh = at.take(new)
        windows[new] = batch.context(fresh.offsets - batch.first, fresh.features, windows.shape[1])
        self.values[features] = 0
        self.offsets[features] = 0
        self.windows[features] = 0
        self.values[kept.features, slots] = kept.values
        self.offsets[kept.features, slots] = kept.offsets.int()
        self.windows[at.features, slot] = windows


class Strongest(Slots):
    """The strongest observations; of equal ones, the earlier.

    The slots go first to those that are among the ``SAME_TOKEN`` strongest of their token, then to
    the strongest others.
    """

    def __init__(self, n_features: int, n_slots: int, width: int, device: torch.device) -> None:
        super().__init__(n_features, n_slots, n_slots, width, device)
        self.tokens = torch.zeros(n_features, n_slots, dtype=torch.int32, device=device)
        self.floors = torch.zeros(n_features, device=device)
        """An observation must exceed this to be kept."""

    def offer(self, new: Observations, batch: BatchActivations) -> None:
        """Keep the new observations that are stronger than the old ones."""
        new = new.take(new.values > self.floors[new.features])
        features = new.features.unique()
        if not len(features):
            return
        old, slot = self.of(features)
        both = _joined(old, new)
        before = torch.cat([slot, torch.full_like(new.features, -1)])
        tokens = torch.cat(
            [self.tokens[old.features, slot].long(), batch.tokens[new.offsets - batch.first].long()]
        )
        strength = both.values.view(torch.int32).long()  # the bits of positive floats keep order
        by_strength = ((_LOW - strength) << 32 | both.offsets).argsort()
        pair = both.features << 32 | tokens
        order = by_strength[pair[by_strength].argsort(stable=True)]
        spare = torch.empty_like(order)
        spare[order] = (_ranks(pair[order]) >= SAME_TOKEN).long()
        group = both.features * 2 + spare
        order = by_strength[group[by_strength].argsort(stable=True)]
        rank = _ranks(both.features[order])
        fits = rank < self.values.shape[1]
        order, rank = order[fits], rank[fits]
        kept = both.take(order)
        self.replace(features, kept, rank, before[order], batch)
        self.tokens[features] = 0
        self.tokens[kept.features, rank] = tokens[order].int()
        last = (rank == self.values.shape[1] - 1) & (spare[order] == 0)
        self.floors[features] = 0
        self.floors[kept.features[last]] = kept.values[last]


class Sample(Slots):
    """A random sample: the observations of lowest priority, a hash of feature and offset."""

    def __init__(
        self,
        n_features: int,
        n_slots: int,
        n_windows: int,
        width: int,
        device: torch.device,
        seed: int,
    ) -> None:
        super().__init__(n_features, n_slots, n_windows, width, device)
        self.ceilings = torch.full((n_features,), 2**62, dtype=torch.int64, device=device)
        """An observation must have a priority below this to be kept."""
        self._seed = seed

    def offer(self, new: Observations, batch: BatchActivations) -> None:
        """Keep the new observations of lower priority than the old ones."""
        new = new.take(self._priority(new) < self.ceilings[new.features])
        features = new.features.unique()
        if not len(features):
            return
        old, slot = self.of(features)
        both = _joined(old, new)
        before = torch.cat([slot, torch.full_like(new.features, -1)])
        priority = self._priority(both)
        order = priority.argsort()
        order = order[both.features[order].argsort(stable=True)]
        rank = _ranks(both.features[order])
        fits = rank < self.values.shape[1]
        order, rank = order[fits], rank[fits]
        kept = both.take(order)
        self.replace(features, kept, rank, before[order], batch)
        last = rank == self.values.shape[1] - 1
        self.ceilings[kept.features[last]] = priority[order[last]]

    def _priority(self, entries: Observations) -> Int[Tensor, " n"]:
        """Return hashes below 2**62 of feature, offset and seed."""
        mixed = _mixed(entries.features + (self._seed + 1) * 2**32)
        return _mixed(mixed ^ entries.offsets) & (2**62 - 1)


def _joined(old: Observations, new: Observations) -> Observations:
    return Observations(
        torch.cat([old.features, new.features]),
        torch.cat([old.offsets, new.offsets]),
        torch.cat([old.values, new.values]),
    )


def _ranks(keys: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Return the rank of each key in its run of equal keys.

    >>> _ranks(torch.tensor([4, 4, 4, 7, 7])).tolist()
    [0, 1, 2, 0, 1]
    """
    place = torch.arange(len(keys), device=keys.device)
    begins = torch.ones_like(keys, dtype=torch.bool)
    begins[1:] = keys[1:] != keys[:-1]
    return place - torch.where(begins, place, 0).cummax(0).values


def _mixed(values: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Mix the bits of 64-bit numbers (the finalizer of splitmix64, on wrapping signed numbers)."""
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        values = (values ^ _shifted(values, shift)) * factor
    return values ^ _shifted(values, 31)


def _shifted(values: Int[Tensor, " n"], by: int) -> Int[Tensor, " n"]:
    return values >> by & (1 << 64 - by) - 1
