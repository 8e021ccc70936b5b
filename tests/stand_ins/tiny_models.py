"""Small random language models of the supported families, saved by `tiny.save_model`.

Each has three blocks of width 32 and is small everywhere else, but has the traits of its family:
shared key heads, sliding windows, norms before and after, parallel blocks, soft caps, attention
sinks, experts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

VOCABULARY = ("<pad>", "<bos>", "<eos>", "<unk>", *(f"w{i}" for i in range(56)))
N_LAYERS, D_MODEL = 3, 32
SPREAD = 0.15
"""Standard deviation of every weight."""
SPECIAL: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SIZES: dict[str, Any] = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": D_MODEL,
    "intermediate_size": 48,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 16,
    **SPECIAL,
}
GROUPED = SIZES | {"num_key_value_heads": 2}
"""Two query heads to a key head."""


def _gpt2() -> Any:
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(VOCABULARY),
            n_embd=D_MODEL,
            n_layer=N_LAYERS,
            n_head=4,
            n_positions=16,
            **SPECIAL,
        )
    )


def _gemma2() -> Any:
    return Gemma2ForCausalLM(
        Gemma2Config(**GROUPED, head_dim=8, query_pre_attn_scalar=8, sliding_window=4)
    )


def _gemma3_text() -> Any:
    """Two layers with a window of four tokens and a rotary base of their own, one without."""
    return Gemma3TextConfig(
        **GROUPED,
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=4,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    )


def _gemma3_multimodal() -> Any:
    """The class of gemma-3-4b and larger: the same text model, with a vision model."""
    return Gemma3ForConditionalGeneration(
        Gemma3Config(
            text_config=_gemma3_text().to_dict(),
            vision_config={
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 28,
                "patch_size": 14,
            },
            mm_tokens_per_image=1,
            **SPECIAL,
        )
    )


def _gpt_oss() -> Any:
    return GptOssForCausalLM(
        GptOssConfig(
            **GROUPED,
            head_dim=8,
            num_local_experts=4,
            num_experts_per_tok=2,
            sliding_window=4,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        )
    )


ARCHITECTURES: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**GROUPED)),
    "gpt2": _gpt2,
    "gemma2": _gemma2,
    "neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**GROUPED, sliding_window=4)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**GROUPED)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**GROUPED, head_dim=8)),
    "gemma3": lambda: Gemma3ForCausalLM(_gemma3_text()),
    "gemma3_multimodal": _gemma3_multimodal,
    "olmo2": lambda: Olmo2ForCausalLM(Olmo2Config(**SIZES)),
    "gpt_oss": _gpt_oss,
}


def build(architecture: str, seed: int = 7) -> Any:
    """Return a random model of ``architecture``, with random norms and biases, too.

    Only constants remain of the library's initial values (a norm's gain starts at 0 or 1), so a
    seed gives the same model whatever the library draws.
    """
    model = ARCHITECTURES[architecture]()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            first = parameter.flatten()[0].clone()
            centre = first if parameter.ndim == 1 and (parameter == first).all() else 0.0
            parameter.copy_(spread(generator, *parameter.shape) * SPREAD + centre)
    return model


def spread(generator: torch.Generator, *shape: int) -> torch.Tensor:
    """Return uniform random numbers of mean 0 and variance 1.

    Normal ones are computed with a logarithm and a cosine, whose last bits differ between
    processors.
    """
    return (torch.rand(shape, generator=generator) - 0.5) * 12**0.5
