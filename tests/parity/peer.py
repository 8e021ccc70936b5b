"""Open a Hugging Face folder as circuit-tracer 0.5.0 does: as an unprocessed HookedTransformer.

For the peer's environment. The folders are written by transformers 5, whose configurations the
peer's transformers 4.57 cannot read, and HookedTransformer only knows models by their names on the
Hub. So both configurations are built here, and the logits are compared with Hugging Face's before
they are used.

Two families need corrections to pass that check. The peer's GPT-OSS has no attention sinks (logits
off by 1.7 on the small model), and its replacement model gives all layers of Gemma 3 the same
rotary base (off by 0.15). Both are corrected here, so that attribution is compared on the correct
model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from circuit_tracer.replacement_model.replacement_model_transformerlens import (
    TransformerLensReplacementModel,
)
from transformer_lens import HookedTransformerConfig
from transformer_lens.pretrained import weight_conversions
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

CONVERSIONS = {
    "llama": weight_conversions.convert_llama_weights,
    "gpt2": weight_conversions.convert_gpt2_weights,
    "gpt_neox": weight_conversions.convert_neox_weights,
    "mistral": weight_conversions.convert_mistral_weights,
    "qwen2": weight_conversions.convert_qwen2_weights,
    "qwen3": weight_conversions.convert_qwen3_weights,
    "gemma2": weight_conversions.convert_gemma_weights,
    "gemma3_text": weight_conversions.convert_gemma_weights,
    "olmo2": weight_conversions.convert_olmo2_weights,
    "gpt_oss": weight_conversions.convert_gpt_oss_weights,
}
PROBE = [1, 5, 11, 6, 34, 15, 8, 40, 9]
"""Any ids, more than fit into a sliding window."""


def peer_model(folder: Path, transcoders: Any, device: str = "cpu") -> Any:
    """Open the model in ``folder`` with ``transcoders`` as the peer's replacement model."""
    raw = json.loads((folder / "config.json").read_text())
    hf_model = _hugging_face(folder, raw)
    config = HookedTransformerConfig(**_hooked(raw), device=device)
    model = TransformerLensReplacementModel(config)
    model.tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
    )
    model.load_state_dict(CONVERSIONS[raw["model_type"]](hf_model, config), strict=False)
    if raw["model_type"] == "gpt_oss":
        _add_sinks(model, hf_model)
    own_rotary = [
        (block.attn.rotary_sin, block.attn.rotary_cos)
        for block in model.blocks
        if hasattr(block.attn, "rotary_sin")
    ]
    model._configure_replacement_model(transcoders)
    # To save memory, the peer gives all layers the rotary table of the last one. That is wrong if
    # tables differ (Gemma 3's local layers have another base), so each gets its own back.
    for block, (sin, cos) in zip(model.blocks, own_rotary, strict=False):
        block.attn.rotary_sin, block.attn.rotary_cos = sin, cos
    with torch.no_grad():
        probe = torch.tensor([PROBE])
        difference = (model(probe) - hf_model(probe).logits).abs().max()
    assert difference < 1e-4, f"the converted model has other logits: {difference}"
    return model


