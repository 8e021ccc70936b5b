"""Rows of direct effects as they are computed: stored sparse, and ranked by influence."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tracer.attribution.host_copies import HostCopies
from tracer.errors import MemoryLimitError
from tracer.files import format_bytes
from tracer.graph.nodes import FloatArray, IntArray

RANKING_EPSILON: Final = 1e-8
ENTRIES_AT_ONCE: Final = 2**22
"""Bounds the memory of making rows sparse."""
BYTES_PER_ENTRY: Final = 32
"""Memory of making rows sparse, for every entry of the rows."""
_SHIFT: Final = 40
"""Sums of magnitudes are exact to ``2**-40`` of a row's largest one."""
_CLASSES: Final = 128 * _SHIFT + 1
"""Classes of magnitude: 128 to every power of two, and one for all that are smaller."""


@dataclass(frozen=True)
class _CsrBlock:
    """Some rows as CSR."""

    targets: Int[Tensor, " rows"]
    counts: Int[Tensor, " rows"]
    totals: Float[Tensor, " rows"]
    """Sums of absolute weights, including those that were left out."""
    carried: Float[Tensor, " rows"]
    """Sums of the absolute weights that are in the row."""
    columns: Int[Tensor, " entries"]
    weights: Float[Tensor, " entries"]

    def propagate(self, influence: Float[Tensor, " rows"], to: Float[Tensor, " sources"]) -> None:
        """Spread the influence of the rows over their sources, in place, by absolute weight."""
        scale = influence / self.totals.clamp(min=RANKING_EPSILON)
        spread = scale.repeat_interleave(self.counts, output_size=len(self.columns))
        to.index_add_(0, self.columns, self.weights.abs() * spread)

    def part(self, rows: slice, entries: slice) -> _CsrBlock:
        """Return some rows, whose entries are ``entries``, as views."""
        return _CsrBlock(
            targets=self.targets[rows],
            counts=self.counts[rows],
            totals=self.totals[rows],
            carried=self.carried[rows],
            columns=self.columns[entries],
            weights=self.weights[entries],
        )

    def packed(self) -> Int[Tensor, " words"]:
        """Return all but the targets as one array of 32-bit words, which one copy can move."""
        parts = (self.counts, self.totals, self.carried, self.columns, self.weights)
        return torch.cat([part.view(torch.int32) for part in parts])

    @classmethod
    def unpacked(cls, targets: Tensor, packed: Int[Tensor, " words"]) -> _CsrBlock:
        """The inverse of :meth:`packed`."""
        n_rows = len(targets)
        n_entries = (len(packed) - 3 * n_rows) // 2
        sizes = (n_rows, n_rows, n_rows, n_entries, n_entries)
        counts, totals, carried, columns, weights = packed.split(sizes)
        totals, carried, weights = (part.view(torch.float32) for part in (totals, carried, weights))
        return cls(targets, counts, totals, carried, columns, weights)


@dataclass
class _Stored:
    """A block on the CPU, once it has arrived there, and perhaps a copy on the device."""

    on_device: _CsrBlock | None = None
    _host: _CsrBlock | None = None
    _starts: IntArray | None = None
    """First entry of every row, and the end."""

    def arrive(self, block: _CsrBlock) -> None:
        self._host = block
        self._starts = np.concatenate([[0], np.cumsum(block.counts.numpy(), dtype=np.int64)])

    @property
    def host(self) -> _CsrBlock:
        assert self._host is not None, "wait for the copies first"
        return self._host

    def rows(self, part: slice, on_device: bool) -> _CsrBlock:
        """Return consecutive rows of the block."""
        block = self.on_device if on_device else self.host
        assert block is not None and self._starts is not None
        return block.part(part, slice(int(self._starts[part.start]), int(self._starts[part.stop])))


