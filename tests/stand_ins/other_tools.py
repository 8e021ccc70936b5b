"""Transcoder sets as sparsify and SAELens write them, with the numbers of the tiny sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tiny
from safetensors.torch import load_file, save_file

N_LAYERS, D_MODEL = 3, 32
SPARSIFY = {"activation": "topk", "k": 5, "transcode": True, "d_in": D_MODEL, "skip_connection": 1}


def moved(folder: Path, names: str, settings: dict[str, Any], file: str) -> dict[int, Any]:
    """Move each layer's file into a folder of its own with settings; return the tensors."""
    layers = {}
    for layer in range(N_LAYERS):
        path = folder / f"layer_{layer}.safetensors"
        layers[layer] = load_file(path)
        path.unlink()
        inside = folder / names.format(layer)
        inside.mkdir(parents=True)
        text = json.dumps(settings).replace("LAYER", str(layer))
        (inside / "cfg.json").write_text(text)
    (folder / "config.yaml").unlink()
    return {folder / names.format(layer) / file: layers[layer] for layer in layers}


def sparsify(folder: Path, **settings: Any) -> Path:
    tiny.save_transcoders(folder, activation="topk", skip=True)
    files = moved(folder, "layers.{}.mlp", SPARSIFY | settings, "sae.safetensors")
    for path, tensors in files.items():
        tensors["encoder.weight"] = tensors.pop("W_enc")
        tensors["encoder.bias"] = tensors.pop("b_enc")
        save_file(tensors, path)
    return folder


def saelens(folder: Path, flat: bool = False, **settings: Any) -> Path:
    hooks = {
        "hook_name": "blocks.LAYER.ln2.hook_normalized",
        "hook_name_out": "blocks.LAYER.hook_mlp_out",
        "model_name": "gemma-2-2b",
    }
    stored: dict[str, Any] = {"architecture": "jumprelu_skip_transcoder", "d_in": D_MODEL}
    stored |= hooks if flat else {"metadata": hooks}
    tiny.save_transcoders(folder, skip=True)
    files = moved(folder, "blocks.{}/x", stored | settings, "sae_weights.safetensors")
    for path, tensors in files.items():
        tensors["W_enc"] = tensors["W_enc"].T.contiguous()
        tensors["threshold"] = tensors.pop("activation_function.threshold")
        save_file(tensors, path)
    return folder
