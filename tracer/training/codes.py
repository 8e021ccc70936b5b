"""Active features of a batch in one layer: encoded, gated and decoded, with gradients.

At most a few percent of the features are active. On a CPU, :class:`SparseCode` decodes only those,
with `embedding_bag`, several times faster than dense products. Accelerators are faster with dense
matrices: :class:`DenseCode`. Both compute the same numbers up to rounding. The gate is a constant
for the gradient (straight-through): an active feature passes its gradient on, an inactive one gets
none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

_ENTRIES_AT_ONCE = 2**21
"""Pre-activations computed at a time, so that they stay in a processor's cache."""


class Gate(Protocol):
    """Decides which pre-activations of a layer count as active."""

    def __call__(
        self, preactivations: Float[Tensor, "rows features"]
    ) -> Bool[Tensor, "rows features"]: ...


class Code(Protocol):
    """The activations of one layer's features on a batch."""

    def decode(self, decoder: Float[Tensor, "features width"]) -> Float[Tensor, "batch width"]:
        """Return the sum of the active features' decoder rows, times their activations."""

    def count(self) -> int:
        """Return the number of non-zero activations in the batch."""

    def fired(self) -> Bool[Tensor, " features"]:
        """Return which features are active anywhere in the batch."""

    def strengths(self, lengths: Float[Tensor, " features"]) -> Float[Tensor, " entries"]:
        """Return every non-zero activation times the length of its feature's decoder."""


def encode(
    inputs: Float[Tensor, "batch d_model"],
    encoder: Float[Tensor, "features d_model"],
    bias: Float[Tensor, " features"],
    gate: Gate,
    dtype: torch.dtype = torch.float32,
) -> Code:
    """Return the active features of a batch, sparse on a CPU and dense elsewhere.

    ``dtype`` is the data type of dense matrix products; activations are always float32.
    """
    kind = SparseCode if inputs.device.type == "cpu" else DenseCode
    return kind.encode(inputs, encoder, bias, gate, dtype)


@dataclass(frozen=True)
class DenseCode:
    """All activations, mostly zeros."""

    activations: Float[Tensor, "batch features"]
    dtype: torch.dtype

    @classmethod
    def encode(
        cls, inputs: Tensor, encoder: Tensor, bias: Tensor, gate: Gate, dtype: torch.dtype
    ) -> DenseCode:
        """Return the gated pre-activations."""
        preactivations = (inputs.to(dtype) @ encoder.to(dtype).T).float() + bias
        return cls(preactivations * gate(preactivations.detach()), dtype)

    def decode(self, decoder: Tensor) -> Tensor:
        return (self.activations.to(self.dtype) @ decoder.to(self.dtype)).float()

    def count(self) -> int:
        return int(self.activations.count_nonzero())

    def fired(self) -> Tensor:
        return (self.activations != 0).any(0)

    def strengths(self, lengths: Tensor) -> Tensor:
        return (self.activations.detach() * lengths)[self.activations != 0]


@dataclass(frozen=True)
class Pattern:
    """Which features are active in which rows: entries sorted by row, then feature."""

    rows: Int[Tensor, " entries"]
    features: Int[Tensor, " entries"]
    row_starts: Int[Tensor, " batch"]
    """Number of the first entry of each row."""
    by_feature: Int[Tensor, " entries"]
    """The entries in the order of features, then rows."""
    feature_starts: Int[Tensor, " features"]
    """Number of the first entry of each feature, in that order."""

    @classmethod
    def of(cls, rows: Tensor, features: Tensor, n_rows: int, n_features: int) -> Pattern:
        """Build the pattern from sorted coordinates."""
        small = features.numpy().astype(np.uint16 if n_features <= 2**16 else np.int64)
        order = torch.from_numpy(small.argsort(kind="stable"))  # 16 bits are sorted by radix
        return cls(rows, features, _starts(rows, n_rows), order, _starts(features, n_features))

    def sum_rows(self, values: Tensor, table: Float[Tensor, "features width"]) -> Tensor:
        """Return, for each row of the batch, the weighted sum of its features' table rows."""
        return embedding_bag(
            self.features, table, self.row_starts, mode="sum", per_sample_weights=values
        )

    def sum_features(self, values: Tensor, table: Float[Tensor, "batch width"]) -> Tensor:
        """Return, for each feature, the weighted sum of the table's rows it is active in."""
        return embedding_bag(
            self.rows[self.by_feature],
            table,
            self.feature_starts,
            mode="sum",
            per_sample_weights=values[self.by_feature],
        )

    def products(
        self, left: Float[Tensor, "batch width"], right: Float[Tensor, "features width"]
    ) -> Float[Tensor, " entries"]:
        """Return ``left[row] · right[feature]`` for each entry."""
        # The gradient of a weighted sum for its weights is this very product, computed without
        # gathering the rows of both tables.
        with torch.enable_grad():
            weights = torch.zeros(len(self.rows), dtype=left.dtype, requires_grad=True)
            summed = self.sum_rows(weights, right.detach())
        return torch.autograd.grad(summed, weights, left.contiguous())[0]


