"""Rows of direct effects as they are computed: kept sparse, and ranked by influence."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tracer.errors import MemoryLimitError
from tracer.files import format_bytes
from tracer.graph.nodes import FloatArray, IntArray

RANKING_EPSILON: Final = 1e-8
_ENTRIES_AT_ONCE: Final = 2**22
"""Bounds the memory of making rows sparse."""
_CLASSES: Final = 2**15
"""Classes of magnitude: what is left of a float32 without its sign and its last 16 bits."""


@dataclass(frozen=True)
class _CsrBlock:
    """Some rows of targets of one layer, as CSR; on the CPU."""

    targets: Int[Tensor, " rows"]
    counts: Int[Tensor, " rows"]
    columns: Int[Tensor, " entries"]
    weights: Float[Tensor, " entries"]
    totals: Float[Tensor, " rows"]
    """Sums of absolute weights, of what was left out too."""

    def propagate(self, influence: Float[Tensor, " rows"], to: Float[Tensor, " sources"]) -> None:
        """Spread the influence of the rows over their sources, in place, by absolute weight."""
        scale = influence / self.totals.clamp(min=RANKING_EPSILON)
        to.index_add_(0, self.columns, self.weights.abs() * scale.repeat_interleave(self.counts))


class EdgeRows:
    """All rows known so far. Targets and sources go by the columns of :class:`SourceVectors`.

    With ``share`` below 1 a row keeps its strongest entries, no fewer than carry that share of its
    absolute weight; ``dropped`` is the largest share that any row lost. Adding rows raises
    :class:`MemoryLimitError` once they take more than ``limit`` bytes.
    """

    def __init__(self, n_sources: int, share: float = 1.0, limit: int | None = None) -> None:
        self._share, self._limit = share, limit
        self.n_bytes = self.n_rows = 0
        self._targets: list[_CsrBlock] = []
        self._by_layer: dict[int, list[_CsrBlock]] = defaultdict(list)
        self._from_targets = torch.zeros(n_sources)
        self.dropped = 0.0

    def add_targets(
        self,
        targets: Int[Tensor, " rows"],
        effects: Float[Tensor, "rows sources"],
        probabilities: Float[Tensor, " rows"],
    ) -> None:
        """Keep rows of the graph's own targets: influence starts there, by probability."""
        for part, piece in self._pieces(targets, effects):
            self._targets.append(piece)
            piece.propagate(probabilities[part].cpu(), self._from_targets)

    def add_features(
        self,
        targets: Int[Tensor, " rows"],
        layers: Sequence[int],
        effects: Float[Tensor, "rows sources"],
    ) -> None:
        """Keep rows of features; ``layers`` of the targets, equal ones beside each other."""
        start = 0
        for end in range(1, len(layers) + 1):
            if end == len(layers) or layers[end] != layers[start]:
                part = slice(start, end)
                for _, piece in self._pieces(targets[part], effects[part]):
                    self._by_layer[layers[start]].append(piece)
                start = end

    def _pieces(self, targets: Tensor, effects: Tensor) -> Iterator[tuple[slice, _CsrBlock]]:
        step = max(1, _ENTRIES_AT_ONCE // effects.shape[1])
        for start in range(0, len(targets), step):
            part = slice(start, start + step)
            yield part, self._sparse(targets[part], effects[part])

    def _sparse(self, targets: Tensor, effects: Tensor) -> _CsrBlock:
        if effects.device.type == "mps":  # has no float64, and shares the CPU's memory
            effects = effects.cpu()
        effects = effects.contiguous()
        n_rows, n_sources = effects.shape
        totals = torch.linalg.vector_norm(effects, 1, dim=1)
        if self._share < 1:
            magnitude = effects.abs()
            effects = effects * (magnitude >= _smallest_kept(magnitude, self._share)[:, None])
            kept = torch.linalg.vector_norm(effects, 1, dim=1) / totals.clamp(min=RANKING_EPSILON)
            self.dropped = max(self.dropped, float((1 - kept)[totals > 0].amax()))
        flat = effects.view(-1)
        entries = flat.nonzero()[:, 0]
        starts = torch.arange(n_rows + 1, device=flat.device) * n_sources
        counts = torch.searchsorted(entries, starts).diff()
        columns = entries - starts[:-1].repeat_interleave(counts)
        piece = _CsrBlock(
            targets=targets.cpu(),
            counts=counts.cpu(),
            columns=columns.to(torch.int32).cpu(),
            weights=flat[entries].cpu(),
            totals=totals.cpu(),
        )
        self.n_bytes += piece.columns.nbytes + piece.weights.nbytes
        self.n_rows += len(targets)
        if self._limit is not None and self.n_bytes > self._limit:
            raise MemoryLimitError(
                f"{self.n_rows:,} rows of direct effects already take "
                f"{format_bytes(self.n_bytes)}, all that may be used: set max_features to "
                f"{self.n_rows // 2:,} or less"
            )
        return piece

    def influence(self) -> Float[Tensor, " sources"]:
        """Influence of every source on the targets, over all paths through the rows known so far.

        Effects only come from lower layers, so one pass from the highest layer down sees every
        path: a ranking costs as much as reading the rows once, however deep the model is.
        """
        influence = self._from_targets.clone()
        for layer in sorted(self._by_layer, reverse=True):
            for piece in self._by_layer[layer]:
                piece.propagate(influence[piece.targets], influence)
        return influence

    def to_csr(self, row_of: IntArray) -> tuple[IntArray, IntArray, FloatArray]:
        """``(indptr, sources, weights)`` of all rows, as CSR rows of the graph; empties itself.

        ``row_of`` renumbers targets and sources, -1 for sources that are dropped; it keeps their
        order, so that a row's entries stay sorted and only whole rows have to be moved.
        """
        kept, counts = [], np.zeros(int(row_of.max()) + 1, np.int64)
        for pieces in (self._targets, *self._by_layer.values()):
            while pieces:
                piece = pieces.pop()
                sources = row_of[piece.columns.numpy()]
                chosen = sources >= 0
                before = np.concatenate([[0], np.cumsum(chosen)])
                ends = np.cumsum(piece.counts.numpy())
                targets = row_of[piece.targets.numpy()]
                counts[targets] = before[ends] - before[ends - piece.counts.numpy()]
                kept.append((targets, sources[chosen], piece.weights.numpy()[chosen]))
        indptr = np.concatenate([[0], np.cumsum(counts)])
        in_order = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.float32)
        for targets, *entries in kept:
            # Where each entry goes: its row's start, and its place within the row.
            length = counts[targets]
            offset = indptr[targets] - (np.cumsum(length) - length)
            place = np.repeat(offset, length) + np.arange(length.sum())
            for whole, part in zip(in_order, entries, strict=True):
                whole[place] = part
        return indptr, *in_order


def _smallest_kept(
    magnitude: Float[Tensor, "rows sources"], share: float
) -> Float[Tensor, " rows"]:
    """The magnitude from which on entries of a row carry at least ``share`` of its sum.

    Entries are put into classes by the leading bits of their floating-point number, which order
    them: no sort of a million entries is needed, and a class is kept or dropped as a whole.
    """
    classes = magnitude.contiguous().view(torch.int32) >> 16
    mass = torch.zeros(len(magnitude), _CLASSES, dtype=torch.float64, device=magnitude.device)
    mass.scatter_add_(1, classes.long(), magnitude.double())
    from_above = mass.flip(1).cumsum(1)
    enough = from_above >= from_above[:, -1:] * share
    lowest = _CLASSES - 1 - enough.int().argmax(dim=1)
    return (lowest << 16).to(torch.int32).view(torch.float32)
