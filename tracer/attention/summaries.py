"""Answers about attention, reduced to what a page shows, so that many of them fit in memory.

A split by heads has a number for every source and head, and an explanation has a vector for every
source: hundreds of megabytes for a large model. No torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from tracer.attention.results import AttentionExplanation, Carrier, HeadSplit
from tracer.attention.sources import Source
from tracer.graph.nodes import FloatArray, IntArray
from tracer.types import NodeId

SOURCES_KEPT: Final = 400
PARTS_KEPT: Final = 24
PAIRS_KEPT: Final = 12


@dataclass(frozen=True)
class NodeHeads:
    """Which heads carried the input of one node: in total, and of its strongest sources."""

    node: NodeId
    value: float
    n_heads: int
    """Heads of a layer."""
    sources: tuple[Source, ...]
    """The strongest ones, strongest first."""
    weights: FloatArray
    """``(1 + n_sources,)``: that of the complete input first, like the rows of the next two."""
    parts: FloatArray
    """``(1 + n_sources, 1 + n_layers * n_heads)``: direct first, then the heads, layer-major."""
    hops: FloatArray
    """``(1 + n_sources, 4)``: shares of absolute weight by number of attention steps."""
    moved: FloatArray
    """``(n_layers, n_heads, n_positions)`` what each head moved from each position."""

    def row(self, source: NodeId | None) -> int | None:
        """Return the row of a source, of the complete input for None; None if it is not kept."""
        if source is None:
            return 0
        return next((1 + i for i, one in enumerate(self.sources) if one.node == source), None)

    def carried_by(self, row: int = 0) -> tuple[Carrier, ...]:
        """Return ``direct`` and the heads, the strongest first."""
        parts = self.parts[row]
        total = float(np.abs(parts).sum()) or 1.0
        carriers = []
        for column in np.argsort(-np.abs(parts), kind="stable").tolist():
            weight = float(parts[column])
            layer, head = divmod(column - 1, self.n_heads) if column else (-1, -1)
            if weight or not column:
                carriers.append(Carrier(layer, head, weight, weight / total))
        return tuple(carriers)


def node_heads(split: HeadSplit, limit: int = SOURCES_KEPT) -> NodeHeads:
    """Return the part of a split that a page shows."""
    order = np.argsort(-np.abs(split.weights), kind="stable")
    kept = order[split.weights[order] != 0][:limit]
    n_layers, n_heads, _ = split.last_head.shape
    groups: list[Sequence[int] | None] = [None, *([column] for column in kept.tolist())]
    heads = split.last_head.reshape(n_layers * n_heads, -1)
    parts = np.zeros((len(groups), 1 + n_layers * n_heads), np.float32)
    parts[0] = [split.direct.sum(), *heads.sum(axis=1)]
    parts[1:, 0], parts[1:, 1:] = split.direct[kept], heads[:, kept].T
    return NodeHeads(
        node=split.node,
        value=split.value,
        n_heads=n_heads,
        sources=tuple(split.sources[column] for column in kept.tolist()),
        weights=np.array([split.value, *split.weights[kept]], np.float32),
        parts=parts,
        hops=np.array([split.hop_shares(group) for group in groups], np.float32),
        moved=split.moved,
    )


class Part(NamedTuple):
    """What one source adds to a score."""

    source: Source
    weight: float


class PairPart(NamedTuple):
    """What a source of the query and one of the key add to a score together."""

    query: Source
    key: Source
    weight: float


@dataclass(frozen=True)
class HeadLook:
    """Why a head looks from one position at another: the strongest parts of its score."""

    layer: int
    head: int
    query: int
    key: int
    versus: int | str | None
    tokens: tuple[str, ...]
    score: float
    slope: float
    """How much the soft cap passes of a small change at this score."""
    sink: float
    """The attention weight of the head's sink."""
    pattern: FloatArray
    """``(n_positions,)`` of the query."""
    patterns: FloatArray
    """``(n_positions, n_positions)`` of all queries."""
    visible: IntArray
    """Positions that the head can look at from the query."""
    looks_for: tuple[Part, ...]
    finds: tuple[Part, ...]
    pairs: tuple[PairPart, ...]

    @property
    def label(self) -> str:
        return f"L{self.layer} H{self.head}"


def head_look(why: AttentionExplanation) -> HeadLook:
    """Return the part of an explanation that a page shows."""
    sources = why.sources
    return HeadLook(
        layer=why.layer,
        head=why.head,
        query=why.position,
        key=why.key_position,
        versus=why.versus,
        tokens=sources.tokens,
        score=why.score,
        slope=why.slope,
        sink=why.sink,
        pattern=why.pattern,
        patterns=why.patterns,
        visible=np.flatnonzero(np.isfinite(why.scores)),
        looks_for=_strongest(why, why.query),
        finds=_strongest(why, why.key),
        pairs=tuple(
            PairPart(sources[pair.query], sources[pair.key], pair.weight)
            for pair in why.pairs(PAIRS_KEPT)
        ),
    )


def _strongest(why: AttentionExplanation, weights: FloatArray) -> tuple[Part, ...]:
    order = np.argsort(-np.abs(weights), kind="stable")[:PARTS_KEPT].tolist()
    return tuple(
        Part(why.sources[column], float(weights[column])) for column in order if weights[column]
    )
