"""Read transcoder sets from folders in the published layouts.

``config.yaml`` names the kind and the hooks; a per-layer set has one ``layer_{i}.safetensors`` a
layer, a cross-layer set ``W_enc_{i}.safetensors`` and ``W_dec_{i}.safetensors``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tracer.errors import TranscoderError
from tracer.transcoders.sets import ReadPoint, Transcoder, TranscoderSet, WritePoint

_KINDS = ("transcoder_set", "cross_layer_transcoder")


def load_transcoders(
    folder: Path | str,
    n_layers: int,
    d_model: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> TranscoderSet:
    """Open the set in ``folder`` for a model of ``n_layers`` blocks of width ``d_model``.

    Raises :class:`TranscoderError` naming the file when something is missing, damaged, holds
    values that are not finite, or does not fit the model.
    """
    folder = Path(folder)
    config = _read_config(folder)
    read = _read_cross_layer if config["model_kind"] == _KINDS[1] else _read_per_layer
    layers = []
    for layer in range(n_layers):
        tensors = read(folder, layer)
        tensors = {name: value.to(device, dtype) for name, value in tensors.items()}
        outputs = n_layers - layer if config["model_kind"] == _KINDS[1] else 1
        layers.append(_transcoder(folder, layer, tensors, d_model, outputs, config.get("k")))
    return TranscoderSet(
        layers=tuple(layers),
        read_point=_hook(ReadPoint, config, "feature_input_hook", folder),
        write_point=_hook(WritePoint, config, "feature_output_hook", folder),
        scan=str(config.get("scan", folder.name)),
    )


def _read_config(folder: Path) -> Mapping[str, Any]:
    path = folder / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TranscoderError(f"{path} cannot be read: {error}") from error
    if not isinstance(config, dict) or config.get("model_kind") not in _KINDS:
        found = config.get("model_kind") if isinstance(config, dict) else config
        raise TranscoderError(
            f"{path} has model_kind {found!r}: expected one of {', '.join(_KINDS)}"
        )
    return config


def _hook(kind: Any, config: Mapping[str, Any], key: str, folder: Path) -> Any:
    try:
        return kind(config[key])
    except (KeyError, ValueError) as error:
        known = ", ".join(point.value for point in kind)
        raise TranscoderError(
            f"{folder / 'config.yaml'} has {key} {config.get(key)!r}: expected one of {known}"
        ) from error


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise TranscoderError(
            f"{path} cannot be read ({error}): the set needs this file for every layer of the "
            "model; fetch it again"
        ) from error
    return tensors


def _read_per_layer(folder: Path, layer: int) -> dict[str, Tensor]:
    tensors = _read_file(folder / f"layer_{layer}.safetensors")
    renamed = {"activation_function.threshold": "threshold"}
    return {renamed.get(name, name): value for name, value in tensors.items()}


def _read_cross_layer(folder: Path, layer: int) -> dict[str, Tensor]:
    tensors = _read_file(folder / f"W_enc_{layer}.safetensors")
    tensors |= _read_file(folder / f"W_dec_{layer}.safetensors")
    return {name.removesuffix(f"_{layer}"): value for name, value in tensors.items()}


def _transcoder(
    folder: Path,
    layer: int,
    tensors: Mapping[str, Tensor],
    d_model: int,
    outputs: int,
    k: int | None,
) -> Transcoder:
    def tensor(name: str, *shape: int) -> Tensor:
        if name not in tensors:
            raise TranscoderError(
                f"layer {layer} of {folder} has no {name}: found {', '.join(sorted(tensors))}"
            )
        value = tensors[name]
        if tuple(value.shape) != shape:
            raise TranscoderError(
                f"{name} of layer {layer} of {folder} has shape {tuple(value.shape)}, the model "
                f"needs {shape}: these transcoders belong to another model"
            )
        if not torch.isfinite(value).all():
            raise TranscoderError(
                f"{name} of layer {layer} of {folder} holds values that are not finite: the file "
                "is damaged, fetch it again"
            )
        return value

    n_features = tensors["W_enc"].shape[0] if "W_enc" in tensors else 0
    cross_layer = "W_dec" in tensors and tensors["W_dec"].ndim == 3
    decoder_shape = (n_features, outputs, d_model) if cross_layer else (n_features, d_model)
    if "k" in tensors:
        k = int(tensors["k"].item())
    return Transcoder(
        layer=layer,
        W_enc=tensor("W_enc", n_features, d_model),
        b_enc=tensor("b_enc", n_features),
        W_dec=tensor("W_dec", *decoder_shape).view(n_features, -1, d_model),
        b_dec=tensor("b_dec", d_model),
        threshold=tensor("threshold", n_features) if "threshold" in tensors else None,
        k=k,
        W_skip=tensor("W_skip", d_model, d_model) if "W_skip" in tensors else None,
    )
