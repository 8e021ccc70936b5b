"""Find the tensors of every layer, in every layout that transcoder sets are published in.

A layout is recognised by suffixes and keys, never by a repository's name:

- per-layer: ``layer_{i}.safetensors`` with ``W_enc``, ``W_dec``, …; TopK sets as well;
- Gemma Scope: ``.npz`` with ``W_enc`` transposed;
- Gemma Scope 2: lower-case ``w_enc`` and ``affine_skip_connection``, both transposed;
- sparsify: ``encoder.weight`` and ``encoder.bias``;
- SAELens: ``sae_weights.safetensors`` with ``W_enc`` transposed;
- cross-layer: ``W_enc_{i}.safetensors`` and ``W_dec_{i}.safetensors``;
- Gemma Scope 2 cross-layer: lower-case keys, one file per layer or all layers stacked in one file.
  Decoders have outputs for all layers, zeros for those before the feature's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tracer.errors import TranscoderError
from tracer.transcoders.config import SetConfig
from tracer.transcoders.other_tools import SAELENS
from tracer.transcoders.tensor_files import StoredTensor, TensorFile, open_tensors

Layer = Mapping[str, StoredTensor]
"""Tensors of one layer by the names in `NAMES`."""

NAMES: Final = ("W_enc", "W_dec", "W_skip", "b_enc", "b_dec", "threshold", "k")
THRESHOLD: Final = "activation_function.threshold"
_PER_LAYER: Final = {name: name for name in NAMES} | {"threshold": THRESHOLD}
_SPARSIFY: Final = {
    "W_enc": "encoder.weight",
    "W_dec": "W_dec",
    "W_skip": "W_skip",
    "b_enc": "encoder.bias",
    "b_dec": "b_dec",
}
_SAELENS: Final = {name: name for name in NAMES if name != "k"}
_GEMMA_SCOPE: Final = {name: name for name in ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")}
_GEMMA_SCOPE_2: Final = {
    "W_enc": "w_enc",
    "W_dec": "w_dec",
    "b_enc": "b_enc",
    "b_dec": "b_dec",
    "threshold": "threshold",
    "W_skip": "affine_skip_connection",
}


def find_layers(
    folder: Path, config: SetConfig, listed: Sequence[Path], n_layers: int
) -> list[Layer]:
    """Return the tensors of every layer. ``listed`` are local files of ``config.transcoders``.

    Raises :class:`TranscoderError` if a file is missing, damaged or in an unknown layout, or if the
    set does not have ``n_layers`` layers.
    """
    if listed:
        layers = _listed(folder, config, listed, n_layers)
    elif config.cross_layer:
        layers = _cross_layer(folder, n_layers)
    else:
        _refuse_surplus(folder, folder / f"layer_{n_layers}.safetensors", n_layers)
        paths = [folder / f"layer_{layer}.safetensors" for layer in range(n_layers)]
        layers = [_single(open_tensors(path)) for path in paths]
    for number, layer in enumerate(layers):
        for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
            if name not in layer:
                stored = sorted(tensor.name for tensor in layer.values())
                raise TranscoderError(
                    f"layer {number} of {folder} has no {name}: it has {', '.join(stored)}"
                )
    for name in ("W_skip", "threshold", "k"):
        has = [name in layer for layer in layers]
        if any(has) and not all(has):
            raise TranscoderError(
                f"layer {has.index(False)} of {folder} has no {name}, layer {has.index(True)} has "
                "one: expected layers of the same kind; fetch the set again"
            )
    return layers


def count_layers(folder: Path, config: SetConfig, listed: Sequence[Path]) -> int:
    """Return the number of layers, judged by the files.

    Raises :class:`TranscoderError` if there are none, or if one is missing in between.
    """
    if listed and not (config.cross_layer and len(listed) == 1):
        return len(listed)
    for pattern in ("layer_{}.safetensors", "W_enc_{}.safetensors"):
        layers = _numbers(folder, pattern)
        if layers and not listed:
            missing = set(range(max(layers))) - layers
            if missing:
                raise TranscoderError(
                    f"{folder} has {pattern.format(max(layers))} but not "
                    f"{pattern.format(min(missing))}: a set needs a file for every layer; fetch it "
                    "again"
                )
            return len(layers)
    alone = [*listed] or sorted(folder.glob("*.safetensors"))
    shape = open_tensors(alone[0]).shapes.get("w_enc", ()) if len(alone) == 1 else ()
    if len(shape) != 3:
        raise TranscoderError(
            f"{folder} has a config.yaml but no transcoders: expected a file per layer starting "
            "at layer_0.safetensors or W_enc_0.safetensors, or a list of files in config.yaml"
        )
    return shape[0]


def _numbers(folder: Path, pattern: str) -> set[int]:
    """Return the layers that have a file of that name."""
    before, _, after = pattern.partition("{}")
    names = [p.name for p in folder.glob(pattern.format("*")) if p.is_file()]
    numbers = [name.removeprefix(before).removesuffix(after) for name in names]
    return {int(n) for n in numbers if n.isdecimal() and pattern.format(int(n)) in names}


def _listed(folder: Path, config: SetConfig, listed: Sequence[Path], n_layers: int) -> list[Layer]:
    if config.cross_layer and len(listed) == 1:
        return _stacked(open_tensors(listed[0]), n_layers)
    if len(listed) != n_layers:
        raise TranscoderError(
            f"{folder} lists {len(listed)} transcoders, the model has {n_layers} layers: the set "
            "belongs to another model"
        )
    files = [open_tensors(path) for path in listed]
    if not config.cross_layer:
        return [_single(file) for file in files]
    return [_lower_case(file, first_output=number) for number, file in enumerate(files)]


def _single(file: TensorFile) -> Layer:
    """Return a layer whose features write to that layer only."""
    if file.path.suffix == ".npz":
        return _named(file, _GEMMA_SCOPE, transposed=("W_enc",))
    if "w_enc" in file.shapes:
        return _lower_case(file)
    names: Mapping[str, str] = _PER_LAYER
    transposed: tuple[str, ...] = ()
    if "encoder.weight" in file.shapes:
        names = _SPARSIFY
    elif file.path.name == SAELENS:
        names, transposed = _SAELENS, ("W_enc",)
    elif "threshold" in file.shapes and THRESHOLD not in file.shapes:
        names = {name: name for name in NAMES}  # as some converters call it
    unknown = sorted(set(file.shapes) - set(names.values()))
    if unknown:
        raise TranscoderError(
            f"{file.path} has {', '.join(unknown)}: unrecognised transcoder layout; supported "
            f"tensors are {', '.join(names.values())} (or w_enc, w_dec, …)"
        )
    return _named(file, names, transposed)


def _lower_case(file: TensorFile, entry: int | None = None, first_output: int = 0) -> Layer:
    if "w_enc" not in file.shapes:
        raise TranscoderError(
            f"{file.path} has no w_enc: files listed by a cross-layer set are expected in the "
            f"layout of Gemma Scope 2; it has {', '.join(sorted(file.shapes))}"
        )
    return _named(file, _GEMMA_SCOPE_2, ("W_enc", "W_skip"), entry, first_output)


def _cross_layer(folder: Path, n_layers: int) -> list[Layer]:
    first = folder / "W_enc_0.safetensors"
    if not first.exists():
        if (folder / "layer_0.safetensors").exists():
            _refuse_surplus(folder, folder / f"layer_{n_layers}.safetensors", n_layers)
            files = [open_tensors(folder / f"layer_{i}.safetensors") for i in range(n_layers)]
            return [_lower_case(file, first_output=number) for number, file in enumerate(files)]
        alone = sorted(folder.glob("*.safetensors"))
        if len(alone) == 1:
            return _stacked(open_tensors(alone[0]), n_layers)
    _refuse_surplus(folder, folder / f"W_enc_{n_layers}.safetensors", n_layers)
    layers: list[Layer] = []
    for layer in range(n_layers):
        names = {name: f"{name}_{layer}" for name in NAMES}
        encoder = open_tensors(folder / f"W_enc_{layer}.safetensors")
        decoder = open_tensors(folder / f"W_dec_{layer}.safetensors")
        layers.append({**_named(encoder, names), **_named(decoder, {"W_dec": names["W_dec"]})})
    return layers


def _stacked(file: TensorFile, n_layers: int) -> list[Layer]:
    shape = file.shapes.get("w_enc", ())
    if len(shape) != 3 or shape[0] != n_layers:
        raise TranscoderError(
            f"w_enc in {file.path} has shape {shape}: expected ({n_layers}, d_model, features), "
            "all layers of the model stacked"
        )
    return [_lower_case(file, entry=layer, first_output=layer) for layer in range(n_layers)]


def _named(
    file: TensorFile,
    names: Mapping[str, str],
    transposed: Sequence[str] = (),
    entry: int | None = None,
    first_output: int = 0,
) -> Layer:
    return {
        name: StoredTensor(
            file, stored, name in transposed, entry, first_output if name == "W_dec" else 0
        )
        for name, stored in names.items()
        if stored in file.shapes
    }


def _refuse_surplus(folder: Path, next_file: Path, n_layers: int) -> None:
    if next_file.exists():
        raise TranscoderError(
            f"{folder} has transcoders for more layers than the model's {n_layers}: the set "
            "belongs to another model"
        )