def _starts(sorted_numbers: Tensor, n: int) -> Tensor:
    counts = torch.bincount(sorted_numbers, minlength=n)
    return counts.cumsum(0) - counts


@dataclass(frozen=True)
class SparseCode:
    """The non-zero activations and their coordinates."""

    values: Float[Tensor, " entries"]
    pattern: Pattern
    n_features: int

    @classmethod
    def encode(
        cls, inputs: Tensor, encoder: Tensor, bias: Tensor, gate: Gate, dtype: torch.dtype
    ) -> SparseCode:
        """Compute all pre-activations, a part of the batch at a time, and keep the active ones."""
        n_features = len(encoder)
        at_once = max(1, _ENTRIES_AT_ONCE // n_features)
        places, values = [], []
        with torch.no_grad():
            read, columns, added = inputs.to(dtype), encoder.to(dtype).T, bias.to(dtype)
            room = read.new_empty(min(at_once, len(inputs)), n_features)
            for start in range(0, len(inputs), at_once):
                part = read[start : start + at_once]
                preactivations = torch.addmm(added, part, columns, out=room[: len(part)]).float()
                open_ = gate(preactivations).view(-1).numpy()
                inside = torch.from_numpy(np.flatnonzero(open_))
                values.append(preactivations.view(-1)[inside])
                places.append(inside + start * n_features)
        place = torch.cat(places)
        rows = place // n_features
        pattern = Pattern.of(rows, place - rows * n_features, len(inputs), n_features)
        gated = _Encode.apply(inputs, encoder, bias, torch.cat(values), pattern)
        return cls(gated, pattern, n_features)

    @classmethod
    def of(
        cls, rows: Tensor, features: Tensor, values: Tensor, n_rows: int, n_features: int
    ) -> SparseCode:
        """Return given activations, sorted by row, as a code without a gradient."""
        return cls(values, Pattern.of(rows, features, n_rows, n_features), n_features)

    def decode(self, decoder: Tensor) -> Tensor:
        decoded: Tensor = _Decode.apply(self.values, decoder, self.pattern)
        return decoded

    def count(self) -> int:
        return len(self.values)

    def fired(self) -> Tensor:
        fired = torch.zeros(self.n_features, dtype=torch.bool)
        fired[self.pattern.features] = True
        return fired

    def strengths(self, lengths: Tensor) -> Tensor:
        return self.values.detach() * lengths[self.pattern.features]


class _Encode(torch.autograd.Function):
    """Attaches active pre-activations, computed without gradients, to the autograd graph."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, encoder: Tensor, bias: Tensor, values: Tensor, pattern: Pattern
    ) -> Tensor:
        ctx.save_for_backward(inputs, encoder)
        ctx.pattern = pattern
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        inputs, encoder = ctx.saved_tensors
        pattern, gradient = ctx.pattern, gradients[0].contiguous()
        to_inputs = to_encoder = to_bias = None
        if ctx.needs_input_grad[0]:
            to_inputs = pattern.sum_rows(gradient, encoder)
        if ctx.needs_input_grad[1]:
            to_encoder = pattern.sum_features(gradient, inputs)
        if ctx.needs_input_grad[2]:
            to_bias = torch.zeros(len(encoder), dtype=gradient.dtype)
            to_bias.index_add_(0, pattern.features, gradient)
        return to_inputs, to_encoder, to_bias, None, None


class _Decode(torch.autograd.Function):
    """The weighted sum of decoder rows."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, decoder: Tensor, pattern: Pattern) -> Tensor:
        ctx.save_for_backward(values, decoder)
        ctx.pattern = pattern
        return pattern.sum_rows(values, decoder)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        values, decoder = ctx.saved_tensors
        pattern, gradient = ctx.pattern, gradients[0].contiguous()
        to_values = to_decoder = None
        if ctx.needs_input_grad[0]:
            to_values = pattern.products(gradient, decoder)
        if ctx.needs_input_grad[1]:
            to_decoder = pattern.sum_features(values, gradient)
        return to_values, to_decoder, None
