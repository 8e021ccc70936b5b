"""`EdgeHeads`: every edge of a pruned graph by the attention head that carried it. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from tracer.graph.nodes import FloatArray, IntArray, NodeIndex

HABIT: Final = 0.5
"""A head has a habit if it spends at least this share of its attention on it."""


class Habit(NamedTuple):
    """Where a head looks on one prompt, as mean shares of its attention.

    NaN where the prompt does not tell: a prompt without repeated tokens has no duplicates.
    """

    first: float
    """On the first token, where heads rest that have nothing to move."""
    itself: float
    """On the query's own position."""
    previous: float
    """On the token before the query's."""
    duplicate: float
    """On earlier occurrences of the query's token."""
    induction: float
    """On tokens that follow an earlier occurrence of the query's token."""

    @property
    def name(self) -> str:
        """The field with the largest share, if it is at least :data:`HABIT`; else empty.

        >>> Habit(0.1, 0.05, 0.8, float("nan"), float("nan")).name
        'previous'
        """
        known = {field: share for field, share in self._asdict().items() if share == share}
        strongest = max(known, key=lambda field: known[field], default="")
        return strongest if strongest and known[strongest] >= HABIT else ""


def habit_of(pattern: FloatArray, token_ids: tuple[int, ...]) -> Habit:
    """Return where a head looks, from its pattern ``(query, key)``.

    The first token's own query is left out: it has nowhere else to look.

    >>> habit_of(np.eye(4, k=-1), (1, 5, 6, 5))  # looks at the token before
    Habit(first=0.333..., itself=0.0, previous=1.0, duplicate=0.0, induction=1.0)
    """
    n = len(token_ids)
    ids = np.asarray(token_ids)
    before = np.arange(n)[:, None] > np.arange(n)[None, :]
    same = np.logical_and(ids[:, None] == ids[None, :], before)
    after = np.zeros((n, n), bool)
    after[:, 1:] = same[:, :-1]
    after &= before
    parts = []
    previous = np.eye(n, k=-1, dtype=bool)
    first = np.zeros((n, n), bool)
    first[:, 0] = True
    for looked in (first, np.eye(n, dtype=bool), previous, same, after):
        queries = np.asarray(looked.any(axis=1))
        queries[0] = False
        shares = np.where(looked, pattern, 0).sum(axis=1)[queries]
        parts.append(float(shares.mean()) if len(shares) else float("nan"))
    return Habit(*parts)


class HeadWork(NamedTuple):
    """What one head carries in a pruned graph."""

    layer: int
    head: int
    carried: float
    """Sum of the absolute weights that it carried, over all edges."""
    share: float
    """``carried`` as a share of that of direct effects and all heads."""
    edges: int
    """Edges of which it carried more than half of the absolute weight."""
    origin: int
    """Position that it carried most from: the sources' positions, by absolute weight."""
    destination: int
    """Position of the targets that it carried this to."""
    habit: Habit

    @property
    def label(self) -> str:
        return f"L{self.layer} H{self.head}"


@dataclass(frozen=True)
class EdgeHeads:
    """The edges of a pruned graph, each split by the last head of its paths.

    ``direct`` and ``heads`` sum to ``weights``.
    """

    index: NodeIndex
    """Of the graph."""
    sources: IntArray
    """``(n_edges,)`` rows of the graph, like ``targets``."""
    targets: IntArray
    weights: FloatArray
    direct: FloatArray
    """``(n_edges,)`` what came without attention."""
    heads: FloatArray
    """``(n_edges, n_layers, n_heads)`` what came through attention, by the head nearest to the
    target."""
    habits: tuple[tuple[Habit, ...], ...]
    """By layer and head."""
    n_left_out: int = 0
    """Kept targets of the graph whose edges are not here, because there were too many."""

    def carrier(self, edge: int) -> tuple[int, int] | None:
        """Return the head that carried more than half of an edge's absolute weight, or None."""
        parts = np.abs(self.heads[edge])
        layer, head = np.unravel_index(int(parts.argmax()), parts.shape)
        total = abs(float(self.direct[edge])) + float(parts.sum())
        return (int(layer), int(head)) if parts[layer, head] > total / 2 else None

    def edges_of(self, layer: int, head: int) -> IntArray:
        """Return the edges of which a head carried anything, the strongest first."""
        carried = np.abs(self.heads[:, layer, head])
        order = np.argsort(-carried, kind="stable")
        return np.asarray(order[carried[order] > 0])

    def work(self) -> tuple[HeadWork, ...]:
        """Return what every head carries, the one that carries most first."""
        sizes = np.abs(self.heads)
        total = float(sizes.sum() + np.abs(self.direct).sum()) or 1.0
        carriers = [self.carrier(edge) for edge in range(len(self.weights))]
        places = np.array([self.index.node(row).position for row in range(len(self.index))])
        ends = np.stack([places[self.sources], places[self.targets]], axis=1)
        rows = []
        for layer, habits in enumerate(self.habits):
            for head, habit in enumerate(habits):
                size = sizes[:, layer, head]
                origin, destination = _heaviest(ends, size)
                carried = float(size.sum())
                rows.append(
                    HeadWork(
                        layer, head, carried, carried / total,
                        carriers.count((layer, head)), origin, destination, habit,
                    )
                )  # fmt: skip
        return tuple(sorted(rows, key=lambda row: (-row.carried, row.layer, row.head)))


def _heaviest(ends: IntArray, sizes: FloatArray) -> tuple[int, int]:
    """Return the pair of ends with the largest sum of sizes; -1 where nothing was carried."""
    if not len(sizes) or not float(sizes.sum()):
        return -1, -1
    pairs, number = np.unique(ends, axis=0, return_inverse=True)
    origin, destination = pairs[np.bincount(number.ravel(), sizes).argmax()]
    return int(origin), int(destination)
