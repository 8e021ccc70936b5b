"""Lay out what every source writes to the residual stream, so that scoring is one product.

Columns run in the order of :class:`NodeIndex`: active features, errors (layer-major), tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tracer.attribution.frozen import FrozenPass
from tracer.model.block import Norm
from tracer.model.model import Model
from tracer.transcoders.config import WritePoint
from tracer.transcoders.transcoder import Transcoder

VALUES_AT_ONCE: Final = 2**26
"""How many numbers of source vectors are laid out at a time if they are not all kept."""

_ROUND_SLOTS: Final = 16
"""A few zeros cost less than many different shapes of a product."""


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
    """All that is written at one layer after its MLP.

    Every position has the same number of slots for the features that write there. The first are
    filled, and the rest hold zero vectors that are never scored.
    """

    def __init__(
        self,
        writers: list[_SourceRows],
        filled: list[int],
        n_slots: int,
        slots: Int[Tensor, " writes"],
        columns: Int[Tensor, " writes"],
        errors: Float[Tensor, "pos d_model"],
        error_start: int,
        post_norm: tuple[Norm, Tensor] | None,
        dtype: torch.dtype,
    ) -> None:
        self.errors, self.error_start = errors, error_start
        self._writers, self._post_norm, self._dtype = writers, post_norm, dtype
        self._n_slots, self._slots, self._columns = n_slots, slots, columns
        self._filled = filled
        """Filled slots before every position, and of all."""
        self._kept: Tensor | None = None

    @property
    def n_values(self) -> int:
        """Numbers in the padded feature vectors of all positions."""
        return self._n_slots * self.errors.numel()

    def keep(self, kept: bool) -> None:
        """Lay all feature vectors out once, instead of anew for every batch of targets."""
        self._kept = self._laid_out(0, len(self.errors)) if kept else None

    def feature_vectors(self, stop: int) -> Iterator[tuple[int, int, Tensor]]:
        """Yield ranges of positions below ``stop`` with their ``(pos, slots, d_model)`` vectors."""
        if self._kept is not None:
            yield 0, stop, self._kept[:stop]
            return
        step = max(1, VALUES_AT_ONCE * len(self.errors) // max(1, self.n_values))
        for start in range(0, stop, step):
            end = min(start + step, stop)
            yield start, end, self._laid_out(start, end)

    def add_effects(
        self,
        start: int,
        stop: int,
        effects: Float[Tensor, "pos slots batch"],
        scores: Float[Tensor, "sources batch"],
    ) -> None:
        """Add the effects of all slots at positions ``start`` to ``stop`` to their columns.

        Only filled slots take part, and no two of them have the same column. So no additions meet
        at one address, which atomic additions on a GPU would have to queue for.
        """
        filled = slice(self._filled[start], self._filled[stop])
        slots = self._slots[filled] - start * self._n_slots
        chosen = effects.flatten(0, 1)[slots].to(scores.dtype)
        scores.index_add_(0, self._columns[filled], chosen)

    def _laid_out(self, start: int, stop: int) -> Float[Tensor, "pos slots d_model"]:
        padded = torch.zeros(
            stop - start,
            self._n_slots,
            self.errors.shape[-1],
            device=self.errors.device,
            dtype=self._dtype,
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
    read_vectors: list[Tensor]
    """Decoder vectors that were left in their files, of the active features."""

    @property
    def n_sources(self) -> int:
        return self.token_start + len(self.tokens)

    @property
    def n_values(self) -> int:
        """Numbers in the padded feature vectors of all layers."""
        return sum(layer.n_values for layer in self.layers)

    def keep(self, kept: bool = True) -> None:
        """Lay all feature vectors out once: more memory, less work for every batch."""
        for layer in self.layers:
            layer.keep(kept)

    def score(
        self,
        layer: int,
        gradient: Float[Tensor, "pos batch d_model"],
        scores: Float[Tensor, "sources batch"],
    ) -> None:
        """Add, in place, the effects of all that is written at ``layer`` after its MLP."""
        sources, n_pos = self.layers[layer], len(gradient)
        by_target = gradient.transpose(1, 2)
        for start, stop, vectors in sources.feature_vectors(n_pos):
            sources.add_effects(start, stop, vectors @ by_target[start:stop], scores)
        first = sources.error_start
        scores[first : first + n_pos] += (sources.errors[:n_pos, None] @ by_target)[:, 0]

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
    """Collect, for every layer, the decoder vectors of the active features that write there.

    A norm after the MLP is linear at its frozen scale, so it is applied to the sources once instead
    of to every gradient. Decoder rows that were left in their files are read here, once.
    """
    n_active, n_pos = len(frozen.features), frozen.n_positions
    starts = _starts(frozen, model.n_layers)
    active = [
        _active(transcoder, frozen, starts[transcoder.layer])
        for transcoder in model.transcoders.layers
    ]
    layers = []
    for output in range(model.n_layers):
        norm = model.blocks[output].mlp_post_norm
        post_norm, errors = None, frozen.errors[output]
        if norm is not None and model.transcoders.write_point is WritePoint.MLP_OUTPUT:
            post_norm = norm, frozen.scales[norm.name]
            errors = norm.push_forward(errors, frozen.scales[norm.name])
        writing = [
            (features, output - features.layer)
            for features, transcoder in zip(active, model.transcoders.layers, strict=True)
            if output in transcoder.output_layers
        ]
        slots = _fill_slots(writing, n_pos)
        error_start = n_active + output * n_pos
        layers.append(_LayerSources(*slots, errors.to(dtype), error_start, post_norm, dtype))
    return SourceVectors(
        layers=tuple(layers),
        tokens=frozen.token_vectors.to(dtype),
        token_start=n_active + model.n_layers * n_pos,
        read_vectors=[
            features.vectors
            for features, transcoder in zip(active, model.transcoders.layers, strict=True)
            if not isinstance(transcoder.W_dec, Tensor)
        ],
    )


def _starts(frozen: FrozenPass, n_layers: int) -> list[list[int]]:
    """Return, per layer, the row of the first active feature at every position, and the end.

    Counted on the CPU: a count on the device would have to be waited for, layer by layer.
    """
    n_pos = frozen.n_positions
    cells = frozen.host_features[:, 0] * n_pos + frozen.host_features[:, 1]
    ends = cells.bincount(minlength=n_layers * n_pos).cumsum(0).tolist()
    bounds = [0, *ends]
    return [bounds[i * n_pos : (i + 1) * n_pos + 1] for i in range(n_layers)]


@dataclass(frozen=True)
class _Active:
    """Active features of one layer, ordered by position."""

    layer: int
    first_column: int
    starts: list[int]
    """First feature of every position, and the end, counted from the first of the layer."""
    positions: Int[Tensor, " active"]
    activations: Float[Tensor, " active"]
    vectors: Float[Tensor, "rows outputs d_model"]
    rows: Int[Tensor, " active"]


def _active(transcoder: Transcoder, frozen: FrozenPass, starts: list[int]) -> _Active:
    part = slice(starts[0], starts[-1])
    features = frozen.features[part, 2]
    if isinstance(transcoder.W_dec, Tensor):
        vectors, rows = transcoder.W_dec, features
    else:
        distinct, rows = features.unique(return_inverse=True)
        vectors = transcoder.decoder_vectors(distinct)
    return _Active(
        layer=transcoder.layer,
        first_column=starts[0],
        starts=[start - starts[0] for start in starts],
        positions=frozen.features[part, 1],
        activations=frozen.activations[part],
        vectors=vectors,
        rows=rows,
    )


def _fill_slots(
    writing: list[tuple[_Active, int]], n_pos: int
) -> tuple[list[_SourceRows], list[int], int, Tensor, Tensor]:
    """Give every write a slot at its position, one writing layer after the other.

    Returns the writes, how many slots are filled before every position, the number of slots of a
    position, and of every filled slot its number and its column.
    """
    device = writing[0][0].positions.device
    counts = torch.tensor([active.starts for active, _ in writing]).diff()
    before = (counts.cumsum(0) - counts).to(device)
    n_filled = counts.sum(0).tolist()
    filled = [0, *accumulate(n_filled)]
    n_slots = -(-max(n_filled) // _ROUND_SLOTS) * _ROUND_SLOTS
    first_filled = torch.tensor(filled, device=device)
    slot_numbers = torch.empty(filled[-1], dtype=torch.long, device=device)
    columns = torch.empty_like(slot_numbers)
    writers = []
    for (active, step), taken in zip(writing, before, strict=True):
        order = torch.arange(len(active.positions), device=device)
        starts = torch.tensor(active.starts, device=device)
        slots = order - starts[active.positions] + taken[active.positions]
        place = first_filled[active.positions] + slots
        slot_numbers[place] = active.positions * n_slots + slots
        columns[place] = order + active.first_column
        writers.append(
            _SourceRows(
                vectors=active.vectors[:, step],
                rows=active.rows,
                activations=active.activations,
                positions=active.positions,
                slots=slots,
                starts=active.starts,
            )
        )
    return writers, filled, n_slots, slot_numbers, columns
