"""Open a transcoder set for a model. Every tensor is checked before it is used."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from tracer.errors import TranscoderError
from tracer.transcoders.config import CONFIG, SetConfig, local_files
from tracer.transcoders.layouts import Layer, find_layers
from tracer.transcoders.lazy_rows import StoredRows
from tracer.transcoders.other_tools import read_set_config
from tracer.transcoders.tensor_files import StoredTensor
from tracer.transcoders.transcoder import Transcoder, TranscoderSet
from tracer.types import Progress

LARGE_DECODERS: Final = 2**30
"""Bytes of decoder matrices beyond which they are left in their files by default."""


def load_transcoders(
    folder: Path | str,
    n_layers: int,
    d_model: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    lazy_decoders: bool | None = None,
    lazy_encoders: bool = False,
    files: Sequence[Path] | None = None,
    progress: Progress | None = None,
) -> TranscoderSet:
    """Open the set in ``folder`` for a model of ``n_layers`` blocks of width ``d_model``.

    All published layouts are supported (:mod:`tracer.transcoders.layouts`). ``files`` are local
    copies of what the folder's ``config.yaml`` lists as ``transcoders``; None takes the list as
    paths. ``progress`` counts layers.

    ``lazy_decoders`` leaves the decoder matrices in their files, to be read row by row. None does
    so if they would take more than ``LARGE_DECODERS`` bytes and their files can be read by rows.
    ``.npz`` files cannot; :func:`tracer.transcoders.save.convert` writes files that can.
    ``lazy_encoders`` reads encoders in blocks each time they are needed.

    Raises :class:`TranscoderError` naming the file if something is missing, damaged, not finite, or
    does not fit the model.

    >>> from tracer.catalog.resolve import resolve
    >>> folder = resolve("atlas").transcoder_folder
    >>> transcoders = load_transcoders(folder, n_layers=5, d_model=128)
    >>> transcoders.n_layers, transcoders.is_cross_layer, transcoders[0].n_features
    (5, False, 1024)
    """
    folder = Path(folder)
    config = read_set_config(folder)
    listed = local_files(folder, config) if files is None else files
    layers = find_layers(folder, config, listed, n_layers)
    if lazy_decoders is None:
        size = sum(layer["W_dec"].n_values for layer in layers) * dtype.itemsize
        by_rows = all(layer["W_dec"].file.by_rows for layer in layers)
        lazy_decoders = by_rows and size > LARGE_DECODERS
    _check_config(folder, config, layers)
    reader = _Reader(folder, config, n_layers, d_model, device, dtype, lazy_decoders, lazy_encoders)
    opened = []
    for number, layer in enumerate(layers):
        if progress is not None:
            progress(number, len(layers), "reading the transcoders")
        opened.append(reader.transcoder(number, layer))
    return TranscoderSet(
        layers=tuple(opened),
        read_point=config.read_point,
        write_point=config.write_point,
        scan=config.scan,
        model_name=config.model_name,
    )


def _check_config(folder: Path, config: SetConfig, layers: Sequence[Layer]) -> None:
    """Check what a config says about its tensors, and warn about settings of other tools."""
    stored = layers[0]["W_enc"].shape
    actual = {"n_layers": len(layers), "d_transcoder": stored[0], "d_model": stored[-1]}
    for name, size in config.shapes.items():
        if size != actual[name]:
            raise TranscoderError(
                f"{folder / CONFIG} has {name} {size}, the tensors have {actual[name]}: the config "
                "belongs to another set"
            )
    if config.ignored:
        warnings.warn(
            f"{folder / CONFIG} has {', '.join(config.ignored)}, which are settings of the tool "
            "that wrote it: ignored",
            stacklevel=3,
        )


class _Reader:
    """Reads and checks the layers of a set."""

    def __init__(
        self,
        folder: Path,
        config: SetConfig,
        n_layers: int,
        d_model: int,
        device: torch.device | str,
        dtype: torch.dtype,
        lazy_decoders: bool,
        lazy_encoders: bool,
    ) -> None:
        self.folder, self.config = folder, config
        self.n_layers, self.d_model = n_layers, d_model
        self.device, self.dtype = device, dtype
        self.lazy = {"W_dec": lazy_decoders, "W_enc": lazy_encoders}

    def transcoder(self, number: int, layer: Layer) -> Transcoder:
        """Return one layer, in memory or with its matrices left in their files."""
        shape, d_model = layer["W_enc"].shape, self.d_model
        if len(shape) != 2 or not shape[0]:
            raise TranscoderError(
                f"W_enc of layer {number} of {self.folder} has shape {shape}: expected (features, "
                f"{d_model})"
            )
        n_features = shape[0]
        outputs: tuple[int, ...] = (1,) if len(layer["W_dec"].shape) == 3 else ()
        if self.config.cross_layer:
            outputs = (self.n_layers - number,)

        def vector(name: str, *shape: int) -> Tensor:
            return self._read(number, name, layer[name], *shape).to(self.device, torch.float32)

        def matrix(name: str, *shape: int) -> Tensor | StoredRows:
            tensor = layer[name]
            if not self.lazy[name]:
                return self._read(number, name, tensor, *shape).to(self.device, self.dtype)
            self._check_shape(number, name, tensor, *shape)
            if not tensor.file.by_rows:
                raise TranscoderError(
                    f"{tensor.file.path} cannot be read row by row: convert the set first "
                    "(python -m tracer convert), or load it into memory"
                )
            self._check_kind(number, name, tensor.rows(0, 1))
            return StoredRows(tensor, self.device, self.dtype)

        W_dec = matrix("W_dec", n_features, *outputs, d_model)
        if isinstance(W_dec, Tensor):
            W_dec = W_dec.view(n_features, -1, d_model)
        k, threshold = self._activation(number, layer, n_features)
        return Transcoder(
            layer=number,
            W_enc=matrix("W_enc", n_features, d_model),
            b_enc=vector("b_enc", n_features),
            W_dec=W_dec,
            b_dec=vector("b_dec", d_model),
            threshold=vector("threshold", n_features) if threshold else None,
            k=k,
            rectified=self.config.activation == "relu_topk",
            W_skip=vector("W_skip", d_model, d_model) if "W_skip" in layer else None,
        )

    def _activation(self, number: int, layer: Layer, n_features: int) -> tuple[int | None, bool]:
        """Return ``k`` of a TopK layer, and whether thresholds apply."""
        chosen, k = self.config.activation, self.config.k
        if "k" in layer:
            k = self._stored_k(number, layer["k"])
        if chosen == "relu":
            return None, False
        if chosen in ("topk", "relu_topk") or (not chosen and k is not None):
            if k is None or not 1 <= k <= n_features:
                raise TranscoderError(
                    f"layer {number} of {self.folder} is TopK with k {k}: expected a number from 1 "
                    f"to {n_features}, in config.yaml or as a tensor"
                )
            return k, False
        if chosen == "jumprelu" and "threshold" not in layer:
            raise TranscoderError(
                f"layer {number} of {self.folder} is JumpReLU but has no threshold: fetch the set "
                "again, or remove 'activation' from its config.yaml"
            )
        return None, "threshold" in layer

    def _check_shape(self, number: int, name: str, tensor: StoredTensor, *shape: int) -> None:
        if tensor.shape != shape:
            raise TranscoderError(
                f"{name} of layer {number} of {self.folder} has shape {tensor.shape}, the model "
                f"needs {shape}: the set belongs to another model"
            )

    def _check_kind(self, number: int, name: str, value: Tensor) -> None:
        if not value.is_floating_point():
            raise TranscoderError(
                f"{name} of layer {number} of {self.folder} is stored as "
                f"{str(value.dtype).removeprefix('torch.')}: expected floating-point numbers; "
                "quantised ones cannot be read without their scales"
            )

    def _stored_k(self, number: int, tensor: StoredTensor) -> int:
        values = tensor.whole().flatten().tolist()
        if len(values) != 1 or values[0] is True or not float(values[0]).is_integer():
            raise TranscoderError(
                f"k of layer {number} of {self.folder} is {values[:3]}: expected one whole number"
            )
        return int(values[0])

    def _read(self, number: int, name: str, tensor: StoredTensor, *shape: int) -> Tensor:
        row = len(shape) == 1 and tensor.shape == (1, *shape)  # as some converters write vectors
        if not row:
            self._check_shape(number, name, tensor, *shape)
        value = tensor.whole().view(shape)
        self._check_kind(number, name, value)
        if not torch.isfinite(value).all():
            raise TranscoderError(
                f"{name} of layer {number} of {self.folder} has values that are not finite: "
                "the file is damaged, fetch it again"
            )
        return value
