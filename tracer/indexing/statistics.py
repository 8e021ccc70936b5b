"""Statistics of one layer's features, gathered over a corpus in a fixed amount of memory.

The corpus is cut into shards. Sums of floats depend on their order in the last bits, so a build
adds up each shard from zero and then the shards, in order. It does not matter who runs a shard:
:meth:`LayerStatistics.merge` ends with the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from tracer.indexing.slots import (
    REACH,
    BatchActivations,
    Observations,
    Sample,
    StoredObservations,
    Strongest,
)

N_STRONGEST: Final = 12
N_SAMPLED: Final = 128
N_SAMPLED_WINDOWS: Final = 16
"""How many of the sampled observations keep their context."""
N_BINS: Final = 32
_NO_EXPONENT: Final = -200
"""Below that of any float32 number."""


def window_width(context: int) -> int:
    """Return how many tokens' activations are kept with an observation."""
    return min(2 * REACH + 1, context)


@dataclass(frozen=True)
class BatchTokens:
    """The tokens of a batch's windows one after the other, without padding."""

    first: int
    """Offset of the first token in the corpus."""
    tokens: Int[Tensor, " tokens"]
    predicted: Int[Tensor, " tokens"]
    """The model's most likely next token after each."""
    starts: Int[Tensor, " tokens"]
    """Row at which each token's window begins."""
    stops: Int[Tensor, " tokens"]
    """Row after the end of each token's window."""
    has_features: Bool[Tensor, " tokens"]
    """False for the beginning-of-text token."""
    counted: Bool[Tensor, " tokens"]
    """Whether the prefix that ends here is new."""
    tag_rows: Int[Tensor, " pairs"]
    """Together with ``tag_numbers``: the rows and tags of all tagged tokens that are counted."""
    tag_numbers: Int[Tensor, " pairs"]


class RunningSum:
    """Sums of many small float32 values whose rounding errors do not pile up, shard by shard.

    Apple GPUs have no float64, and most others are slow at it. So each sum is a pair of float32
    values: what the larger one loses to rounding is added to the smaller one (Knuth's two-sum).
    """

    def __init__(self, shape: Sequence[int], device: torch.device) -> None:
        self.high = torch.zeros(tuple(shape), device=device)
        self.low = torch.zeros(tuple(shape), device=device)
        self.shard_high = torch.zeros(tuple(shape), device=device)
        """Sums of the shard that is being read."""
        self.shard_low = torch.zeros(tuple(shape), device=device)

    def add(self, index: Int[Tensor, " n"], values: Float[Tensor, " n"]) -> None:
        """Add each of ``values`` to the sum of the shard at its flat ``index``."""
        batch = torch.zeros_like(self.high)
        batch.view(-1).index_add_(0, index, values)
        _add_exactly(self.shard_high, self.shard_low, batch)

    def end_shard(self) -> None:
        """Add the shard's sums to those of the shards before it; they start at zero again."""
        self.add_shard(self)
        self.shard_high.zero_()
        self.shard_low.zero_()

    def add_shard(self, other: RunningSum) -> None:
        """Add the sums of a shard that ``other`` has read and not ended."""
        _add_exactly(self.high, self.low, other.shard_high)
        self.low += other.shard_low

    def numpy(self) -> NDArray[np.float64]:
        """Return the sums as float64, on the host."""
        parts = (self.high, self.low, self.shard_high, self.shard_low)
        high, low, shard_high, shard_low = (part.cpu().numpy().astype(np.float64) for part in parts)
        sums: NDArray[np.float64] = (high + low) + (shard_high + shard_low)
        return sums


def _add_exactly(high: Tensor, low: Tensor, values: Tensor) -> None:
    """Add ``values`` to ``high``, and to ``low`` what ``high`` loses to rounding."""
    total = high + values
    added = total - high
    low += (high - (total - added)) + (values - added)
    high.copy_(total)


