"""Direct effects by a hand-written backward pass through the frozen, linear residual stream.

The edge from a source to a target is the dot product of what the source writes with the gradient of
the target's pre-activation. One walk down the layers carries the gradients of a whole batch of
targets; no autograd. Method: "Circuit Tracing" (Ameisen et al., 2025); the numbers are those of
circuit-tracer 0.5.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tracer.attribution.frozen import FrozenPass
from tracer.attribution.source_vectors import SourceVectors, gather_sources
from tracer.model.bridge import Block, Norm
from tracer.model.model import Model
from tracer.transcoders.config import ReadPoint, WritePoint

_ROUND_ROWS: Final = 16


@dataclass(frozen=True)
class _Batch:
    """Targets of one walk, sorted from the highest layer down."""

    layers: list[int]
    """Layer whose read point a target sits at; ``n_layers`` for the output."""
    positions: Int[Tensor, " batch"]
    gradients: Float[Tensor, "batch d_model"]
    """On the residual stream, at the target's own position."""


class FrozenBackward:
    """The linear replacement model of one prompt: answers "who affects these targets directly?".

    ``dtype`` is what the walk multiplies in (by default the model's); scores are float32. When
    memory allows, ``sources.keep()`` makes the batches faster.
    """

    def __init__(self, model: Model, frozen: FrozenPass, dtype: torch.dtype | None = None) -> None:
        self.model, self.frozen = model, frozen
        self.dtype = dtype or model.bridge.dtype
        self.sources: SourceVectors = gather_sources(model, frozen, self.dtype)
        blocks = enumerate(model.blocks)
        self._attention = [_FrozenAttention(block, frozen, i, self.dtype) for i, block in blocks]
        self._memory: dict[str, Tensor] = {}
        self.checkpoint: Callable[[], None] = lambda: None
        """Called before every layer; it may raise, which abandons the batch."""
        self._skips = [self._skip(layer) for layer in range(model.n_layers)]

    def _skip(self, layer: int) -> _FrozenSkip | None:
        W_skip = self.model.transcoders[layer].W_skip
        if W_skip is None:
            return None
        norm, write = self.model.blocks[layer].mlp_post_norm, None
        if norm is not None and self.model.transcoders.write_point is WritePoint.MLP_OUTPUT:
            write = norm, self.frozen.scales[norm.name]
        normalized = self.model.transcoders.read_point is ReadPoint.NORMALIZED
        return _FrozenSkip(W_skip, self._read_norm(layer), write, normalized, self.dtype)

    def on_logits(self, directions: Float[Tensor, "targets d_model"]) -> Float[Tensor, "t sources"]:
        """Direct effects of every source on directions after the final norm, last position."""
        last, n = self.frozen.n_positions - 1, len(directions)
        scale = self.frozen.scales[self.model.final_norm.name][last]
        return self._backward(
            _Batch(
                layers=[self.model.n_layers] * n,
                positions=torch.full((n,), last, device=self.model.device),
                gradients=self.model.final_norm.pull_back(directions.float(), scale),
            )
        )

    def on_features(self, features: Int[Tensor, "targets 3"]) -> Float[Tensor, "targets sources"]:
        """Direct effects of every source on the pre-activations of ``features``.

        A row of ``features`` is layer, position, feature; highest layers first is fastest.
        """
        layers, positions, indices = features.unbind(dim=1)
        gradients = torch.empty(len(features), self.model.bridge.d_model, device=self.model.device)
        for layer in layers.unique().tolist():
            here = layers == layer
            directions = self.model.transcoders[layer].encoder_vectors(indices[here]).float()
            gradients[here] = self._pull_back_read(layer, directions, positions[here])
        order = layers.argsort(descending=True, stable=True)
        batch = _Batch(layers[order].tolist(), positions[order], gradients[order])
        effects = self._backward(batch)
        in_order = bool((layers.diff() <= 0).all())
        return effects if in_order else effects[order.argsort()]

    def _pull_back_read(self, layer: int, gradient: Tensor, positions: Tensor) -> Tensor:
        """From what a transcoder reads back to the residual stream, at the given positions."""
        norm, scale = self._read_norm(layer)
        if norm is None:
            return gradient
        if self.model.transcoders.read_point is ReadPoint.NORMALIZED:
            return norm.pull_back_normalized(gradient, scale[positions])
        return norm.pull_back(gradient, scale[positions])

    def _read_norm(self, layer: int) -> tuple[Norm | None, Float[Tensor, "pos 1"]]:
        """The norm between the residual stream and what a transcoder reads, and its scale."""
        norm = self.model.blocks[layer].mlp_norm
        if norm is None or self.model.transcoders.read_point is ReadPoint.RESIDUAL:
            return None, torch.ones(self.frozen.n_positions, 1, device=self.model.device)
        return norm, self.frozen.scales[norm.name]

    @torch.no_grad()
    def _backward(self, batch: _Batch) -> Float[Tensor, "batch sources"]:
        """Carry the gradients of ``batch`` down the layers, scoring every source on the way.

        The gradient is laid out position by position, ``(pos, batch, d_model)``, so that scoring is
        one batched product; only positions up to the batch's last target exist.
        """
        n, stop = len(batch.layers), int(batch.positions.max()) + 1

        d_model = batch.gradients.shape[1]
        gradient = self._zeros("gradient", self.dtype, stop, n, d_model)
        scores = self._zeros("scores", torch.float32, self.sources.n_sources, n)
        joined = self._join(gradient, batch, 0, self.model.n_layers - 1)
        spread = 0  # rows that attention has carried to other positions than their target's
        for layer in reversed(range(self.model.n_layers)):
            self.checkpoint()
            attention, skip = self._attention[layer], self._skips[layer]
            here = gradient[:, : self._in_use(joined, n)]
            self.sources.score(layer, here, scores[:, : here.shape[1]])
            through_skip = skip(here) if skip is not None else 0.0
            if self.model.blocks[layer].parallel:  # attention reads what the MLP beside it reads
                here += through_skip + attention(here, batch.positions, spread)
                spread = here.shape[1]
                joined = self._join(gradient, batch, joined, layer - 1)
            else:
                here += through_skip
                joined = self._join(gradient, batch, joined, layer - 1)
                here = gradient[:, : self._in_use(joined, n)]
                here += attention(here, batch.positions, spread)
                spread = here.shape[1]
        self.sources.score_tokens(gradient, scores)
        return scores.T.contiguous()

    def _zeros(self, name: str, dtype: torch.dtype, *shape: int) -> Tensor:
        """Zeros in memory that the next walk uses again: fresh pages cost as much as the walk's
        smaller products."""
        needed, memory = math.prod(shape), self._memory.get(name)
        if memory is None or len(memory) < needed:
            self._memory.pop(name, None)
            memory = torch.empty(needed, device=self.model.device, dtype=dtype)
            self._memory[name] = memory
        return memory[:needed].view(shape).zero_()

    def _join(self, gradient: Tensor, batch: _Batch, start: int, layer: int) -> int:
        """Put the gradients of the targets above ``layer`` in; how many there are by now."""
        stop = sum(at > layer for at in batch.layers)
        rows = torch.arange(start, stop, device=gradient.device)
        own = batch.gradients[start:stop].to(gradient.dtype)
        gradient[batch.positions[start:stop], rows] += own
        return stop

    def _in_use(self, joined: int, n: int) -> int:
        """How many rows to work on: in bfloat16 a round number of them.

        There every new shape of a product costs more than some rows of zeros do.
        """
        if self.dtype == torch.float32:
            return joined
        return min(n, -(-joined // _ROUND_ROWS) * _ROUND_ROWS)


class _FrozenAttention:
    """Attention of one layer with its pattern, and the norms around it, held: a linear map.

    Gains and centring of the norms go into the weights once, their scales into the pattern, so no
    gradient has to pass a norm: the one before attention into W_V and the pattern's keys, the one
    behind it into W_O and the queries.
    """

    def __init__(self, block: Block, frozen: FrozenPass, layer: int, dtype: torch.dtype) -> None:
        self._n_heads, self._d_head, d_model = block.W_O.shape
        self._n_kv = block.W_V.shape[0]
        W_O = block.W_O.reshape(self._n_heads * self._d_head, d_model)
        W_V = block.W_V.transpose(1, 2).flatten(0, 1)
        self._pattern = frozen.patterns[layer]
        self._key_scale: Tensor | None = None
        self._query_scale: Tensor | None = None
        if block.attn_norm is not None:
            W_V = block.attn_norm.pull_back(W_V.float(), W_V.new_ones(1))
            self._key_scale = frozen.scales[block.attn_norm.name]
        if block.attn_post_norm is not None:
            W_O = block.attn_post_norm.push_forward(W_O.float(), W_O.new_ones(1))
            self._query_scale = frozen.scales[block.attn_post_norm.name]
        self._to_heads, self._from_values = W_O.to(dtype).T, W_V.to(dtype)

    def _scaled_pattern(self, stop: int) -> Float[Tensor, "heads query key"]:
        pattern = self._pattern[:, :stop, :stop]
        if self._key_scale is not None:
            pattern = pattern / self._key_scale[:stop, 0]
        if self._query_scale is not None:
            pattern = pattern / self._query_scale[:stop]
        return pattern.to(self._to_heads.dtype)

    def __call__(
        self,
        gradient: Float[Tensor, "pos batch d_model"],
        positions: Int[Tensor, " all"],
        spread: int,
    ) -> Float[Tensor, "pos batch d_model"]:
        """What the gradient on attention's output makes of its input: W_O, pattern, W_V.

        Rows from ``spread`` on still stand at their target's position alone: for them W_O is
        applied there and nowhere else.
        """
        stop, n, _ = gradient.shape
        n_kv, group = self._n_kv, self._n_heads // self._n_kv
        pattern = self._scaled_pattern(stop).view(n_kv, group, stop, stop)
        on_values = gradient.new_empty(stop, n, n_kv, self._d_head)
        # Query heads that share a value head add up inside the product with the pattern.
        if spread:
            on_heads = gradient[:, :spread].flatten(0, 1) @ self._to_heads
            on_heads = on_heads.view(stop, spread, n_kv, group, self._d_head)
            on_heads = on_heads.permute(2, 3, 0, 1, 4).reshape(n_kv, group * stop, -1)
            carried = pattern.flatten(1, 2).transpose(1, 2) @ on_heads
            carried = carried.view(n_kv, stop, spread, self._d_head)
            on_values[:, :spread] = carried.permute(1, 2, 0, 3)
        if spread < n:
            own = positions[spread:n]
            rows = torch.arange(spread, n, device=gradient.device)
            on_heads = (gradient[own, rows] @ self._to_heads).view(-1, n_kv, group, self._d_head)
            weights = pattern[:, :, own].permute(2, 0, 3, 1)
            # Many products of a few numbers each: float32 is the faster type for them.
            on_values[:, spread:] = (weights.float() @ on_heads.float()).permute(2, 0, 1, 3)
        on_input = on_values.flatten(2).flatten(0, 1) @ self._from_values
        return on_input.view(stop, n, self._from_values.shape[1])


class _FrozenSkip:
    """A transcoder's linear skip connection, with the norms around it held."""

    def __init__(
        self,
        W_skip: Float[Tensor, "d_model d_model"],
        read: tuple[Norm | None, Tensor],
        write: tuple[Norm, Tensor] | None,
        normalized: bool,
        dtype: torch.dtype,
    ) -> None:
        norm, scale = read
        if norm is not None:
            pull_back = norm.pull_back_normalized if normalized else norm.pull_back
            W_skip = pull_back(W_skip, W_skip.new_ones(1))
        if write is not None:
            W_skip = write[0].push_forward(W_skip.T, W_skip.new_ones(1)).T
            scale = scale * write[1]
        self._W_skip, self._factor = W_skip.to(dtype), (1 / scale).to(dtype)[:, None]

    def __call__(
        self, gradient: Float[Tensor, "pos batch d_model"]
    ) -> Float[Tensor, "pos batch d_model"]:
        return (gradient @ self._W_skip) * self._factor[: len(gradient)]
