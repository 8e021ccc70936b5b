"""The answers about attention as plain values: no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from tracer.attention.sources import Sources
from tracer.graph.nodes import FloatArray
from tracer.types import NodeId


class Carrier(NamedTuple):
    """A share of an edge, or of a node's input, and the head that carried it."""

    layer: int
    """-1, like ``head``, for what attention did not move at all."""
    head: int
    weight: float
    """Signed; the weights of all carriers add up to that of the edge."""
    share: float
    """``weight`` divided by the sum of the absolute weights of all carriers."""

    @property
    def is_direct(self) -> bool:
        return self.head < 0

    @property
    def label(self) -> str:
        """The head as the page and the command line name it."""
        return "direct" if self.is_direct else f"L{self.layer} H{self.head}"


@dataclass(frozen=True)
class HeadSplit:
    """The input of one node, split by the attention heads that carried it, in three exact ways.

    Columns are ``sources``. Summed over everything but the sources, each split is ``weights``, the
    node's row; the sum of the row is ``value``.
    """

    node: NodeId
    sources: Sources
    weights: FloatArray
    """``(n_sources,)`` what each source adds to the node."""
    value: float
    """What the node's sources add up to: the pre-activation of a feature, a logit minus the mean
    logit."""
    direct: FloatArray
    """``(n_sources,)`` what reaches the node without attention."""
    last_head: FloatArray
    """``(n_layers, n_heads, n_sources)`` by the head nearest to the node. With ``direct`` it sums
    to ``weights``."""
    first_head: FloatArray
    """``(n_layers, n_heads, n_sources)`` by the head nearest to the source. With ``direct`` it sums
    to ``weights``."""
    hops: FloatArray
    """``(4, n_sources)`` by the number of attention steps: 0, 1, 2, and 3 or more."""
    moved: FloatArray
    """``(n_layers, n_heads, n_positions)`` what the last head moved from each position, summed over
    all sources."""

    def carried_by(self, sources: Sequence[int] | None = None) -> tuple[Carrier, ...]:
        """Return ``direct`` and the last heads, the strongest first.

        ``sources`` are columns, for example that of one edge; None takes the complete input.
        """
        columns = slice(None) if sources is None else np.asarray(sources, np.int64)
        direct = float(self.direct[columns].sum())
        heads = self.last_head[:, :, columns].sum(axis=2)
        total = abs(direct) + float(np.abs(heads).sum()) or 1.0
        carriers = [Carrier(-1, -1, direct, direct / total)]
        for layer, head in np.argwhere(heads != 0).tolist():
            weight = float(heads[layer, head])
            carriers.append(Carrier(layer, head, weight, weight / total))
        return tuple(sorted(carriers, key=lambda carrier: -abs(carrier.weight)))

    def hop_shares(self, sources: Sequence[int] | None = None) -> tuple[float, float, float, float]:
        """Return the share of absolute weight that took 0, 1, 2, and 3 or more attention steps."""
        columns = slice(None) if sources is None else np.asarray(sources, np.int64)
        steps = np.abs(self.hops[:, columns]).sum(axis=1)
        zero, one, two, more = (float(step) for step in steps / (steps.sum() or 1.0))
        return zero, one, two, more

    def from_positions(self, layer: int, head: int) -> FloatArray:
        """Return ``(n_positions,)`` what a last head moved from each position."""
        return np.asarray(self.moved[layer, head])


class HeadPath(NamedTuple):
    """One path of an edge: the heads it passed, from the source up, and what came along it."""

    heads: tuple[tuple[int, int], ...]
    """Layer and head of every attention step; empty for the path without any."""
    weight: float

    @property
    def label(self) -> str:
        """The path in words: ``L1 H3 → L4 H0``."""
        return " → ".join(f"L{layer} H{head}" for layer, head in self.heads) or "direct"


@dataclass(frozen=True)
class EdgePaths:
    """The strongest paths of one edge, and how much of it they are."""

    source: NodeId
    target: NodeId
    weight: float
    """Of the edge: the sum of all its paths."""
    paths: tuple[HeadPath, ...]
    """The strongest first."""
    positions: FloatArray
    """``(n_layers, n_heads, n_positions)`` what the last head moved from each position."""

    @property
    def found(self) -> float:
        """The sum of the found paths' weights."""
        return sum(path.weight for path in self.paths)

    @property
    def share_found(self) -> float:
        """1 minus what is missing, as a share of the edge; 1 if all of it was found."""
        return 1 - abs(self.weight - self.found) / (abs(self.weight) or 1.0)


class Pair(NamedTuple):
    """A source that the query reads, one that the key reads, and what they add to the score."""

    query: int
    """Column of the source on the query side."""
    key: int
    """Column of the source on the key side."""
    weight: float


