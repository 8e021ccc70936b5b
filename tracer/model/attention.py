"""The parts of attention that decide where a head looks, and every constant of a block.

Tracing freezes attention, so :class:`tracer.model.block.Block` does not have them. They are read
from the model only when attention itself is explained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from tracer.errors import ModelError, one_line
from tracer.model.bridge import Bridge


@dataclass(frozen=True)
class HeadNorm:
    """A norm of queries or keys: per head, or over all heads together (OLMo 2)."""

    name: str
    """Hook prefix, e.g. ``blocks.3.attn.q_norm``."""
    gain: Float[Tensor, " d_head_or_heads_d_head"]
    bias: Float[Tensor, " d_head_or_heads_d_head"] | None
    centred: bool


@dataclass(frozen=True)
class AttentionWeights:
    """What the attention scores of one block are computed from. All tensors are float32."""

    W_Q: Float[Tensor, "heads d_model d_head"]
    W_K: Float[Tensor, "kv_heads d_model d_head"]
    b_Q: Float[Tensor, "heads d_head"] | None
    b_K: Float[Tensor, "kv_heads d_head"] | None
    q_norm: HeadNorm | None
    k_norm: HeadNorm | None
    scaling: float
    """A score is ``scaling`` times the dot product of query and key."""
    soft_cap: float | None
    """Scores are ``cap * tanh(score / cap)`` (Gemma 2); None without a cap."""
    sinks: Float[Tensor, " heads"] | None
    """A constant score per head that takes part in the softmax (GPT-OSS)."""


@dataclass(frozen=True)
class BlockConstants:
    """Biases of one block, float32; None where the architecture has none."""

    attn_norm: Float[Tensor, " d_model"] | None
    attn_post_norm: Float[Tensor, " d_model"] | None
    mlp_norm: Float[Tensor, " d_model"] | None
    mlp_post_norm: Float[Tensor, " d_model"] | None
    b_V: Float[Tensor, "kv_heads d_head"] | None
    b_O: Float[Tensor, " d_model"] | None


def in_float32(weight: Tensor | None) -> Tensor | None:
    """Return a weight in float32, or None if there is none."""
    return None if weight is None else weight.detach().float()


def attention_weights(bridge: Bridge, layer: int) -> AttentionWeights:
    """Return what the attention scores of one block are computed from.

    Raises :class:`ModelError` if the architecture has no queries and keys of the usual shape.
    """
    name = f"blocks.{layer}.attn"
    try:
        return _attention_weights(bridge.module(name), name)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"the attention scores of {bridge.architecture} cannot be explained: layer {layer} has "
            f"no queries and keys of the usual shape ({one_line(error)})"
        ) from error


def _attention_weights(attention: Any, name: str) -> AttentionWeights:
    inner = attention._original_component
    cap = getattr(inner, "attn_logit_softcapping", None)
    return AttentionWeights(
        W_Q=attention.W_Q.detach().float(),
        W_K=attention.W_K.detach().float(),
        b_Q=in_float32(attention.b_Q),
        b_K=in_float32(attention.b_K),
        q_norm=_head_norm(attention, name, "q_norm"),
        k_norm=_head_norm(attention, name, "k_norm"),
        scaling=float(getattr(inner, "scaling", attention.W_Q.shape[-1] ** -0.5)),
        soft_cap=float(cap) if cap else None,
        sinks=in_float32(getattr(inner, "sinks", None)),
    )


def _head_norm(attention: Any, prefix: str, name: str) -> HeadNorm | None:
    module = attention._modules.get(name)
    if module is None:
        return None
    gain = module.w.detach().float()
    return HeadNorm(
        name=f"{prefix}.{name}",
        gain=1 + gain if module.uses_weight_offset else gain,
        bias=in_float32(getattr(module, "b", None)),
        centred=not module.uses_rms_norm,
    )


def block_constants(bridge: Bridge, layer: int) -> BlockConstants:
    """Return the biases of one block."""
    block = bridge.module(f"blocks.{layer}")

    def bias(name: str) -> Tensor | None:
        return in_float32(getattr(block._modules.get(name), "b", None))

    return BlockConstants(
        attn_norm=bias("ln1"),
        attn_post_norm=bias("ln1_post"),
        mlp_norm=bias("ln2"),
        mlp_post_norm=bias("ln2_post"),
        b_V=in_float32(block.attn.b_V),
        b_O=in_float32(block.attn.b_O),
    )


def final_norm_bias(bridge: Bridge) -> Float[Tensor, " d_model"] | None:
    """Return the bias of the norm before the unembedding, if it has one."""
    return in_float32(getattr(bridge.module("ln_final"), "b", None))
