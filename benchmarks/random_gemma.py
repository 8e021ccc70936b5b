"""A model in the shape of Gemma 2 with a per-layer transcoder set, of random numbers.

Written in the published layouts, in shards, without ever holding the weights in memory at once.
Run by `opening.py` and `gpu.py`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedTokenizerFast

SHARD_VALUES = 5 * 10**8
SPREAD = 0.03
"""Weights are uniform between -SPREAD and SPREAD."""


@dataclass(frozen=True)
class Shape:
    """The sizes of Gemma-2-2B, unless told otherwise."""

    layers: int = 26
    d_model: int = 2304
    features: int = 16_384
    vocabulary: int = 256_000
    active: float = 60.0
    """Mean number of active features of a token in a layer."""

    @property
    def threshold(self) -> float:
        """The JumpReLU threshold: pre-activations are normal with a known deviation."""
        deviation = SPREAD / math.sqrt(3) * math.sqrt(self.d_model)
        share = torch.tensor(1 - self.active / self.features, dtype=torch.float64)
        return float(torch.special.ndtri(share)) * deviation


def save(folder: Path, shape: Shape, dtype: torch.dtype, device: str = "cpu") -> tuple[Path, Path]:
    """Write both folders and return them; ``device`` draws the numbers."""
    torch.manual_seed(0)
    model, transcoders = folder / "model", folder / "transcoders"
    _save_model(model, shape, dtype, device)
    _save_tokenizer(model)
    transcoders.mkdir()
    described = {
        "model_name": "google/gemma-2-2b",
        "model_kind": "transcoder_set",
        "feature_input_hook": "ln2.hook_normalized",
        "feature_output_hook": "hook_mlp_out",
        "scan": "random",
    }
    (transcoders / "config.yaml").write_text(yaml.safe_dump(described))
    matrix = (shape.features, shape.d_model)
    for layer in range(shape.layers):
        tensors = {
            "W_enc": _random(matrix, dtype, device),
            "W_dec": _random(matrix, dtype, device),
            "b_enc": torch.zeros(shape.features, dtype=dtype),
            "b_dec": torch.zeros(shape.d_model, dtype=dtype),
            "activation_function.threshold": torch.full(
                (shape.features,), shape.threshold, dtype=dtype
            ),
        }
        save_file(tensors, transcoders / f"layer_{layer}.safetensors")
    return model, transcoders


def _random(size: tuple[int, ...], dtype: torch.dtype, device: str) -> Tensor:
    return torch.empty(size, dtype=dtype, device=device).uniform_(-SPREAD, SPREAD).cpu()


def _save_model(folder: Path, shape: Shape, dtype: torch.dtype, device: str) -> None:
    config = Gemma2Config(
        num_hidden_layers=shape.layers,
        hidden_size=shape.d_model,
        intermediate_size=4 * shape.d_model,
        vocab_size=shape.vocabulary,
        dtype=dtype,
    )
    with torch.device("meta"):
        sizes = {n: tuple(p.shape) for n, p in Gemma2ForCausalLM(config).named_parameters()}
    config.architectures = ["Gemma2ForCausalLM"]
    config.save_pretrained(folder)
    places = {}
    for number, names in enumerate(_shards(sizes)):
        file = f"model-{number:05d}.safetensors"
        tensors = {name: _random(sizes[name], dtype, device) for name in names}
        save_file(tensors, folder / file, {"format": "pt"})
        places.update(dict.fromkeys(names, file))
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _shards(sizes: dict[str, tuple[int, ...]]) -> Iterator[list[str]]:
    names: list[str] = []
    for name in sizes:
        names.append(name)
        if sum(math.prod(sizes[n]) for n in names) > SHARD_VALUES:
            yield names
            names = []
    if names:
        yield names


def _save_tokenizer(folder: Path) -> None:
    words = {word: i for i, word in enumerate(("<pad>", "<eos>", "<bos>", "<unk>", "a", "b", "c"))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        pad_token="<pad>",
    ).save_pretrained(folder)
