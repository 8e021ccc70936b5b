"""The score of one head between two positions as a bilinear form over sources.

With norms frozen, query and key are affine in the residual stream that the block reads, and that is
a sum over sources. So the score is a sum over pairs of sources, wherever they are in the prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tracer.attribution.cuts import CutModel
from tracer.errors import AttentionError
from tracer.model.attention import AttentionWeights, HeadNorm, attention_weights, block_constants
from tracer.model.model import Model

_TOLERANCE: Final = 1e-3
"""Largest difference, as a share of the largest score, between a score and its formula."""
_MASKED: Final = -1e30
"""Scores below are those of keys that the head cannot see."""


@dataclass(frozen=True)
class Side:
    """How a query or a key is computed at one position: affine in what the block reads."""

    seeds: Float[Tensor, "d_head d_model"]
    """Gradients of its coordinates, rotation and norms included, on the residual stream."""
    constant: Float[Tensor, " d_head"]


class HeadScores:
    """One head of one prompt: its scores, and the linear maps that they are computed with.

    Raises :class:`AttentionError` if the scores are not what the formula gives, which names the
    architecture.
    """

    def __init__(self, cuts: CutModel, layer: int, head: int) -> None:
        model = cuts.model
        self._cuts, self.layer, self.head = cuts, layer, head
        self.weights: AttentionWeights = attention_weights(model.bridge, layer)
        self._group = len(self.weights.W_Q) // len(self.weights.W_K)
        self._captured = _capture(model, cuts.frozen.token_ids, layer, self.weights)
        prefix = f"blocks.{layer}.attn."
        self.scores: Float[Tensor, "query key"] = self._captured[f"{prefix}hook_attn_scores"][head]
        self.pattern: Float[Tensor, "query key"] = self._captured[f"{prefix}hook_pattern"][head]
        self.raw = self._checked_scores()

    @property
    def sink(self) -> float | None:
        """The constant score of the head's sink, if it has one."""
        return None if self.weights.sinks is None else float(self.weights.sinks[self.head])

    def visible(self, query: int) -> Bool[Tensor, " key"]:
        """Return which positions the head can look at from ``query``."""
        keys = torch.arange(self._cuts.n_positions, device=self.scores.device)
        return (keys <= query) & (self.scores[query] > _MASKED)

    def capped(self, raw: Tensor) -> Tensor:
        """Return scores after the soft cap."""
        cap = self.weights.soft_cap
        return raw if cap is None else cap * torch.tanh(raw / cap)

    def slope(self, raw: Tensor) -> Tensor:
        """Return how much the soft cap passes of a small change."""
        cap = self.weights.soft_cap
        return torch.ones_like(raw) if cap is None else 1 - torch.tanh(raw / cap) ** 2

    def query_side(self, position: int) -> Side:
        """Return how the query at a position is computed."""
        weights = self.weights
        bias = None if weights.b_Q is None else weights.b_Q[self.head]
        return self._side(weights.W_Q[self.head], bias, weights.q_norm, self.head, position)

    def key_side(self, position: int) -> Side:
        """Return how the key at a position is computed."""
        weights, head = self.weights, self.head // self._group
        bias = None if weights.b_K is None else weights.b_K[head]
        return self._side(weights.W_K[head], bias, weights.k_norm, head, position)

    def _side(
        self, W: Tensor, bias: Tensor | None, norm: HeadNorm | None, head: int, position: int
    ) -> Side:
        block = self._cuts.model.blocks[self.layer]
        read_bias = block_constants(self._cuts.model.bridge, self.layer).attn_norm
        constant = W.new_zeros(W.shape[1])
        if read_bias is not None:
            constant = constant + read_bias @ W
        if bias is not None:
            constant = constant + bias
        both = torch.cat([W, constant[None]])  # rows are vectors of the head
        both = self._normed(both, norm, head, position)
        both = self._rotated(both, position)
        seeds, constant = both[:-1].T, both[-1]
        if norm is not None and norm.bias is not None:
            after = self._slice(norm.bias, head, W.shape[1])
            constant = constant + self._rotated(after[None], position)[0]
        if block.attn_norm is not None:
            scale = self._cuts.frozen.scales[block.attn_norm.name][position]
            seeds = block.attn_norm.pull_back(seeds, scale)
        return Side(seeds, constant)

    def _normed(
        self, vectors: Tensor, norm: HeadNorm | None, head: int, position: int | slice
    ) -> Tensor:
        """Apply the linear part of a query or key norm to vectors of one head."""
        if norm is None:
            return vectors
        d_head = vectors.shape[-1]
        if norm.centred:
            if len(norm.gain) != d_head:
                self._refuse("its query and key norms are centred over all heads")
            vectors = vectors - vectors.mean(-1, keepdim=True)
        scale = self._captured[f"{norm.name}.hook_scale"]
        own = scale[head] if scale.ndim == 3 else scale
        return vectors / own[position] * self._slice(norm.gain, head, d_head)

    @staticmethod
    def _slice(values: Tensor, head: int, d_head: int) -> Tensor:
        """Return a head's part of a gain or bias: all of it, or its slice of all heads'."""
        return values if len(values) == d_head else values[head * d_head : (head + 1) * d_head]

    def _rotated(self, vectors: Tensor, position: int | slice) -> Tensor:
        """Apply the rotary embedding of one or all positions; nothing without one."""
        prefix = f"blocks.{self.layer}.attn."
        if f"{prefix}hook_cos" not in self._captured:
            return vectors
        cos, sin = (self._captured[f"{prefix}hook_{name}"][position] for name in ("cos", "sin"))
        if self._doubled:
            cos, sin = torch.cat([cos, cos], dim=-1), torch.cat([sin, sin], dim=-1)
        n = cos.shape[-1]
        turned, passed = vectors[..., :n], vectors[..., n:]
        left, right = turned.chunk(2, dim=-1)
        turned = turned * cos + torch.cat([-right, left], dim=-1) * sin
        return torch.cat([turned, passed], dim=-1)

    def _checked_scores(self) -> Float[Tensor, "query key"]:
        """Return the scores before the cap by the formula; check them against the model's.

        Where cosines have half the width of a head, they are either doubled (GPT-OSS) or turn a
        part of it (GPT-NeoX). The model's own scores decide.
        """
        masks = torch.stack([self.visible(query) for query in range(self._cuts.n_positions)])
        largest = self.scores[masks].abs().max().clamp(min=1)
        worst = float("inf")
        for self._doubled in (False, True):
            if self._doubled and not self._half_width():
                continue
            raw = self._formula()
            worst = float(((self.capped(raw) - self.scores)[masks].abs() / largest).max())
            if worst <= _TOLERANCE:
                return raw
        self._refuse(f"they differ from query times key by {worst:.2g} of the largest score")
        raise AssertionError("not reached")

    def _half_width(self) -> bool:
        cos = self._captured.get(f"blocks.{self.layer}.attn.hook_cos")
        return cos is not None and 2 * cos.shape[-1] == self.weights.W_Q.shape[-1]

    def _formula(self) -> Float[Tensor, "query key"]:
        prefix, every = f"blocks.{self.layer}.attn.", slice(None)
        vectors = []
        for name, head in (("q", self.head), ("k", self.head // self._group)):
            norm = getattr(self.weights, f"{name}_norm")
            own = self._captured[f"{prefix}hook_{name}"][:, head]
            own = self._normed(own, norm, head, every)
            if norm is not None and norm.bias is not None:
                own = own + self._slice(norm.bias, head, own.shape[-1])
            vectors.append(self._rotated(own, every))
        return self.weights.scaling * vectors[0] @ vectors[1].T

    def _refuse(self, reason: str) -> None:
        model = self._cuts.model
        raise AttentionError(
            f"the attention scores of {model.source.name} ({model.bridge.architecture}) cannot be "
            f"split into pairs of sources: {reason}"
        )


def _capture(
    model: Model, token_ids: tuple[int, ...], layer: int, weights: AttentionWeights
) -> dict[str, Tensor]:
    """Run the prompt once more and keep what the scores of a layer are computed from."""
    prefix = f"blocks.{layer}.attn."
    names = [f"{prefix}{name}" for name in ("hook_q", "hook_k", "hook_attn_scores", "hook_pattern")]
    names += [
        f"{prefix}{name}"
        for name in ("hook_cos", "hook_sin")
        if model.bridge.has_hook(f"{prefix}{name}")
    ]
    names += [
        f"{norm.name}.hook_scale" for norm in (weights.q_norm, weights.k_norm) if norm is not None
    ]
    missing = [name for name in names if not model.bridge.has_hook(name)]
    if missing:
        raise AttentionError(
            f"the attention scores of {model.source.name} ({model.bridge.architecture}) cannot be "
            f"split into pairs of sources: it has no {missing[0].rpartition('.')[2]}"
        )
    ids: Any = torch.tensor(token_ids, device=model.device)
    with model.bridge.exact():
        _, captured = model.bridge.capture(ids, names, last_only=True)
    return {name: value.float() for name, value in captured.items()}
