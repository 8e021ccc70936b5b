"""What every source writes into the residual stream, laid out so that scoring is one product.

Columns run: active features, errors (layer-major), tokens; the order of :class:`NodeIndex`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tracer.attribution.frozen import FrozenPass
from tracer.model.bridge import Norm
from tracer.model.model import Model
from tracer.transcoders.config import WritePoint
from tracer.transcoders.transcoder import Transcoder

VALUES_AT_ONCE: Final = 2**26
"""How many numbers of source vectors are laid out at a time when they are not all kept."""

_ROUND_SLOTS: Final = 16
"""Few different shapes of a product are faster than a few zeros less."""


@dataclass(frozen=True)
class _SourceRows:
    """Active features of one layer that write to one output layer, ordered by position."""

    vectors: Float[Tensor, "rows d_model"]
    """Decoder vectors towards that layer, per unit of activation."""
    rows: Int[Tensor, " writes"]
    activations: Float[Tensor, " writes"]
    positions: Int[Tensor, " writes"]
    slots: Int[Tensor, " writes"]
    starts: list[int]
    """First write of every position, and the end."""


class _LayerSources:
    """All that is written at one layer after its MLP; features padded to equally many a position.

    ``columns (pos, slots)`` says which column a slot is; padding points at column 0 with a zero
    vector.
    """

    def __init__(
        self,
        writers: list[_SourceRows],
        columns: Int[Tensor, "pos slots"],
        errors: Float[Tensor, "pos d_model"],
        error_start: int,
        post_norm: tuple[Norm, Tensor] | None,
        dtype: torch.dtype,
    ) -> None:
        self.columns, self.errors, self.error_start = columns, errors, error_start
        self._writers, self._post_norm, self._dtype = writers, post_norm, dtype
        self._kept: Tensor | None = None

    @property
    def n_values(self) -> int:
        """Numbers in the padded feature vectors of all positions."""
        return self.columns.numel() * self.errors.shape[-1]

    def keep(self) -> None:
        """Lay all feature vectors out once, instead of anew for every batch of targets."""
        self._kept = self._laid_out(0, len(self.columns))

    def feature_vectors(self, stop: int) -> Iterator[tuple[slice, Tensor]]:
        """Ranges of positions below ``stop`` with their ``(pos, slots, d_model)`` vectors."""
        if self._kept is not None:
            yield slice(0, stop), self._kept[:stop]
            return
        step = max(1, VALUES_AT_ONCE * len(self.columns) // max(1, self.n_values))
        for start in range(0, stop, step):
            end = min(start + step, stop)
            yield slice(start, end), self._laid_out(start, end)

    def _laid_out(self, start: int, stop: int) -> Float[Tensor, "pos slots d_model"]:
        slots, d_model = self.columns.shape[1], self.errors.shape[-1]
        padded = torch.zeros(
            stop - start, slots, d_model, device=self.errors.device, dtype=self._dtype
        )
        for writers in self._writers:
            part = slice(writers.starts[start], writers.starts[stop])
            vectors = writers.vectors[writers.rows[part]].float()
            vectors *= writers.activations[part, None]
            if self._post_norm is not None:
                norm, scale = self._post_norm
                vectors = norm.push_forward(vectors, scale[writers.positions[part]])
            place = writers.positions[part] - start, writers.slots[part]
            padded[place] = vectors.to(self._dtype)
        return padded


@dataclass(frozen=True)
class SourceVectors:
    """Residual-stream vectors of all sources of one prompt."""

    layers: tuple[_LayerSources, ...]
    tokens: Float[Tensor, "pos d_model"]
    token_start: int

    @property
    def n_sources(self) -> int:
        return self.token_start + len(self.tokens)

    @property
    def n_values(self) -> int:
        """Numbers in the padded feature vectors of all layers."""
        return sum(writes.n_values for writes in self.layers)

    def keep(self) -> None:
        """Lay all feature vectors out once: more memory, less work for every batch."""
        for writes in self.layers:
            writes.keep()

    def score(
        self,
        layer: int,
        gradient: Float[Tensor, "pos batch d_model"],
        scores: Float[Tensor, "sources batch"],
    ) -> None:
        """Add, in place, the effects of all that is written at ``layer`` after its MLP."""
        writes, stop = self.layers[layer], len(gradient)
        by_target = gradient.transpose(1, 2)
        for part, vectors in writes.feature_vectors(stop):
            effects = (vectors @ by_target[part]).to(scores.dtype)
            scores.index_add_(0, writes.columns[part].flatten(), effects.flatten(0, 1))
        start = writes.error_start
        scores[start : start + stop] += (writes.errors[:stop, None] @ by_target)[:, 0]

    def score_tokens(
        self,
        gradient: Float[Tensor, "pos batch d_model"],
        scores: Float[Tensor, "sources batch"],
    ) -> None:
        """Add, in place, the effects of the token embeddings; ``gradient`` is on the embedding."""
        stop = len(gradient)
        effects = self.tokens[:stop, None] @ gradient.transpose(1, 2)
        scores[self.token_start : self.token_start + stop] += effects[:, 0]


def gather_sources(model: Model, frozen: FrozenPass, dtype: torch.dtype) -> SourceVectors:
    """Find, for every layer, the decoder vectors of the active features that write there.

    A norm after the MLP is linear at its frozen scale, so it is applied to the sources once instead
    of to every gradient. Decoder rows left in their files are read here, once.
    """
    n_active, n_pos = len(frozen.features), frozen.n_positions
    active = [_active(transcoder, frozen) for transcoder in model.transcoders.layers]
    layers = []
    for output in range(model.n_layers):
        norm = model.blocks[output].mlp_post_norm
        post_norm, errors = None, frozen.errors[output]
        if norm is not None and model.transcoders.write_point is WritePoint.MLP_OUTPUT:
            post_norm = norm, frozen.scales[norm.name]
            errors = norm.push_forward(errors, frozen.scales[norm.name])
        writing = [
            (found, output - found.layer)
            for found, transcoder in zip(active, model.transcoders.layers, strict=True)
            if output in transcoder.output_layers
        ]
        writers, columns = _slots(writing, n_pos)
        start = n_active + output * n_pos
        layers.append(_LayerSources(writers, columns, errors.to(dtype), start, post_norm, dtype))
    return SourceVectors(
        layers=tuple(layers),
        tokens=frozen.token_vectors.to(dtype),
        token_start=n_active + model.n_layers * n_pos,
    )


@dataclass(frozen=True)
class _Active:
    """Active features of one layer, ordered by position."""

    layer: int
    columns: Int[Tensor, " active"]
    positions: Int[Tensor, " active"]
    activations: Float[Tensor, " active"]
    vectors: Float[Tensor, "rows outputs d_model"]
    rows: Int[Tensor, " active"]


def _active(transcoder: Transcoder, frozen: FrozenPass) -> _Active:
    columns = (frozen.features[:, 0] == transcoder.layer).nonzero()[:, 0]
    columns = columns[frozen.features[columns, 1].argsort(stable=True)]
    features = frozen.features[columns, 2]
    if isinstance(transcoder.W_dec, Tensor):
        vectors, rows = transcoder.W_dec, features
    else:
        chosen, rows = features.unique(return_inverse=True)
        vectors = transcoder.decoder_vectors(chosen)
    return _Active(
        layer=transcoder.layer,
        columns=columns,
        positions=frozen.features[columns, 1],
        activations=frozen.activations[columns],
        vectors=vectors,
        rows=rows,
    )


def _slots(
    writing: list[tuple[_Active, int]], n_pos: int
) -> tuple[list[_SourceRows], Int[Tensor, "pos slots"]]:
    """Give every write a slot at its position; the layers that write follow one another there."""
    counts = [found.positions.bincount(minlength=n_pos) for found, _ in writing]
    taken = torch.zeros_like(counts[0])
    writers = []
    for (found, step), count in zip(writing, counts, strict=True):
        starts = count.cumsum(0) - count
        order = torch.arange(len(found.positions), device=count.device)
        slots = order - starts[found.positions] + taken[found.positions]
        writers.append(
            _SourceRows(
                vectors=found.vectors[:, step],
                rows=found.rows,
                activations=found.activations,
                positions=found.positions,
                slots=slots,
                starts=[*starts.tolist(), len(found.positions)],
            )
        )
        taken = taken + count
    width = -(-int(taken.max()) // _ROUND_SLOTS) * _ROUND_SLOTS
    columns = taken.new_zeros(n_pos, width)
    for writer, (found, _) in zip(writers, writing, strict=True):
        columns[writer.positions, writer.slots] = found.columns
    return writers, columns