class EdgeRows:
    """All rows known so far. Targets and sources are numbered as in :class:`SourceVectors`.

    With ``share`` below 1 a row keeps its strongest entries, no fewer than carry that share of its
    absolute weight. Rows are stored on the CPU, up to ``limit`` bytes. A copy for ranking stays on
    the device while it takes no more than ``ranking_limit`` bytes.
    """

    def __init__(
        self,
        n_sources: int,
        share: float = 1.0,
        limit: int | None = None,
        ranking_limit: int = 0,
    ) -> None:
        self._n_sources, self._share, self._limit = n_sources, share, limit
        self._ranking_limit = ranking_limit
        self.n_bytes = self.n_rows = 0
        self._stored: list[_Stored] = []
        self._targets: list[tuple[_Stored, Float[Tensor, " rows"]]] = []
        """With the probabilities at which influence starts."""
        self._by_layer: dict[int, list[tuple[_Stored, slice]]] = defaultdict(list)
        self._copies = HostCopies()
        self._dropped = 0.0

    @property
    def dropped(self) -> float:
        """The largest share of its absolute weight that any row lost."""
        self._copies.finish()
        return self._dropped

    def add_targets(
        self,
        targets: Int[Tensor, " rows"],
        effects: Float[Tensor, "rows sources"],
        probabilities: Float[Tensor, " rows"],
    ) -> None:
        """Store rows of the graph's own targets: influence starts there, by probability."""
        for part in self._parts(effects):
            self._targets.append((self._sparse(targets[part], effects[part]), probabilities[part]))

    def add_features(
        self,
        targets: Int[Tensor, " rows"],
        layers: Sequence[int],
        effects: Float[Tensor, "rows sources"],
    ) -> None:
        """Store rows of features. ``layers`` are those of the targets, equal ones adjacent."""
        for part in self._parts(effects):
            stored = self._sparse(targets[part], effects[part])
            for layer, rows in runs(layers[part]):
                self._by_layer[layer].append((stored, rows))

    def _parts(self, effects: Tensor) -> Iterator[slice]:
        step = max(1, ENTRIES_AT_ONCE // effects.shape[1])
        for start in range(0, len(effects), step):
            yield slice(start, start + step)

    def _sparse(self, targets: Tensor, effects: Tensor) -> _Stored:
        if effects.device.type == "mps":  # shares the CPU's memory, and lacks some operations
            effects = effects.cpu()
        block = _to_block(targets.to(effects.device), effects, self._share)
        self.n_bytes += block.columns.nbytes + block.weights.nbytes
        self.n_rows += len(targets)
        if self._limit is not None and self.n_bytes > self._limit:
            raise MemoryLimitError(
                f"{self.n_rows:,} rows of direct effects take {format_bytes(self.n_bytes)}, more "
                f"than the {format_bytes(self._limit)} that are left for them: set max_features to "
                f"{self.n_rows // 2:,} or less"
            )
        stored = _Stored()
        self._stored.append(stored)
        if on_cpu(effects):
            self._arrive(stored, block)
            return stored
        packed = block.packed()

        def arrive(copy: Tensor) -> None:
            self._arrive(stored, _CsrBlock.unpacked(targets, copy))

        self._copies.start(packed, arrive)
        if self.n_bytes > self._ranking_limit:
            self._rank_on_cpu()
        if self._ranking_limit:
            stored.on_device = _CsrBlock.unpacked(block.targets, packed)
        return stored

    def _arrive(self, stored: _Stored, block: _CsrBlock) -> None:
        stored.arrive(block)
        if self._share < 1:
            present = block.totals > 0
            lost = 1 - block.carried[present] / block.totals[present]
            self._dropped = max(self._dropped, float(lost.numpy().max(initial=0.0)))

    def _rank_on_cpu(self) -> None:
        self._ranking_limit = 0
        for stored in self._stored:
            stored.on_device = None

    def influence(self) -> Float[Tensor, " sources"]:
        """Return the influence of every source on the targets over all paths known so far.

        Effects only come from lower layers, so one pass from the highest layer down sees every
        path. A ranking costs as much as reading the rows once, however deep the model is. The
        result is on the device if the rows are.
        """
        self._copies.finish()
        on_device = bool(self._ranking_limit)
        influence = torch.zeros(self._n_sources)
        if on_device and self._stored and self._stored[0].on_device is not None:
            influence = influence.to(self._stored[0].on_device.weights.device)
        for stored, probabilities in self._targets:
            block = stored.rows(slice(0, len(probabilities)), on_device)
            block.propagate(probabilities.to(influence.device), influence)
        for layer in sorted(self._by_layer, reverse=True):
            for stored, rows in self._by_layer[layer]:
                block = stored.rows(rows, on_device)
                block.propagate(influence[block.targets], influence)
        return influence

    def to_csr(self, row_of: IntArray) -> tuple[IntArray, IntArray, FloatArray]:
        """Return all rows as ``(indptr, sources, weights)`` of the graph, and forget them.

        ``row_of`` renumbers targets and sources, with -1 for sources that are dropped. It keeps
        their order, so entries stay sorted within a row, and only complete rows have to be moved.
        """
        self._copies.finish()
        self._targets.clear()
        self._by_layer.clear()
        kept, counts = [], np.zeros(int(row_of.max()) + 1, np.int64)
        while self._stored:
            block = self._stored.pop().host
            lengths = block.counts.numpy().astype(np.int64)
            sources = row_of[block.columns.numpy()]
            chosen = sources >= 0
            before = np.concatenate([[0], np.cumsum(chosen)])
            ends = np.cumsum(lengths)
            targets = row_of[block.targets.numpy()]
            counts[targets] = before[ends] - before[ends - lengths]
            kept.append((targets, sources[chosen], block.weights.numpy()[chosen]))
        indptr = np.concatenate([[0], np.cumsum(counts)])
        sorted_rows = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.float32)
        for targets, *entries in kept:
            # An entry goes to the start of its row plus its place within the row.
            length = counts[targets]
            offset = indptr[targets] - (np.cumsum(length) - length)
            place = np.repeat(offset, length) + np.arange(length.sum())
            for all_rows, part in zip(sorted_rows, entries, strict=True):
                all_rows[place] = part
        return indptr, *sorted_rows


