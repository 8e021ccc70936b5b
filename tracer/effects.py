"""What every source writes into the residual stream, laid out so that scoring is one product.

Columns run: active features, errors (layer-major), tokens; the order of :class:`NodeIndex`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tracer.bridge import Norm
from tracer.frozen import FrozenPass
from tracer.models import Model
from tracer.transcoders import WritePoint


@dataclass(frozen=True)
class _LayerWrites:
    """Features that write to one layer, padded to equally many per position."""

    columns: Int[Tensor, "pos slots"]
    """Column of each slot; padding points at column 0 with a zero vector."""
    vectors: Float[Tensor, "pos slots d_model"]
    errors: Float[Tensor, "pos d_model"]
    error_start: int


@dataclass(frozen=True)
class EffectSources:
    """Residual-stream vectors of all sources of one prompt."""

    layers: tuple[_LayerWrites, ...]
    tokens: Float[Tensor, "pos d_model"]
    token_start: int

    @property
    def n_sources(self) -> int:
        return self.token_start + len(self.tokens)

    def score(
        self,
        layer: int,
        gradient: Float[Tensor, "batch pos d_model"],
        scores: Float[Tensor, "sources batch"],
    ) -> None:
        """Add, in place, the effects of all that is written at ``layer`` after its MLP."""
        writes, stop = self.layers[layer], gradient.shape[1]
        per_position = gradient.permute(1, 2, 0)
        effects = writes.vectors[:stop] @ per_position
        scores.index_add_(0, writes.columns[:stop].flatten(), effects.flatten(0, 1))
        start = writes.error_start
        scores[start : start + stop] += (writes.errors[:stop, None] @ per_position)[:, 0]

    def score_tokens(
        self,
        gradient: Float[Tensor, "batch pos d_model"],
        scores: Float[Tensor, "sources batch"],
    ) -> None:
        """Add, in place, the effects of the token embeddings; ``gradient`` is on the embedding."""
        stop = gradient.shape[1]
        effects = self.tokens[:stop, None] @ gradient.permute(1, 2, 0)
        scores[self.token_start : self.token_start + stop] += effects[:, 0]


def gather_sources(model: Model, frozen: FrozenPass) -> EffectSources:
    """Scale decoder vectors by activation, push them through any norm after the MLP, and lay out.

    A norm after the MLP is linear at its frozen scale, so it is applied to the sources once instead
    of to every gradient.
    """
    n_active, n_pos = len(frozen.features), frozen.n_positions
    layers = []
    for output in range(model.n_layers):
        rows, positions, vectors = _feature_writes(model, frozen, output)
        norm = model.blocks[output].mlp_post_norm
        if norm is not None and model.transcoders.write_point is WritePoint.MLP_OUTPUT:
            scale = frozen.scales[norm.name]
            vectors = _push_forward(norm, vectors, scale[positions])
            errors = _push_forward(norm, frozen.errors[output], scale)
        else:
            errors = frozen.errors[output]
        columns, padded = _pad(rows, positions, vectors, n_pos)
        layers.append(_LayerWrites(columns, padded, errors, n_active + output * n_pos))
    return EffectSources(
        layers=tuple(layers),
        tokens=frozen.token_vectors,
        token_start=n_active + model.n_layers * n_pos,
    )


def _feature_writes(model: Model, frozen: FrozenPass, output: int) -> tuple[Tensor, Tensor, Tensor]:
    """Active features that write to layer ``output``: row, position, scaled decoder vector."""
    rows, positions, vectors = [], [], []
    for transcoder in model.transcoders.layers:
        if output not in transcoder.output_layers:
            continue
        here = (frozen.features[:, 0] == transcoder.layer).nonzero()[:, 0]
        step = output - transcoder.layer
        decoders = transcoder.decoder_vectors(frozen.features[here, 2])[:, step]
        rows.append(here)
        positions.append(frozen.features[here, 1])
        vectors.append(decoders * frozen.activations[here, None])
    return torch.cat(rows), torch.cat(positions), torch.cat(vectors)


def _push_forward(norm: Norm, vectors: Tensor, scale: Tensor) -> Tensor:
    if norm.centred:
        vectors = vectors - vectors.mean(-1, keepdim=True)
    return vectors / scale * norm.gain


def _pad(
    rows: Tensor, positions: Tensor, vectors: Tensor, n_pos: int
) -> tuple[Int[Tensor, "pos slots"], Float[Tensor, "pos slots d_model"]]:
    """Group by position; positions with fewer sources are filled with zero vectors."""
    order = positions.argsort(stable=True)
    rows, positions, vectors = rows[order], positions[order], vectors[order]
    counts = positions.bincount(minlength=n_pos)
    slots = int(counts.max()) if len(rows) else 0
    starts = counts.cumsum(0) - counts
    slot = torch.arange(len(rows), device=rows.device) - starts[positions]
    columns = rows.new_zeros(n_pos, slots)
    padded = vectors.new_zeros(n_pos, slots, vectors.shape[-1])
    columns[positions, slot] = rows
    padded[positions, slot] = vectors
    return columns, padded
