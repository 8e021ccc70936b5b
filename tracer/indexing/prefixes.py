"""Recognise repeated prefixes: a set of 64-bit hashes in one array.

In a causal model an activation depends on the prefix alone, so a repeated prefix is the same
observation. Two of ``n`` prefixes share a hash with a probability of about ``n**2 / 2**65``.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)


def mixed(values: Hashes) -> Hashes:
    """Mix the bits of 64-bit numbers, one to one (the finalizer of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def prefix_hashes(token_ids: NDArray[Any]) -> Hashes:
    """Return ``(windows, positions)`` hashes of the prefixes of rows of token ids; never zero."""
    out = np.empty(token_ids.shape, np.uint64)
    running = np.full(len(token_ids), _GOLDEN)
    for position in range(token_ids.shape[1]):
        token = token_ids[:, position].astype(np.uint64) + np.uint64(1)
        running = mixed(running * np.uint64(3) + token * _GOLDEN)
        out[:, position] = np.maximum(running, np.uint64(1))
    return out


class PrefixSet:
    """A set of at most ``capacity`` hashes, 16 to 32 bytes each, in one open-addressed table."""

    def __init__(self, capacity: int, hashes: Hashes | None = None) -> None:
        self.capacity = capacity
        self._count = 0
        self._table = np.zeros(2**12, np.uint64)
        if hashes is not None:
            self._insert(hashes)

    def __len__(self) -> int:
        return self._count

    def hashes(self) -> Hashes:
        """Return all hashes in the set, ascending."""
        return np.sort(self._table[self._table != 0])

    def add(self, hashes: Hashes) -> NDArray[np.bool_]:
        """Add hashes; return which of them are new. A hash that occurs twice is new once.

        Once the set is full, a hash that is not in it counts as new every time.
        """
        distinct, first = np.unique(hashes, return_index=True)
        unknown = first[~self._contains(distinct)]
        new = np.zeros(len(hashes), bool)
        new[unknown] = True
        if len(unknown) > self.capacity - self._count:  # those that do not fit remain new
            kept = np.sort(unknown)[: self.capacity - self._count]
            new |= ~np.isin(hashes, hashes[kept]) & np.isin(hashes, hashes[unknown])
            unknown = kept
        self._insert(hashes[unknown])
        return new

    def _contains(self, hashes: Hashes) -> NDArray[np.bool_]:
        mask = np.uint64(len(self._table) - 1)
        slots = hashes & mask
        found = np.zeros(len(hashes), bool)
        waiting = np.arange(len(hashes))
        while len(waiting):
            present = self._table[slots[waiting]]
            found[waiting[present == hashes[waiting]]] = True
            waiting = waiting[(present != hashes[waiting]) & (present != 0)]
            slots[waiting] = (slots[waiting] + np.uint64(1)) & mask
        return found

    def _insert(self, hashes: Hashes) -> None:
        """Add distinct hashes that are not in the set."""
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
            self._table[slots[free]] = hashes[free]  # if several want one slot, the last gets it
            waiting = waiting[self._table[slots[waiting]] != hashes[waiting]]
            slots[waiting] = (slots[waiting] + np.uint64(1)) & mask
