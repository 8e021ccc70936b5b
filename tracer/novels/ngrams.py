"""A baseline for the language model: n-grams with interpolated Kneser-Ney smoothing.

Every row begins with the beginning-of-text token, as the model's windows do, and no n-gram crosses
the border of two rows. An n-gram of the highest order counts as often as it occurs; a shorter one
as often as there are different tokens before it, unless it begins a row, where nothing is before it
(Kneser and Ney, 1995; Chen and Goodman, 1998, section 2.7).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tracer.errors import CorpusError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
ORDER: Final = 4
_USUAL_DISCOUNT: Final = 0.75
"""For counts too few to estimate it from."""


@dataclass(frozen=True)
class _Table:
    """The n-grams of one order: the tokens of each as one number, the last token lowest."""

    grams: Ints
    """Sorted."""
    counts: Ints
    contexts: Ints
    """Sorted: the n-grams without their last token."""
    totals: Ints
    """Sum of the counts after each context."""
    followers: Ints
    """Number of different tokens after each context."""
    discount: float


class NGrams:
    """A smoothed n-gram model over token ids ``0`` to ``n_tokens - 1``."""

    def __init__(self, rows: Sequence[Sequence[int]], n_tokens: int, order: int = ORDER) -> None:
        """Count ``rows``, each of which begins with the beginning-of-text token.

        Raises :class:`CorpusError` when there is nothing to count, or when an n-gram of this order
        does not fit in 63 bits.
        """
        if order < 1 or n_tokens**order >= 2**63:
            raise CorpusError(
                f"n-grams of order {order} over {n_tokens:,} tokens do not fit in 63 bits: lower "
                "the order"
            )
        if not any(len(row) > 1 for row in rows):
            raise CorpusError("there is no n-gram to count: give rows of at least two tokens")
        self.n_tokens, self.order = n_tokens, order
        ids, places = _flat(rows)
        occurring = [self._grams(ids, places, n) for n in range(1, order + 1)]
        self._tables = []
        for n in range(1, order + 1):
            if n == order:
                counted = occurring[n - 1]
            else:
                longer = np.unique(occurring[n]) % n_tokens**n  # one for each token before it
                begins_row = self._grams(ids, places, n, only_at_start=True)
                counted = np.concatenate([longer, begins_row])
            self._tables.append(_count(counted, n_tokens))

    def _grams(self, ids: Ints, places: Ints, n: int, only_at_start: bool = False) -> Ints:
        """Return every n-gram that ends in a token that is predicted, as a number."""
        inside = places == n - 1 if only_at_start else places >= n - 1
        ends = np.flatnonzero(inside & (places > 0))
        grams = np.zeros(len(ends), np.int64)
        for back in range(n - 1, -1, -1):
            grams = grams * self.n_tokens + ids[ends - back]
        return grams

    def probabilities(self, context: Sequence[int]) -> Floats:
        """Return the probability of every token after ``context``; they sum to 1."""
        row = [*context, 0]
        tokens = np.arange(self.n_tokens, dtype=np.int64)
        result = np.full(self.n_tokens, 1 / self.n_tokens)
        for n in range(1, min(self.order, len(row)) + 1):
            before = 0
            for token in row[len(row) - n : -1]:
                before = before * self.n_tokens + token
            result = self._interpolate(n, before * self.n_tokens + tokens, result)
        return result

    def loss(self, rows: Sequence[Sequence[int]]) -> float:
        """Return the mean loss over all tokens of ``rows`` but the first of each, in nats."""
        ids, places = _flat(rows)
        predicted = np.flatnonzero(places > 0)
        if not len(predicted):
            raise CorpusError("there is no token to predict: give rows of at least two tokens")
        probability = np.full(len(ids), 1 / self.n_tokens)
        for n in range(1, self.order + 1):
            ends = np.flatnonzero((places >= n - 1) & (places > 0))
            grams = self._grams(ids, places, n)
            probability[ends] = self._interpolate(n, grams, probability[ends])
        return float(-np.log(probability[predicted]).mean())

    def _interpolate(self, n: int, grams: Ints, shorter: Floats) -> Floats:
        """Return the probabilities at order ``n``, given those at the order below."""
        table = self._tables[n - 1]
        count = _look_up(table.grams, table.counts, grams)
        context = grams // self.n_tokens
        total = _look_up(table.contexts, table.totals, context)
        followers = _look_up(table.contexts, table.followers, context)
        known = np.maximum(count - table.discount, 0) + table.discount * followers * shorter
        return np.where(total > 0, known / np.maximum(total, 1), shorter)


def _flat(rows: Sequence[Sequence[int]]) -> tuple[Ints, Ints]:
    """Return all tokens in one array, and the place of each in its row."""
    lengths = np.array([len(row) for row in rows], np.int64)
    ids = np.fromiter((token for row in rows for token in row), np.int64, int(lengths.sum()))
    starts = lengths.cumsum() - lengths
    return ids, np.arange(len(ids)) - starts.repeat(lengths)


def _count(occurrences: Ints, n_tokens: int) -> _Table:
    grams, counts = np.unique(occurrences, return_counts=True)
    contexts, first, followers = np.unique(grams // n_tokens, return_index=True, return_counts=True)
    totals = np.add.reduceat(counts, first) if len(first) else counts
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    discount = once / (once + 2 * twice) if once and twice else _USUAL_DISCOUNT
    return _Table(grams, counts, contexts, totals, followers, discount)


def _look_up(keys: Ints, values: Ints, wanted: Ints) -> Ints:
    """Return the value of each wanted key, 0 for those that are missing."""
    if not len(keys):
        return np.zeros(len(wanted), np.int64)
    place = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)