def generated(
    model: Any, ids: torch.Tensor, edits: list[Any], count: int, options: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generate the ``count`` likeliest tokens under ``edits``, fewer after an end of text.

    Returns their ids and the ``(tokens, vocab)`` logits that each was chosen from, edits included.
    The peer does not return those without edits. Patterns, norms and MLP outputs are frozen, and
    writing is confined to the constrained layers, in the pass of the prompt only. Passes of new
    tokens run freely, and edits with ``slice(p, None)`` as their position apply to them.

    The peer's handling of ids has to be worked around. With a batch axis it mistakes the number of
    texts for that of positions, and fails unless something is frozen. Without one, its ``generate``
    mistakes them for embeddings. So they are given without, and the axis is added on the way to
    ``generate``.
    """
    generate, tokens = model.generate, []

    def with_batch_axis(inputs: torch.Tensor, **settings: Any) -> str:
        tokens.append(generate(inputs[None], return_type="tokens", **settings)[0, len(ids) :])
        return ""

    model.generate = with_batch_axis
    try:
        _, logits, _ = model.feature_intervention_generate(
            ids, edits, do_sample=False, max_new_tokens=count, verbose=False, **options
        )
    finally:
        del model.generate
    assert len(tokens[0]) == len(logits), "one row of logits per token"
    return tokens[0], logits


def _hugging_face(folder: Path, raw: dict[str, Any]) -> Any:
    """Open the model in transformers 4.57 with eager attention (sdpa drops soft caps)."""
    settings = {
        key: value
        for key, value in raw.items()
        if key not in ("model_type", "rope_parameters", "transformers_version", "dtype")
    }
    rope = raw.get("rope_parameters", {})
    if "full_attention" in rope:
        settings["rope_theta"] = rope["full_attention"]["rope_theta"]
        settings["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
    elif rope:
        settings["rope_theta"] = settings["rotary_emb_base"] = rope["rope_theta"]
        settings["rotary_pct"] = rope.get("partial_rotary_factor", 1.0)
        settings["rope_scaling"] = None  # the default of GPT-OSS is another
    config = AutoConfig.for_model(raw["model_type"], **settings)
    model, loading = AutoModelForCausalLM.from_pretrained(
        folder,
        config=config,
        attn_implementation="eager",
        dtype=torch.float32,
        output_loading_info=True,
    )
    assert not any(loading.values()), f"not all weights were read: {loading}"
    return model.eval()


def _hooked(raw: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of the HookedTransformer."""
    family = raw["model_type"]
    settings = {
        "device": "cpu",
        "dtype": torch.float32,
        "original_architecture": raw["architectures"][0],
        "tokenizer_prepends_bos": True,
        "model_name": "tiny",
        "d_vocab": raw["vocab_size"],
    }
    if family == "gpt2":
        return settings | {
            "n_layers": raw["n_layer"],
            "d_model": raw["n_embd"],
            "n_ctx": raw["n_positions"],
            "n_heads": raw["n_head"],
            "d_head": raw["n_embd"] // raw["n_head"],
            "d_mlp": 4 * raw["n_embd"],
            "act_fn": raw["activation_function"],
            "normalization_type": "LN",
            "eps": raw["layer_norm_epsilon"],
        }
    d_head = raw.get("head_dim") or raw["hidden_size"] // raw["num_attention_heads"]
    rope = raw["rope_parameters"]
    settings |= {
        "n_layers": raw["num_hidden_layers"],
        "d_model": raw["hidden_size"],
        "n_ctx": raw["max_position_embeddings"],
        "n_heads": raw["num_attention_heads"],
        "d_head": d_head,
        "d_mlp": raw["intermediate_size"],
        "act_fn": raw.get("hidden_act") or raw["hidden_activation"],
        "positional_embedding_type": "rotary",
        "rotary_adjacent_pairs": False,
        "rotary_base": int(rope.get("full_attention", rope)["rope_theta"]),
        "rotary_dim": round(rope.get("partial_rotary_factor", 1.0) * d_head),
    }
    if family == "gpt_neox":
        return settings | {
            "normalization_type": "LN",
            "eps": raw["layer_norm_eps"],
            "parallel_attn_mlp": raw["use_parallel_residual"],
        }
    settings |= {
        "normalization_type": "RMS",
        "final_rms": True,
        "eps": raw["rms_norm_eps"],
        "gated_mlp": True,
    }
    if raw["num_key_value_heads"] != raw["num_attention_heads"]:
        settings["n_key_value_heads"] = raw["num_key_value_heads"]
    if raw.get("sliding_window"):
        # All layers of Mistral are of the same kind, which its config does not list.
        kinds = raw.get("layer_types", ["sliding_attention"] * raw["num_hidden_layers"])
        settings |= {
            "use_local_attn": True,
            "window_size": raw["sliding_window"],
            "attn_types": ["local" if kind.startswith("sliding") else "global" for kind in kinds],
        }
    if family.startswith("gemma"):
        settings |= {
            "use_normalization_before_and_after": True,
            "attn_scale": raw["query_pre_attn_scalar"] ** 0.5,
            "attn_scores_soft_cap": raw["attn_logit_softcapping"] or -1.0,
            "output_logits_soft_cap": raw["final_logit_softcapping"] or -1.0,
        }
    if family in ("gemma3_text", "qwen3"):
        settings["use_qk_norm"] = True
    if "sliding_attention" in rope:
        settings["rotary_base_local"] = int(rope["sliding_attention"]["rope_theta"])
    if family == "gpt_oss":
        settings |= {
            "num_experts": raw["num_local_experts"],
            "experts_per_token": raw["num_experts_per_tok"],
        }
    return settings


class _Sinks:
    """Attention sinks: one more score in each softmax, of a position without a value.

    Every weight is reduced by the share that the sink of its head takes.
    """

    def __init__(self, sinks: torch.Tensor) -> None:
        self._sinks = sinks[:, None, None]
        self._total: torch.Tensor | None = None

    def note(self, scores: torch.Tensor, hook: Any) -> None:
        self._total = scores.logsumexp(dim=-1, keepdim=True)

    def shrink(self, pattern: torch.Tensor, hook: Any) -> torch.Tensor:
        return pattern * torch.sigmoid(self._total - self._sinks)


def _add_sinks(model: Any, hf_model: Any) -> None:
    """Give the attention of GPT-OSS its sinks, which transformer-lens 3.2.1 leaves out."""
    for block, layer in zip(model.blocks, hf_model.model.layers, strict=True):
        sinks = _Sinks(layer.self_attn.sinks.detach())
        block.attn.hook_attn_scores.add_hook(sinks.note, is_permanent=True)
        block.attn.hook_pattern.add_hook(sinks.shrink, is_permanent=True)
