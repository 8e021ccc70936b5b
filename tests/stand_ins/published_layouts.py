"""Write the same transcoder set in every layout that sets are published in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import tiny
import torch
import yaml
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]
N_LAYERS = 3


def per_layer(folder: Path) -> Path:
    """``layer_{i}.safetensors``, JumpReLU, with a skip connection."""
    return tiny.save_transcoders(folder, skip=True)


def cross_layer(folder: Path) -> Path:
    return tiny.save_transcoders(folder, "cross_layer_transcoder", skip=True)


def top_k(folder: Path) -> Path:
    return tiny.save_transcoders(folder, activation="topk")


def top_k_stored(folder: Path) -> Path:
    """``k`` as a tensor instead of in the config."""
    tiny.save_transcoders(folder, activation="topk")
    _configure(folder, drop=("activation", "k"))
    for layer in range(N_LAYERS):
        path = folder / f"layer_{layer}.safetensors"
        save_file(load_file(path) | {"k": torch.tensor([5])}, path)
    return folder


def listed(folder: Path) -> Path:
    """The per-layer files in other folders, listed in the config."""
    per_layer(folder)
    names = []
    for layer in range(N_LAYERS):
        names.append(f"elsewhere/{layer}/trained.safetensors")
        target = folder / names[-1]
        target.parent.mkdir(parents=True)
        (folder / f"layer_{layer}.safetensors").rename(target)
    _configure(folder, transcoders=names)
    return folder


def gemma_scope(folder: Path) -> Path:
    """``params.npz`` with a transposed encoder; reads the normalised residual stream."""
    tiny.save_transcoders(folder, read="ln2.hook_normalized", write="hook_mlp_out")
    names = []
    for layer, tensors in enumerate(_take_tensors(folder, "layer_{}.safetensors")):
        names.append(f"layer_{layer}/width_16k/average_l0_{70 + layer}/params.npz")
        (folder / names[-1]).parent.mkdir(parents=True)
        arrays = {name: tensors[name].numpy() for name in ("W_dec", "b_enc", "b_dec")}
        arrays["W_enc"] = tensors["W_enc"].T.contiguous().numpy()
        arrays["threshold"] = tensors["activation_function.threshold"].numpy()
        np.savez(folder / names[-1], **arrays)
    _configure(folder, transcoders=names)
    return folder


def gemma_scope_2(folder: Path) -> Path:
    """Lower-case keys, encoder and skip connection transposed."""
    per_layer(folder)
    names = []
    for layer, tensors in enumerate(_take_tensors(folder, "layer_{}.safetensors")):
        names.append(f"transcoder_all/layer_{layer}_width_16k_l0_small_affine/params.safetensors")
        (folder / names[-1]).parent.mkdir(parents=True)
        save_file(_lower_case(tensors), folder / names[-1])
    _configure(folder, transcoders=names)
    return folder


def gemma_scope_2_cross_layer(folder: Path) -> Path:
    """One file per layer; decoders have outputs for all layers, zeros before the feature's own."""
    names = []
    for layer, tensors in enumerate(_with_all_outputs(cross_layer(folder))):
        names.append(f"clt/layer_{layer}/params.safetensors")
        (folder / names[-1]).parent.mkdir(parents=True)
        save_file(_lower_case(tensors), folder / names[-1])
    _configure(folder, transcoders=names)
    return folder


def gemma_scope_2_stacked(folder: Path) -> Path:
    """All layers stacked in one file that the config does not list."""
    layers = [_lower_case(tensors) for tensors in _with_all_outputs(cross_layer(folder))]
    stacked = {name: torch.stack([layer[name] for layer in layers]) for name in layers[0]}
    save_file(stacked, folder / "params.safetensors")
    return folder


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "per-layer": per_layer,
    "per-layer, listed": listed,
    "TopK": top_k,
    "TopK, k stored": top_k_stored,
    "Gemma Scope": gemma_scope,
    "Gemma Scope 2": gemma_scope_2,
    "cross-layer": cross_layer,
    "Gemma Scope 2 cross-layer": gemma_scope_2_cross_layer,
    "Gemma Scope 2 cross-layer, stacked": gemma_scope_2_stacked,
}


def _configure(folder: Path, drop: tuple[str, ...] = (), **changes: object) -> None:
    path = folder / "config.yaml"
    config = yaml.safe_load(path.read_text()) | changes
    path.write_text(yaml.safe_dump({k: v for k, v in config.items() if k not in drop}))


def _take_tensors(folder: Path, name: str) -> list[Tensors]:
    """Return the tensors of every layer's file, and delete the files."""
    layers = []
    for layer in range(N_LAYERS):
        path = folder / name.format(layer)
        layers.append(load_file(path))
        path.unlink()
    return layers


def _with_all_outputs(folder: Path) -> list[Tensors]:
    """Return a cross-layer set's tensors without layers in their names, decoders padded."""
    encoders, decoders = (
        _take_tensors(folder, "W_enc_{}.safetensors"),
        _take_tensors(folder, "W_dec_{}.safetensors"),
    )
    layers = []
    for layer, (encoder, decoder) in enumerate(zip(encoders, decoders, strict=True)):
        tensors = {name.removesuffix(f"_{layer}"): value for name, value in encoder.items()}
        written = decoder[f"W_dec_{layer}"]
        before = torch.zeros(len(written), layer, written.shape[2])
        layers.append(tensors | {"W_dec": torch.cat([before, written], dim=1)})
    return layers


def _lower_case(tensors: Tensors) -> Tensors:
    threshold = tensors.get("threshold", tensors.get("activation_function.threshold"))
    assert threshold is not None
    return {
        "w_enc": tensors["W_enc"].T.contiguous(),
        "w_dec": tensors["W_dec"].contiguous(),
        "b_enc": tensors["b_enc"],
        "b_dec": tensors["b_dec"],
        "threshold": threshold,
        "affine_skip_connection": tensors["W_skip"].T.contiguous(),
    }
