"""The replacement model cut at any point: gradients that start there, and sources swept up to it.

A graph's targets read what an MLP reads, or the output. To explain attention, a target reads what
a block reads, at several positions, and attention is followed head by head. Cuts of the residual
stream are numbered from the bottom: ``2 * layer`` is what a block reads, ``2 * layer + 1`` what its
MLP reads (in parallel blocks these are the same vector), and ``2 * n_layers`` the output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from tracer.attribution.backward import FrozenBackward
from tracer.attribution.constants import gather_constants
from tracer.attribution.frozen import frozen_pass
from tracer.model.model import Model
from tracer.model.precision import float32_products
from tracer.transcoders.config import WritePoint

_VALUES_AT_ONCE: Final = 2**25
"""Numbers of gradients, or of effects of one layer, that are computed at a time."""
_VALUES_KEPT: Final = 2**26
"""Numbers of source vectors that are laid out once; more of them are laid out anew every time."""

Carry = Callable[[int, Tensor], Tensor | None]
"""Takes a layer and the gradient ``(pos, rows, d_model)`` on the output of its attention; returns
what attention adds to the gradient on what the block reads, or None for nothing."""


@dataclass(frozen=True)
class Seeds:
    """Gradients that start at one cut, ``(pos, rows, d_model)``."""

    cut: int
    gradients: Float[Tensor, "pos rows d_model"]


@dataclass(frozen=True)
class Written:
    """What one source writes to the residual stream."""

    embedded: Float[Tensor, "pos d_model"] | None
    after_attention: dict[int, Float[Tensor, "pos d_model"]]
    after_mlp: dict[int, Float[Tensor, "pos d_model"]]


@dataclass(frozen=True)
class Swept:
    """What reaches each cut of the stream from one source."""

    cuts: Float[Tensor, "cuts pos d_model"]

    def dot(self, cut: int, gradient: Float[Tensor, "... pos d_model"]) -> Float[Tensor, " ..."]:
        """Return the effect of the source on a gradient at ``cut``."""
        return (gradient * self.cuts[cut, : gradient.shape[-2]]).sum(dim=(-2, -1))


class CutModel:
    """The linear replacement model of one prompt, in float32 whatever the model's data type.

    Columns are features, errors and tokens in the order of :class:`NodeIndex`, with all active
    features, and then the columns of :class:`Constants`. For every target, the sum over all columns
    and the target's own constant is its value.
    """

    def __init__(self, model: Model, token_ids: tuple[int, ...]) -> None:
        self.model = model
        with model.bridge.exact(), float32_products():
            self.frozen = frozen_pass(model, token_ids)
            self.constants = gather_constants(model, self.frozen)
            exact = model.bridge.dtype == torch.float32 and not model.bridge.tf32
            self.backward = FrozenBackward(model, self.frozen, reference=not exact)
        self.sources = self.backward.sources
        self.sources.keep(self.sources.n_values <= _VALUES_KEPT)
        self._nowhere = torch.empty(0, dtype=torch.long, device=model.device)

    @property
    def n_positions(self) -> int:
        return self.frozen.n_positions

    @property
    def n_columns(self) -> int:
        return self.sources.n_sources + self.constants.n_columns

    def attention(self, layer: int, gradient: Tensor) -> Tensor:
        """Return what attention adds to the gradient on what it reads: the usual carry."""
        return self.backward.attention[layer](gradient, self._nowhere, gradient.shape[1])

    @property
    def rows_at_once(self) -> int:
        """How many rows to walk at a time."""
        slots = max(layer.n_values for layer in self.sources.layers) // self.model.bridge.d_model
        return max(1, _VALUES_AT_ONCE // max(slots, self.n_positions * self.model.bridge.d_model))

    def effects(
        self, seeds: Sequence[Seeds], carry: Carry | None = None
    ) -> Float[Tensor, "rows columns"]:
        """Return the effect of every column on every seed, in the order of ``seeds``.

        ``seeds`` come from the highest cut down.
        """
        with torch.no_grad(), float32_products():
            return self._walk(seeds, carry or self.attention)

    def _walk(self, seeds: Sequence[Seeds], carry: Carry) -> Tensor:
        stop, _, d_model = seeds[0].gradients.shape
        n = sum(group.gradients.shape[1] for group in seeds)
        device = self.model.device
        gradient = torch.zeros(stop, n, d_model, device=device)
        scores = torch.zeros(self.n_columns, n, device=device)
        n_sources, waiting, joined = self.sources.n_sources, list(seeds), 0

        def join(cut: int) -> Tensor:
            """Add the seeds at ``cut`` and above; return the rows that have started."""
            nonlocal joined
            while waiting and waiting[0].cut >= cut:
                own = waiting.pop(0).gradients
                gradient[:, joined : joined + own.shape[1]] += own
                joined += own.shape[1]
            return gradient[:, :joined]

        for layer in reversed(range(self.model.n_layers)):
            active = join(2 * layer + 2)
            extra = scores[n_sources:, : active.shape[1]]
            self.sources.score(layer, active, scores[:, : active.shape[1]])
            self.constants.score_mlp(layer, active, extra)
            skip = self.backward.skips[layer]
            through_skip = skip(active) if skip is not None else None
            parallel = self.model.blocks[layer].parallel
            if not parallel:
                if through_skip is not None:
                    active += through_skip
                active = join(2 * layer + 1)
                extra = scores[n_sources:, : active.shape[1]]
            self.constants.score_attention(layer, active, extra)
            added = carry(layer, active) if joined else None
            if parallel and through_skip is not None:
                active += through_skip
            if added is not None:
                active += added
        active = join(0)
        self.sources.score_tokens(active, scores)
        self.constants.score_positions(active, scores[n_sources:])
        return scores.T.contiguous()

    def descend(self, seeds: Seeds) -> dict[int, Float[Tensor, "pos rows d_model"]]:
        """Return, by layer, the gradient on attention's output if no attention is passed above."""
        with torch.no_grad(), float32_products():
            gradient, below = seeds.gradients, {}
            for layer in reversed(range((seeds.cut + 1) // 2)):
                skip, block = self.backward.skips[layer], self.model.blocks[layer]
                after_mlp = seeds.cut >= 2 * layer + 2
                passed = skip(gradient) if skip is not None and after_mlp else None
                if block.parallel:
                    if after_mlp:
                        below[layer] = gradient
                    gradient = gradient if passed is None else gradient + passed
                else:
                    gradient = gradient if passed is None else gradient + passed
                    below[layer] = gradient
            return below

    def written(self, column: int) -> Written:
        """Return what the source of a column writes."""
        n, layers = self.n_positions, self.model.n_layers
        n_active = len(self.frozen.features)
        if column < n_active:
            return Written(None, {}, self._feature(column))
        column -= n_active
        if column < layers * n:
            layer, position = divmod(column, n)
            vectors = torch.zeros_like(self.constants.positions)
            vectors[position] = self.sources.layers[layer].errors[position].float()
            return Written(None, {}, {layer: vectors})
        column -= layers * n
        for embedded in (self.sources.tokens.float(), self.constants.positions):
            if column < n:
                only = torch.zeros_like(embedded)
                only[column] = embedded[column]
                return Written(only, {}, {})
            column -= n
        if column < layers:
            return Written(None, {}, {column: self.constants.start[column]})
        return Written(
            None,
            dict(enumerate(self.constants.after_attention)),
            dict(enumerate(self.constants.after_mlp)),
        )

    def _feature(self, row: int) -> dict[int, Tensor]:
        layer, position, feature = self.frozen.host_features[row].tolist()
        transcoder = self.model.transcoders[layer]
        index = torch.tensor([feature], device=self.model.device)
        vectors = transcoder.decoder_vectors(index)[0].float() * self.frozen.activations[row]
        written = {}
        for output, vector in zip(transcoder.output_layers, vectors, strict=True):
            norm = self.model.blocks[output].mlp_post_norm
            if norm is not None and self.model.transcoders.write_point is WritePoint.MLP_OUTPUT:
                pushed = norm.push_forward(vector, self.frozen.scales[norm.name][position])
            else:
                pushed = vector
            only = torch.zeros_like(self.constants.positions)
            only[position] = pushed
            written[output] = only
        return written

    def sweep(self, written: Written, attention: bool = True) -> Swept:
        """Carry what a source writes up the layers; without ``attention`` the stream alone does."""
        with torch.no_grad(), float32_products():
            stream = torch.zeros_like(self.constants.positions)
            if written.embedded is not None:
                stream = stream + written.embedded
            cuts = []
            for layer, block in enumerate(self.model.blocks):
                cuts.append(stream)
                moved = self.backward.attention[layer].forward(stream) if attention else 0.0
                moved = moved + written.after_attention.get(layer, 0.0)
                middle = stream if block.parallel else stream + moved
                cuts.append(middle)
                skip = self.backward.skips[layer]
                through_skip = skip.forward(middle) if skip is not None else 0.0
                stream = stream + moved + through_skip + written.after_mlp.get(layer, 0.0)
            return Swept(torch.stack([*cuts, stream]))