@dataclass(frozen=True)
class AttentionExplanation:
    """Why one head looks from one position at another: its score as a sum over pairs of sources.

    ``score`` is the sum of all pairs, of ``query``, and of ``key``. Without ``versus`` it is the
    attention score after the soft cap; with ``versus`` another position it is the difference of two
    scores, which is the log ratio of their attention weights.
    """

    layer: int
    head: int
    position: int
    """Of the query."""
    key_position: int
    versus: int | str | None
    """The other key position, ``"rest"``, ``"sink"``, or None."""
    sources: Sources
    score: float
    scores: FloatArray
    """``(n_positions,)`` the scores of all keys of this query; NaN where the head cannot look."""
    pattern: FloatArray
    """``(n_positions,)`` the attention weights of this query."""
    patterns: FloatArray
    """``(n_positions, n_positions)`` the attention weights of all queries, by query and key."""
    slope: float
    """How much the soft cap passes of a small change at this score: 1 without a cap."""
    query: FloatArray
    """``(n_sources,)`` what each source adds on the query's side: what the head looks for."""
    key: FloatArray
    """``(n_sources,)`` what each source adds on the key's side: what it found."""
    query_vectors: FloatArray
    """``(n_sources, d_head)``: products with ``key_vectors`` are the pairs."""
    key_vectors: FloatArray
    """``(n_sources, d_head)``, scaling and soft cap included."""
    constant: float = 0.0
    """What a sink adds to a difference of scores; part of the pair of both biases."""
    sink: float = 0.0
    """The attention weight of the head's sink (GPT-OSS)."""

    @property
    def query_bias(self) -> float:
        """What the biases add on the query's side: the last entry of ``query``."""
        return float(self.query[-1])

    @property
    def key_bias(self) -> float:
        """What the biases add on the key's side: the last entry of ``key``."""
        return float(self.key[-1])

    def pair_matrix(self) -> FloatArray:
        """Return ``(n_sources, n_sources)`` what every pair adds: rows are the query's sources."""
        matrix: FloatArray = self.query_vectors @ self.key_vectors.T
        matrix[-1, -1] += self.constant
        return matrix

    def pair(self, query: int, key: int) -> float:
        """Return what one pair of columns adds to the score."""
        last = len(self.sources) - 1
        constant = self.constant if query == key == last else 0.0
        return float(self.query_vectors[query] @ self.key_vectors[key]) + constant

    def pairs(self, k: int = 10) -> tuple[Pair, ...]:
        """Return the ``k`` pairs that add or take away most, exactly, the strongest first.

        Not all pairs are formed: sources are sorted by the length of their vectors, which bounds
        their products.
        """
        rows, columns = self._by_length
        lengths = np.linalg.norm(self.query_vectors, axis=1)[rows]
        others = np.linalg.norm(self.key_vectors, axis=1)[columns]
        keys = self.key_vectors[columns]
        last = len(self.sources) - 1
        best = [Pair(last, last, self.pair(last, last))]
        for place, row in enumerate(rows.tolist()):
            limit = abs(best[-1].weight) if len(best) >= k else 0.0
            stop = int(np.searchsorted(-others * lengths[place], -limit, side="right"))
            if not stop:
                break
            products = keys[:stop] @ self.query_vectors[row]
            strongest = np.argsort(-np.abs(products), kind="stable")[: k + 1]
            best += [
                Pair(row, int(columns[one]), float(products[one]))
                for one in strongest
                if (row, int(columns[one])) != (last, last)
            ]
            best = sorted(best, key=lambda pair: (-abs(pair.weight), pair.query, pair.key))[:k]
        return tuple(pair for pair in best if pair.weight)

    @cached_property
    def _by_length(self) -> tuple[np.ndarray, np.ndarray]:
        return tuple(  # type: ignore[return-value]
            np.argsort(-np.linalg.norm(vectors, axis=1), kind="stable")
            for vectors in (self.query_vectors, self.key_vectors)
        )

    def grouped(self, groups: Sequence[Sequence[int]]) -> FloatArray:
        """Return ``(n_groups, n_groups)`` the sums of all pairs between groups of columns.

        Exact, and without forming the pairs: vectors are added up first.
        """
        ends = np.zeros((len(groups), len(self.sources)), self.query_vectors.dtype)
        for number, columns in enumerate(groups):
            ends[number, list(columns)] = 1
        sums: FloatArray = (ends @ self.query_vectors) @ (ends @ self.key_vectors).T
        sums += self.constant * np.outer(ends[:, -1], ends[:, -1])
        return sums

    def components(self) -> FloatArray:
        """Return what each of ``d_head`` independent components adds, the strongest first.

        They are the singular vectors of the matrix of pairs. A few of them can be most of the
        score; nothing guarantees it.
        """
        left, right = np.linalg.qr(self.query_vectors), np.linalg.qr(self.key_vectors)
        u, sigma, vt = np.linalg.svd(left.R @ right.R.T)
        added = sigma * (left.Q.sum(axis=0) @ u) * (vt @ right.Q.sum(axis=0))
        return np.asarray(added[np.argsort(-np.abs(added))])
