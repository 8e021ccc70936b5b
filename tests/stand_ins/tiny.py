"""Small random models and transcoder sets, saved in the layouts of published ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tiny_models
import torch
import yaml
from safetensors.torch import save_file
from tiny_models import ARCHITECTURES, D_MODEL, N_LAYERS, VOCABULARY, spread
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

__all__ = ["ARCHITECTURES", "IDS", "PROMPT", "save_model", "save_transcoders"]

N_FEATURES = 24
PROMPT = "w1 w7 w2 w30 w11"
IDS = (1, 5, 11, 6, 34, 15)
"""The token ids of the prompt, for families that read their folder with another tokenizer."""


def save_model(folder: Path, architecture: str = "llama") -> Path:
    """Save a random model of ``architecture`` with a word-level tokenizer; return its folder."""
    tiny_models.build(architecture).save_pretrained(folder)
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
    """Save a random transcoder set for a model of :func:`save_model`; return its folder."""
    generator = torch.Generator().manual_seed(11)
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
            "W_enc": spread(generator, N_FEATURES, D_MODEL) / D_MODEL**0.5,
            "W_dec": spread(generator, N_FEATURES, *outputs, D_MODEL) / D_MODEL**0.5,
            "b_enc": spread(generator, N_FEATURES) * 0.1,
            "b_dec": spread(generator, D_MODEL) * 0.1,
        }
        if activation == "jumprelu":
            tensors["threshold"] = torch.rand(N_FEATURES, generator=generator) * 0.5
        if skip:
            tensors["W_skip"] = spread(generator, D_MODEL, D_MODEL) / D_MODEL
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