class LayerStatistics:
    """Counts, sums, histograms and stored observations of the features of one layer."""

    def __init__(
        self,
        layer: int,
        promoted: Int[Tensor, "features shown"],
        n_tags: int,
        width: int,
        device: torch.device,
    ) -> None:
        n_features = len(promoted)
        self.promoted = promoted
        self.counts = torch.zeros(n_features, dtype=torch.int64, device=device)
        """Tokens on which the feature fires, that is, is above zero."""
        self.totals = RunningSum((n_features,), device)
        """Sum of its activations there."""
        self.least = torch.zeros(n_features, device=device)
        """Its lowest activation, at most zero: TopK keeps negative ones."""
        self.histograms = torch.zeros(n_features, N_BINS, dtype=torch.int32, device=device)
        self.exponents = torch.full((n_features,), _NO_EXPONENT, dtype=torch.int32, device=device)
        """Log2 of the width of a histogram bin; the first bin begins at zero."""
        self.predicted = RunningSum(promoted.shape, device)
        """Sum of its activations where the model predicts each of the promoted tokens."""
        self.predicted_counts = torch.zeros(promoted.shape, dtype=torch.int32, device=device)
        """Tokens on which it fires and the model predicts each of the promoted tokens."""
        self.tag_sums = torch.zeros(n_tags, n_features, device=device)
        """Sum of its activations on tokens with each tag."""
        self.shard_tag_sums = torch.zeros(n_tags, n_features, device=device)
        """Those sums over the shard that is being read."""
        self.tag_counts = torch.zeros(n_tags, n_features, dtype=torch.int32, device=device)
        """Tokens with each tag on which the feature fires."""
        self.strongest = Strongest(n_features, N_STRONGEST, width, device)
        self.sample = Sample(n_features, N_SAMPLED, N_SAMPLED_WINDOWS, width, device, layer)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield all tensors of the statistics, by name."""
        for prefix, owner in (
            ("", self),
            ("totals.", self.totals),
            ("predicted.", self.predicted),
            ("strongest.", self.strongest),
            ("sample.", self.sample),
        ):
            for name, value in vars(owner).items():
                if isinstance(value, Tensor):
                    yield prefix + name, value

    def add(self, activations: Float[Tensor, "tokens features"], batch: BatchTokens) -> None:
        """Add the activations on a batch; modifies ``activations``."""
        activations[~batch.has_features] = 0
        torch.minimum(self.least, activations.amin(0), out=self.least)
        fires = (activations > 0) & batch.counted[:, None]
        rows, features = fires.nonzero(as_tuple=True)
        values = activations[rows, features]
        self.counts += torch.bincount(features, minlength=len(self.counts))
        self.totals.add(features, values)
        self._add_to_histograms(features, values)
        self._add_predictions(features, values, batch.predicted[rows])
        self._add_tags(activations, batch)
        context = BatchActivations(
            activations, batch.first, batch.tokens, batch.starts, batch.stops
        )
        observations = Observations(features, rows + batch.first, values)
        self.strongest.offer(observations, context)
        self.sample.offer(observations, context)

    def end_shard(self) -> None:
        """Add the sums of the shard to those of the shards before it."""
        self.totals.end_shard()
        self.predicted.end_shard()
        self.tag_sums += self.shard_tag_sums
        self.shard_tag_sums.zero_()

    def merge(self, shard: LayerStatistics) -> None:
        """Add the next shard, which ``shard`` has read and not ended; changes its histograms.

        The result has the same bits as reading the shard here and then :meth:`end_shard`.
        """
        self.counts += shard.counts
        torch.minimum(self.least, shard.least, out=self.least)
        exponents = torch.maximum(self.exponents, shard.exponents)
        self._widen_histograms(exponents)
        shard._widen_histograms(exponents)
        self.histograms += shard.histograms
        self.totals.add_shard(shard.totals)
        self.predicted.add_shard(shard.predicted)
        self.predicted_counts += shard.predicted_counts
        self.tag_sums += shard.shard_tag_sums
        self.tag_counts += shard.tag_counts
        for own, other in ((self.strongest, shard.strongest), (self.sample, shard.sample)):
            stored = StoredObservations(other)
            own.offer(stored.observations, stored)

    def _add_to_histograms(self, features: Int[Tensor, " n"], values: Float[Tensor, " n"]) -> None:
        top = torch.zeros_like(self.least).scatter_reduce_(0, features, values, "amax")
        needed = torch.frexp(top).exponent - N_BINS.bit_length() + 1
        self._widen_histograms(torch.where(top > 0, needed, _NO_EXPONENT))
        bins = torch.ldexp(values, -self.exponents[features]).long()
        self.histograms.view(-1).index_add_(
            0, features * N_BINS + bins, torch.ones_like(bins, dtype=torch.int32)
        )

    def _widen_histograms(self, exponents: Int[Tensor, " features"]) -> None:
        """Widen the bins of each feature to ``exponents``, where they are narrower."""
        wider = (exponents - self.exponents).clamp(min=0)
        self.exponents += wider
        wider[self.histograms.sum(1) == 0] = 0  # nothing to merge
        while (merged := wider > 0).any():
            pairs = self.histograms[merged].view(-1, N_BINS // 2, 2).sum(-1, dtype=torch.int32)
            self.histograms[merged] = torch.cat([pairs, torch.zeros_like(pairs)], dim=1)
            wider[merged] -= 1

    def _add_predictions(
        self,
        features: Int[Tensor, " n"],
        values: Float[Tensor, " n"],
        predicted: Int[Tensor, " n"],
    ) -> None:
        entry, shown = (self.promoted[features] == predicted[:, None]).nonzero(as_tuple=True)
        flat = features[entry] * self.promoted.shape[1] + shown
        self.predicted.add(flat, values[entry])
        ones = torch.ones_like(flat, dtype=torch.int32)
        self.predicted_counts.view(-1).index_add_(0, flat, ones)

    def _add_tags(self, activations: Float[Tensor, "tokens features"], batch: BatchTokens) -> None:
        if not len(batch.tag_rows):
            return
        tags, row = batch.tag_numbers.unique(return_inverse=True)
        matrix = torch.sparse_coo_tensor(
            torch.stack([row, batch.tag_rows]),
            torch.ones(len(row), device=activations.device),
            (len(tags), len(activations)),
            check_invariants=False,
        )
        strength = activations.clamp(min=0)
        self.shard_tag_sums[tags] += matrix @ strength
        self.tag_counts[tags] += (matrix @ (strength > 0).float()).int()
