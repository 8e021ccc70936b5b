"""Direct effects by a hand-written backward pass through the frozen, linear residual stream.

The edge from a source to a target is the dot product of what the source writes with the gradient of
the target's pre-activation. One walk down the layers carries the gradients of a batch of targets;
there is no autograd. Method: "Circuit Tracing" (Ameisen et al., 2025). The numbers are those of
circuit-tracer 0.5.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tracer.attribution.edge_rows import runs
from tracer.attribution.frozen import FrozenPass
from tracer.attribution.source_vectors import SourceVectors, gather_sources
from tracer.model.block import Block, Norm
from tracer.model.model import Model
from tracer.model.precision import float32_products
from tracer.transcoders.config import ReadPoint, WritePoint

_ROUND_ROWS: Final = 16


@dataclass(frozen=True)
class _Batch:
    """Targets of one walk, sorted from the highest layer down."""

    layers: list[int]
    """Layer whose read point a target is at; ``n_layers`` for the output."""
    positions: Int[Tensor, " batch"]
    """On the device."""
    n_positions: int
    """Positions up to the last target's."""
    gradients: Float[Tensor, "batch d_model"]
    """On the residual stream, at the target's own position."""


class FrozenBackward:
    """The linear replacement model of one prompt: computes what directly affects given targets.

    ``dtype`` is the data type of the walk's products, the model's by default. Scores are float32.
    If memory allows, ``sources.keep()`` makes batches faster.

    With ``reference`` the walk is float32 without TF32, and weights are folded anew for every
    batch, which is slow but needs little memory.
    """

    def __init__(self, model: Model, frozen: FrozenPass, reference: bool = False) -> None:
        self.model, self.frozen = model, frozen
        self.dtype = torch.float32 if reference else model.bridge.dtype
        self._tf32 = model.bridge.tf32 and not reference
        self.sources: SourceVectors = gather_sources(model, frozen, self.dtype)
        self.attention = [
            FrozenAttention(block, pattern, self.dtype, kept=not reference)
            for block, pattern in zip(model.blocks, frozen.scaled_patterns, strict=True)
        ]
        self._memory: dict[str, Tensor] = {}
        self.checkpoint: Callable[[], None] = lambda: None
        """Called before every layer; it may raise, which abandons the batch."""
        self.skips = [self._skip(layer) for layer in range(model.n_layers)]

    @property
    def n_bytes(self) -> int:
        """Memory of copied weights and patterns, and of decoder vectors that were read."""
        shared = {weight.untyped_storage().data_ptr() for weight in self._shared()}
        copies = [tensor for part in self.attention for tensor in part.kept()]
        copies += [skip.W_skip for skip in self.skips if skip is not None]
        copies += self.sources.read_vectors
        return sum(c.nbytes for c in copies if c.untyped_storage().data_ptr() not in shared)

    def _shared(self) -> Iterator[Tensor]:
        yield from self.frozen.scaled_patterns
        for block in self.model.blocks:
            yield from (block.W_V, block.W_O)
        for transcoder in self.model.transcoders.layers:
            if transcoder.W_skip is not None:
                yield transcoder.W_skip

    def release_buffers(self) -> None:
        """Free the memory that walks use again and again."""
        self._memory.clear()

    def _skip(self, layer: int) -> FrozenSkip | None:
        W_skip = self.model.transcoders[layer].W_skip
        if W_skip is None:
            return None
        norm, write = self.model.blocks[layer].mlp_post_norm, None
        if norm is not None and self.model.transcoders.write_point is WritePoint.MLP_OUTPUT:
            write = norm, self.frozen.scales[norm.name]
        normalized = self.model.transcoders.read_point is ReadPoint.NORMALIZED
        return FrozenSkip(W_skip, self._read_norm(layer), write, normalized, self.dtype)

    def on_logits(self, directions: Float[Tensor, "targets d_model"]) -> Float[Tensor, "t sources"]:
        """Return the direct effects on directions after the final norm, at the last position."""
        last, n = self.frozen.n_positions - 1, len(directions)
        scale = self.frozen.scales[self.model.final_norm.name][last]
        return self._backward(
            _Batch(
                layers=[self.model.n_layers] * n,
                positions=torch.full((n,), last, device=self.model.device),
                n_positions=last + 1,
                gradients=self.model.final_norm.pull_back(directions.float(), scale),
            )
        )

    def on_features(self, features: Int[Tensor, "targets 3"]) -> Float[Tensor, "targets sources"]:
        """Return the direct effects of every source on the pre-activations of ``features``.

        A row of ``features`` is layer, position, feature. Rows on the CPU, highest layers first,
        are fastest: nothing has to be fetched from the device, or reordered.
        """
        rows = features.cpu()
        layers, order = rows[:, 0].tolist(), None
        if any(lower < upper for lower, upper in pairwise(layers)):
            order = rows[:, 0].argsort(descending=True, stable=True)
            rows = rows[order]
            layers = rows[:, 0].tolist()
        positions = rows[:, 1].to(self.model.device)
        gradients = torch.empty(len(rows), self.model.bridge.d_model, device=self.model.device)
        for layer, part in runs(layers):
            directions = self.model.transcoders[layer].encoder_vectors(rows[part, 2]).float()
            gradients[part] = self.pull_back_read(layer, directions, positions[part])
        n_positions = max(rows[:, 1].tolist()) + 1
        effects = self._backward(_Batch(layers, positions, n_positions, gradients))
        return effects if order is None else effects[order.argsort().to(effects.device)]

    def pull_back_read(self, layer: int, gradient: Tensor, positions: Tensor) -> Tensor:
        """Return the gradient on the residual stream from that on what a transcoder reads."""
        norm, scale = self._read_norm(layer)
        if norm is None:
            return gradient
        if self.model.transcoders.read_point is ReadPoint.NORMALIZED:
            return norm.pull_back_normalized(gradient, scale[positions])
        return norm.pull_back(gradient, scale[positions])

    def _read_norm(self, layer: int) -> tuple[Norm | None, Float[Tensor, "pos 1"]]:
        """Return the norm between residual stream and transcoder, if any, and its scale."""
        norm = self.model.blocks[layer].mlp_norm
        if norm is None or self.model.transcoders.read_point is ReadPoint.RESIDUAL:
            return None, torch.ones(self.frozen.n_positions, 1, device=self.model.device)
        return norm, self.frozen.scales[norm.name]

    def _backward(self, batch: _Batch) -> Float[Tensor, "batch sources"]:
        with torch.no_grad(), float32_products(self._tf32):
            return self._walk(batch)

    def _walk(self, batch: _Batch) -> Float[Tensor, "batch sources"]:
        """Carry the gradients of ``batch`` down the layers, scoring every source on the way.

        The gradient is laid out position by position, ``(pos, batch, d_model)``, so that scoring is
        one batched product. It only has positions up to the batch's last target.
        """
        n, stop = len(batch.layers), batch.n_positions
        d_model = batch.gradients.shape[1]
        gradient = self._zeros("gradient", self.dtype, stop, n, d_model)
        scores = self._zeros("scores", torch.float32, self.sources.n_sources, n)
        joined = self._join(gradient, batch, 0, self.model.n_layers - 1)
        spread = 0  # rows that attention has carried to other positions than their target's
        for layer in reversed(range(self.model.n_layers)):
            self.checkpoint()
            attention, skip = self.attention[layer], self.skips[layer]
            active = gradient[:, : self._in_use(joined, n)]
            self.sources.score(layer, active, scores[:, : active.shape[1]])
            through_skip = skip(active) if skip is not None else 0.0
            if self.model.blocks[layer].parallel:  # attention reads what the MLP reads
                active += through_skip + attention(active, batch.positions, spread)
                spread = active.shape[1]
                joined = self._join(gradient, batch, joined, layer - 1)
            else:
                active += through_skip
                joined = self._join(gradient, batch, joined, layer - 1)
                active = gradient[:, : self._in_use(joined, n)]
                active += attention(active, batch.positions, spread)
                spread = active.shape[1]
        self.sources.score_tokens(gradient, scores)
        return scores.T.contiguous()

    def _zeros(self, name: str, dtype: torch.dtype, *shape: int) -> Tensor:
        """Return zeros in memory that the next walk uses again.

        Fresh memory costs as much as the smaller products of a walk.
        """
        needed, memory = math.prod(shape), self._memory.get(name)
        if memory is None or len(memory) < needed:
            self._memory.pop(name, None)
            memory = torch.empty(needed, device=self.model.device, dtype=dtype)
            self._memory[name] = memory
        return memory[:needed].view(shape).zero_()

    def _join(self, gradient: Tensor, batch: _Batch, start: int, layer: int) -> int:
        """Add the gradients of the targets above ``layer``; return how many have joined so far."""
        stop = sum(at > layer for at in batch.layers)
        rows = torch.arange(start, stop, device=gradient.device)
        own = batch.gradients[start:stop].to(gradient.dtype)
        gradient[batch.positions[start:stop], rows] += own
        return stop

    def _in_use(self, joined: int, n: int) -> int:
        """Return how many rows to work on: a round number in bfloat16.

        There every new shape of a product costs more than some rows of zeros.
        """
        if self.dtype == torch.float32:
            return joined
        return min(n, -(-joined // _ROUND_ROWS) * _ROUND_ROWS)


class FrozenAttention:
    """Attention of one layer with its pattern and the norms around it frozen: a linear map.

    Gains and centring of the norms are folded into the weights, and their scales into the pattern,
    so that no gradient has to pass a norm.
    """

    def __init__(
        self,
        block: Block,
        pattern: Float[Tensor, "heads query key"],
        dtype: torch.dtype,
        kept: bool,
    ) -> None:
        self._block, self._dtype = block, dtype
        self._n_heads, self._d_head, _ = block.W_O.shape
        self._n_kv = block.W_V.shape[0]
        self._pattern = pattern.to(dtype)
        self._kept = (self._to_heads(), self._from_values()) if kept else None
        # A product of few numbers is faster in float32 on a CPU, and only there.
        on_cpu = pattern.device.type == "cpu"
        self._small_dtype = torch.float32 if on_cpu else dtype

    def kept(self) -> list[Tensor]:
        """Tensors that may be copies of the model's weights or of the pattern."""
        return [self._pattern, *(self._kept or ())]

    def _to_heads(self) -> Float[Tensor, "d_model heads_d_head"]:
        W_O = self._block.W_O.flatten(0, 1)
        if self._block.attn_post_norm is not None:
            W_O = self._block.attn_post_norm.push_forward(W_O.float(), W_O.new_ones(1))
        return W_O.to(self._dtype).T

    def _from_values(self) -> Float[Tensor, "kv_d_head d_model"]:
        W_V = self._block.W_V.transpose(1, 2).flatten(0, 1)
        if self._block.attn_norm is not None:
            W_V = self._block.attn_norm.pull_back(W_V.float(), W_V.new_ones(1))
        return W_V.to(self._dtype)

    def __call__(
        self,
        gradient: Float[Tensor, "pos batch d_model"],
        positions: Int[Tensor, " all"],
        spread: int,
    ) -> Float[Tensor, "pos batch d_model"]:
        """Return the gradient on attention's input from that on its output.

        It passes W_O, the pattern, and W_V. Rows from ``spread`` on are still non-zero at their
        target's position only, so W_O is applied to them there and nowhere else.
        """
        to_heads, from_values = self._kept or (self._to_heads(), self._from_values())
        stop, n, _ = gradient.shape
        n_kv, group = self._n_kv, self._n_heads // self._n_kv
        pattern = self._pattern[:, :stop, :stop].view(n_kv, group, stop, stop)
        on_values = gradient.new_empty(stop, n, n_kv, self._d_head)
        # Query heads that share a value head add up inside the product with the pattern.
        if spread:
            on_heads = gradient[:, :spread].flatten(0, 1) @ to_heads
            on_heads = on_heads.view(stop, spread, n_kv, group, self._d_head)
            on_heads = on_heads.permute(2, 3, 0, 1, 4).reshape(n_kv, group * stop, -1)
            carried = pattern.flatten(1, 2).transpose(1, 2) @ on_heads
            carried = carried.view(n_kv, stop, spread, self._d_head)
            on_values[:, :spread] = carried.permute(1, 2, 0, 3)
        if spread < n:
            own = positions[spread:n]
            rows = torch.arange(spread, n, device=gradient.device)
            on_heads = (gradient[own, rows] @ to_heads).view(-1, n_kv, group, self._d_head)
            weights = pattern[:, :, own].permute(2, 0, 3, 1).to(self._small_dtype)
            on_values[:, spread:] = (weights @ on_heads.to(self._small_dtype)).permute(2, 0, 1, 3)
        on_input = on_values.flatten(2).flatten(0, 1) @ from_values
        return on_input.view(stop, n, from_values.shape[1])

    def by_head(
        self, gradient: Float[Tensor, "pos batch d_model"]
    ) -> Float[Tensor, "heads pos batch d_model"]:
        """Return what each head adds to the gradient on attention's input; their sum is a call."""
        to_heads, from_values = self._kept or (self._to_heads(), self._from_values())
        stop, n, _ = gradient.shape
        pattern = self._pattern[:, :stop, :stop]
        on_heads = (gradient @ to_heads).view(stop, n, self._n_heads, self._d_head)
        carried = torch.einsum("hqk,qbhd->hkbd", pattern, on_heads)
        values = from_values.view(self._n_kv, self._d_head, -1)
        values = values.repeat_interleave(self._n_heads // self._n_kv, dim=0)
        return torch.einsum("hkbd,hdm->hkbm", carried, values)

    def forward(self, written: Float[Tensor, "pos d_model"]) -> Float[Tensor, "pos d_model"]:
        """Return what attention writes, biases left out, if its input gains ``written``."""
        to_heads, from_values = self._kept or (self._to_heads(), self._from_values())
        stop = len(written)
        values = (written @ from_values.T).view(stop, self._n_kv, self._d_head)
        values = values.repeat_interleave(self._n_heads // self._n_kv, dim=1)
        mixed = torch.einsum("hqk,khd->qhd", self._pattern[:, :stop, :stop], values)
        return mixed.flatten(1) @ to_heads.T


class FrozenSkip:
    """A transcoder's linear skip connection, with the norms around it frozen."""

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
        self.W_skip, self._factor = W_skip.to(dtype), (1 / scale).to(dtype)[:, None]

    def __call__(
        self, gradient: Float[Tensor, "pos batch d_model"]
    ) -> Float[Tensor, "pos batch d_model"]:
        return (gradient @ self.W_skip) * self._factor[: len(gradient)]

    def forward(self, written: Float[Tensor, "pos d_model"]) -> Float[Tensor, "pos d_model"]:
        """Return what the skip connection writes if its input gains ``written``."""
        return (written * self._factor[: len(written), 0]) @ self.W_skip.T
