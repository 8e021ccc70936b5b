"""Which whole prefixes were met before: a set of 64-bit hashes in one array.

In a causal model an activation depends on the prefix alone, so a repeated one is the same
observation. Two different prefixes are taken for one with a chance of about ``n**2 / 2**65``.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)


def mixed(values: Hashes) -> Hashes:
    """A bijection of 64-bit numbers that leaves no pattern (the finalizer of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def prefix_hashes(token_ids: NDArray[Any]) -> Hashes:
    """``(windows, positions)``: the hash of every prefix of rows of token ids; never zero."""
    out = np.empty(token_ids.shape, np.uint64)
    running = np.full(len(token_ids), _GOLDEN)
    for position in range(token_ids.shape[1]):
        token = token_ids[:, position].astype(np.uint64) + np.uint64(1)
        running = mixed(running * np.uint64(3) + token * _GOLDEN)
        out[:, position] = np.maximum(running, np.uint64(1))
    return out


class PrefixSet:
    """Hashes that were added, up to ``capacity`` of them: 16 to 32 bytes each, in one array."""

    def __init__(self, capacity: int, hashes: Hashes | None = None) -> None:
        self.capacity = capacity
        self._count = 0
        self._table = np.zeros(2**12, np.uint64)
        if hashes is not None:
            self._insert(hashes)

    def __len__(self) -> int:
        return self._count

    def hashes(self) -> Hashes:
        """All that are kept, ascending."""
        return np.sort(self._table[self._table != 0])

    def add(self, hashes: Hashes) -> NDArray[np.bool_]:
        """Whether each of ``hashes`` is met for the first time; the first ones are remembered.

        Once the set is full a hash that is not in it counts as new every time.
        """
        distinct, first = np.unique(hashes, return_index=True)
        unknown = first[~self._holds(distinct)]
        new = np.zeros(len(hashes), bool)
        new[unknown] = True
        if len(unknown) > self.capacity - self._count:  # what is left out stays new
            kept = np.sort(unknown)[: self.capacity - self._count]
            new |= ~np.isin(hashes, hashes[kept]) & np.isin(hashes, hashes[unknown])
            unknown = kept
        self._insert(hashes[unknown])
        return new

    def _holds(self, hashes: Hashes) -> NDArray[np.bool_]:
        mask = np.uint64(len(self._table) - 1)
        slots = hashes & mask
        found = np.zeros(len(hashes), bool)
        waiting = np.arange(len(hashes))
        while len(waiting):
            there = self._table[slots[waiting]]
            found[waiting[there == hashes[waiting]]] = True
            waiting = waiting[(there != hashes[waiting]) & (there != 0)]
            slots[waiting] = (slots[waiting] + np.uint64(1)) & mask
        return found

    def _insert(self, hashes: Hashes) -> None:
        """Add distinct hashes that are not there yet."""
        while 2 * (self._count + len(hashes)) > len(self._table):
            before = self.hashes()
            self._table = np.zeros(2 * len(self._table), np.uint64)
            self._place(before)
        self._place(hashes)
        self._count += len(hashes)

    def _place(self, hashes: Hashes) -> None:
        mask = np.uint64(len(self._table) - 1)
        slots = hashes & mask
        waiting = np.arange(len(hashes))
        while len(waiting):
            free = waiting[self._table[slots[waiting]] == 0]
            self._table[slots[free]] = hashes[free]  # of several for one place, one gets it
            waiting = waiting[self._table[slots[waiting]] != hashes[waiting]]
            slots[waiting] = (slots[waiting] + np.uint64(1)) & mask
