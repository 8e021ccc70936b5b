"""Read transcoder sets from folders in the published layouts.

``config.yaml`` names the kind and the hooks; a per-layer set has one ``layer_{i}.safetensors`` a
layer, a cross-layer set ``W_enc_{i}.safetensors`` and ``W_dec_{i}.safetensors``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
import yaml
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tracer.errors import TranscoderError
from tracer.transcoders.sets import ReadPoint, Transcoder, TranscoderSet, WritePoint
from tracer.transcoders.stored import StoredRows

LARGE_DECODERS: Final = 2**30
"""Bytes of decoder matrices beyond which they are left in their files unless asked otherwise."""

_TENSORS: Final = ("W_enc", "W_dec", "W_skip", "b_enc", "b_dec", "threshold", "k")
_KINDS: Final = ("transcoder_set", "cross_layer_transcoder")


def load_transcoders(
    folder: Path | str,
    n_layers: int,
    d_model: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    lazy_decoders: bool | None = None,
    lazy_encoders: bool = False,
) -> TranscoderSet:
    """Open the set in ``folder`` for a model of ``n_layers`` blocks of width ``d_model``.

    ``lazy_decoders`` leaves the decoder matrices in their files, to be read row by row; None does
    so when they would take more than ``LARGE_DECODERS`` bytes. ``lazy_encoders`` reads one layer's
    encoder at a time, each time it is needed.

    Raises :class:`TranscoderError` naming the file when something is missing, damaged, holds
    values that are not finite, or does not fit the model.
    """
    folder = Path(folder)
    config = _read_config(folder)
    cross_layer = config["model_kind"] == _KINDS[1]
    find = _cross_layer_tensors if cross_layer else _per_layer_tensors
    surplus = find(folder, n_layers)
    if next(iter(surplus.values()))[0].exists():
        raise TranscoderError(
            f"{folder} has transcoders for more layers than the model's {n_layers}: they belong "
            "to another model"
        )
    files = [_Layer(folder, layer, find(folder, layer)) for layer in range(n_layers)]
    if lazy_decoders is None:
        size = sum(file.n_values("W_dec") for file in files) * dtype.itemsize
        lazy_decoders = size > LARGE_DECODERS
    return TranscoderSet(
        layers=tuple(
            file.transcoder(
                d_model,
                n_layers - file.layer if cross_layer else 1,
                config.get("k"),
                device,
                dtype,
                {"W_dec": lazy_decoders, "W_enc": lazy_encoders},
            )
            for file in files
        ),
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


def _per_layer_tensors(folder: Path, layer: int) -> dict[str, tuple[Path, str]]:
    """File and stored name of every tensor a layer may have."""
    path = folder / f"layer_{layer}.safetensors"
    names = {name: name for name in _TENSORS} | {"threshold": "activation_function.threshold"}
    return {name: (path, stored) for name, stored in names.items()}


def _cross_layer_tensors(folder: Path, layer: int) -> dict[str, tuple[Path, str]]:
    encoder = folder / f"W_enc_{layer}.safetensors"
    places = {name: (encoder, f"{name}_{layer}") for name in _TENSORS}
    return places | {"W_dec": (folder / f"W_dec_{layer}.safetensors", f"W_dec_{layer}")}


class _Layer:
    """The files of one layer, opened; every tensor that is handed out has been checked."""

    def __init__(self, folder: Path, layer: int, places: Mapping[str, tuple[Path, str]]) -> None:
        self.folder, self.layer = folder, layer
        self._files: dict[Path, Any] = {}
        self._places: dict[str, tuple[Path, str]] = {}
        for name, (path, stored) in places.items():
            if path not in self._files:
                self._files[path] = _open(path)
            if stored in self._files[path].keys():  # noqa: SIM118  (no iterator of its own)
                self._places[name] = path, stored

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a stored tensor, without reading it; raises :class:`TranscoderError` without it."""
        if name not in self._places:
            stored = sorted(key for file in self._files.values() for key in file.keys())  # noqa: SIM118
            raise TranscoderError(
                f"layer {self.layer} of {self.folder} has no {name}: found {', '.join(stored)}"
            )
        path, stored_name = self._places[name]
        return tuple(self._files[path].get_slice(stored_name).get_shape())

    def n_values(self, name: str) -> int:
        return math.prod(self.shape(name))

    def _check_shape(self, name: str, *shape: int) -> None:
        if self.shape(name) != shape:
            raise TranscoderError(
                f"{name} of layer {self.layer} of {self.folder} has shape {self.shape(name)}, the "
                f"model needs {shape}: these transcoders belong to another model"
            )

    def _read(self, name: str, *shape: int) -> Tensor:
        self._check_shape(name, *shape)
        path, stored = self._places[name]
        value: Tensor = self._files[path].get_tensor(stored)
        if not torch.isfinite(value).all():
            raise TranscoderError(
                f"{name} of layer {self.layer} of {self.folder} holds values that are not finite: "
                "the file is damaged, fetch it again"
            )
        return value

    def transcoder(
        self,
        d_model: int,
        outputs: int,
        k: int | None,
        device: torch.device | str,
        dtype: torch.dtype,
        lazy: Mapping[str, bool],
    ) -> Transcoder:
        """All of the layer, for a model of width ``d_model``."""

        def vector(name: str, *shape: int) -> Tensor:
            return self._read(name, *shape).to(device, torch.float32)

        def matrix(name: str, *shape: int) -> Tensor | StoredRows:
            if lazy[name]:
                self._check_shape(name, *shape)
                return StoredRows(*self._places[name], device, dtype)
            return self._read(name, *shape).to(device, dtype)

        n_features = self.shape("W_enc")[0]
        per_output = (outputs,) if len(self.shape("W_dec")) == 3 else ()
        W_dec = matrix("W_dec", n_features, *per_output, d_model)
        if isinstance(W_dec, Tensor):
            W_dec = W_dec.view(n_features, -1, d_model)
        if "k" in self._places:
            k = int(vector("k", *self.shape("k")).item())
        return Transcoder(
            layer=self.layer,
            W_enc=matrix("W_enc", n_features, d_model),
            b_enc=vector("b_enc", n_features),
            W_dec=W_dec,
            b_dec=vector("b_dec", d_model),
            threshold=vector("threshold", n_features) if "threshold" in self._places else None,
            k=k,
            W_skip=vector("W_skip", d_model, d_model) if "W_skip" in self._places else None,
        )


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise TranscoderError(
            f"{path} cannot be read ({error}): the set needs this file for every layer of the "
            "model; fetch it again"
        ) from error
