"""Small random models and transcoder sets, saved in the exact layouts that real ones come in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

VOCABULARY = ("<pad>", "<bos>", "<eos>", "<unk>", *(f"w{i}" for i in range(56)))
N_LAYERS, D_MODEL, N_FEATURES = 3, 32, 24
PROMPT = "w1 w7 w2 w30 w11"
SPECIAL: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def _llama() -> Any:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(VOCABULARY),
            hidden_size=D_MODEL,
            intermediate_size=48,
            num_hidden_layers=N_LAYERS,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=16,
            **SPECIAL,
        )
    )


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
        Gemma2Config(
            vocab_size=len(VOCABULARY),
            hidden_size=D_MODEL,
            intermediate_size=48,
            num_hidden_layers=N_LAYERS,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            query_pre_attn_scalar=8,
            sliding_window=4,
            max_position_embeddings=16,
            **SPECIAL,
        )
    )


def _neox() -> Any:
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=len(VOCABULARY),
            hidden_size=D_MODEL,
            intermediate_size=48,
            num_hidden_layers=N_LAYERS,
            num_attention_heads=4,
            max_position_embeddings=16,
            **SPECIAL,
        )
    )


ARCHITECTURES = {"llama": _llama, "gpt2": _gpt2, "gemma2": _gemma2, "neox": _neox}


def save_model(folder: Path, architecture: str = "llama") -> Path:
    """A random model of ``architecture`` with a word-level tokenizer, in a Hugging Face folder."""
    torch.manual_seed(7)
    model = ARCHITECTURES[architecture]()
    with torch.no_grad():
        for parameter in model.parameters():  # also norms and biases, so that none hides
            parameter.add_(torch.randn_like(parameter) * 0.15)
    model.save_pretrained(folder)
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        pad_token="<pad>",
    ).save_pretrained(folder)
    return folder


def save_transcoders(
    folder: Path,
    kind: str = "transcoder_set",
    read: str = "mlp.hook_in",
    write: str = "mlp.hook_out",
    activation: str = "jumprelu",
    skip: bool = False,
) -> Path:
    """A random transcoder set that fits :func:`save_model`, in a published layout."""
    torch.manual_seed(11)
    folder.mkdir(parents=True, exist_ok=True)
    config: dict[str, Any] = {
        "model_name": "tiny",
        "model_kind": kind,
        "feature_input_hook": read,
        "feature_output_hook": write,
        "scan": "tiny",
    }
    if activation == "topk":
        config |= {"activation": "topk", "k": 5}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    cross = kind == "cross_layer_transcoder"
    for layer in range(N_LAYERS):
        outputs = (N_LAYERS - layer,) if cross else ()
        tensors = {
            "W_enc": torch.randn(N_FEATURES, D_MODEL) / D_MODEL**0.5,
            "W_dec": torch.randn(N_FEATURES, *outputs, D_MODEL) / D_MODEL**0.5,
            "b_enc": torch.randn(N_FEATURES) * 0.1,
            "b_dec": torch.randn(D_MODEL) * 0.1,
        }
        if activation == "jumprelu":
            tensors["threshold"] = torch.rand(N_FEATURES) * 0.5
        if skip:
            tensors["W_skip"] = torch.randn(D_MODEL, D_MODEL) / D_MODEL
        if cross:
            decoder = {f"W_dec_{layer}": tensors.pop("W_dec")}
            save_file(decoder, folder / f"W_dec_{layer}.safetensors")
            encoder = {f"{name}_{layer}": value for name, value in tensors.items()}
            save_file(encoder, folder / f"W_enc_{layer}.safetensors")
        else:
            if "threshold" in tensors:
                tensors["activation_function.threshold"] = tensors.pop("threshold")
            save_file(tensors, folder / f"layer_{layer}.safetensors")
    return folder