def runs(values: Sequence[int]) -> Iterator[tuple[int, slice]]:
    """Yield every stretch of equal values with its place.

    >>> list(runs([5, 5, 3]))
    [(5, slice(0, 2, None)), (3, slice(2, 3, None))]
    """
    start = 0
    for end in range(1, len(values) + 1):
        if end == len(values) or values[end] != values[start]:
            yield values[start], slice(start, end)
            start = end


def _to_block(targets: Tensor, effects: Float[Tensor, "rows sources"], share: float) -> _CsrBlock:
    """Make rows sparse on their device. Waits for it once, to learn the number of entries."""
    effects = effects.contiguous()
    n_rows, n_sources = effects.shape
    totals = carried = torch.linalg.vector_norm(effects, 1, dim=1)
    if share < 1:
        magnitude = effects.abs()
        effects = effects * (magnitude >= smallest_kept(magnitude, share)[:, None])
        carried = torch.linalg.vector_norm(effects, 1, dim=1)
    flat = effects.view(-1)
    entries = flat.nonzero()[:, 0]
    starts = torch.arange(n_rows + 1, device=flat.device) * n_sources
    counts = torch.searchsorted(entries, starts).diff()
    columns = entries - starts[:-1].repeat_interleave(counts, output_size=len(entries))
    return _CsrBlock(
        targets, counts.to(torch.int32), totals, carried, columns.to(torch.int32), flat[entries]
    )


def on_cpu(tensor: Tensor) -> bool:
    """Whether ``tensor`` is in the CPU's memory."""
    return tensor.device.type == "cpu"


def smallest_kept(magnitude: Float[Tensor, "rows sources"], share: float) -> Float[Tensor, " rows"]:
    """Return the magnitude from which on the entries of a row carry at least ``share`` of its sum.

    Entries are put into classes by the leading bits of their floating-point number, which order
    them, so nothing has to be sorted. A class is kept or dropped as one. Sums are of integers:
    multiples of ``2**-40`` of a power of two above the row's largest entry. They are exact in any
    order of addition, and devices without float64 have them.
    """
    bits = magnitude.contiguous().view(torch.int32)
    top = bits.amax(dim=1, keepdim=True)  # not negative, so their bits order them as well
    step = _SHIFT - ((top >> 23).clamp(min=1) - 126)  # the largest entry is below 2**_SHIFT then
    units = (magnitude * _power_of_two(step // 2) * _power_of_two(step - step // 2)).long()
    classes = ((top >> 16) - (bits >> 16)).clamp(max=_CLASSES - 1).long()
    sums = units.new_zeros(len(units), _CLASSES).scatter_add_(1, classes, units).cumsum(dim=1)
    # Truncation took less than one unit from every entry: what is needed is at most this.
    total = sums[:, -1:] + (magnitude > 0).sum(dim=1, keepdim=True)
    numerator, low = int(np.ceil(share * 2**20)), 2**20 - 1
    needed = (total >> 20) * numerator + ((total & low) * numerator >> 20) + 1
    last = (sums < needed).sum(dim=1)  # the first class with which the sum suffices
    limit = ((top[:, 0] >> 16) - last.int()) << 16
    everything = last >= _CLASSES - 1
    return torch.where(everything, 0, limit.clamp(min=0)).to(torch.int32).view(torch.float32)


def _power_of_two(exponent: Int[Tensor, "rows one"]) -> Float[Tensor, "rows one"]:
    """``2**exponent``, exactly, for exponents that a float32 has."""
    return ((exponent + 127) << 23).to(torch.int32).view(torch.float32)
