"""The linear parts of a transformer block, as plain tensors."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Norm:
    """A LayerNorm or RMSNorm. With its scale frozen it is linear; its bias moves no gradient."""

    name: str
    """Hook prefix, e.g. ``blocks.3.ln2``."""
    gain: Float[Tensor, " d_model"]
    centred: bool

    def pull_back(
        self, gradient: Float[Tensor, "... d_model"], scale: Float[Tensor, "... 1"]
    ) -> Float[Tensor, "... d_model"]:
        """Return the gradient on the input from that on the output, at a frozen ``scale``."""
        return self.pull_back_normalized(gradient * self.gain, scale)

    def pull_back_normalized(
        self, gradient: Float[Tensor, "... d_model"], scale: Float[Tensor, "... 1"]
    ) -> Float[Tensor, "... d_model"]:
        """Return the gradient on the input from that on the normalised value, before the gain."""
        if self.centred:
            gradient = gradient - gradient.mean(-1, keepdim=True)
        return gradient / scale

    def push_forward(
        self, vectors: Float[Tensor, "... d_model"], scale: Float[Tensor, "... 1"]
    ) -> Float[Tensor, "... d_model"]:
        """Apply the norm, without its bias, to vectors on its input at a frozen ``scale``."""
        if self.centred:
            vectors = vectors - vectors.mean(-1, keepdim=True)
        return vectors / scale * self.gain


@dataclass(frozen=True)
class Block:
    """The linear parts of one transformer block. A norm is None if the architecture lacks it."""

    attn_norm: Norm | None
    attn_post_norm: Norm | None
    mlp_norm: Norm | None
    mlp_post_norm: Norm | None
    query_key_norms: tuple[str, ...]
    """Hook prefixes of the norms of queries and keys, scales ``(…, pos, 1)``. No gradient runs
    through them, because attention patterns are frozen."""
    W_V: Float[Tensor, "kv_heads d_model d_head"]
    W_O: Float[Tensor, "heads d_head d_model"]
    parallel: bool
    """Attention and MLP both read the residual stream before the block."""
