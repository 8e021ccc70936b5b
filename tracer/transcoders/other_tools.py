"""Transcoder sets as sparsify and SAELens write them: a folder for each layer, with ``cfg.json``.

Only per-layer transcoders of MLPs are read. A sparse autoencoder, or a transcoder that normalises
what it reads, would give wrong numbers, so it is refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, TypeVar

from tracer import paths
from tracer.errors import TranscoderError
from tracer.parsing import read_json
from tracer.transcoders.config import CONFIG, ReadPoint, SetConfig, WritePoint, read_config

SETTINGS: Final = "cfg.json"
SPARSIFY: Final = "sae.safetensors"
SAELENS: Final = "sae_weights.safetensors"
TENSORS: Final = (SPARSIFY, SAELENS)
"""Files that hold the tensors of one layer."""
_SPARSIFY_FOLDER: Final = re.compile(r"(?:[\w.]{1,80}\.)?(?:layers|h|blocks)\.([0-9]{1,4})\.mlp")
_SAELENS_HOOK: Final = re.compile(r"blocks\.([0-9]{1,4})\.([\w.]+)")
_READS: Final = {
    "ln2.hook_normalized": ReadPoint.NORMALIZED,
    "hook_resid_mid": ReadPoint.RESIDUAL,
    "hook_mlp_in": ReadPoint.RESIDUAL,
    "mlp.hook_in": ReadPoint.MLP_INPUT,
}
_WRITES: Final = {
    "hook_mlp_out": WritePoint.RESIDUAL_UPDATE,
    "mlp.hook_out": WritePoint.MLP_OUTPUT,
}


@dataclass(frozen=True)
class _Layer:
    """What the folder of a layer says."""

    number: int
    file: str
    read_point: ReadPoint
    write_point: WritePoint
    model_name: str
    activation: str = ""
    k: int | None = None


def is_set(folder: Path) -> bool:
    """Return whether a folder looks like a transcoder set in any layout."""
    if paths.is_file(folder / CONFIG):
        return True
    return any(paths.is_file(path.with_name(name)) for path in _inside(folder) for name in TENSORS)


def read_set_config(folder: Path) -> SetConfig:
    """Read the ``config.yaml`` in ``folder``, or what sparsify or SAELens wrote instead.

    Raises :class:`TranscoderError` as :func:`tracer.transcoders.config.read_config` does, and for
    a set of another kind.
    """
    if not paths.is_file(folder / CONFIG):
        config = config_of_other_tool(folder)
        if config is not None:
            return config
    return read_config(folder)


def settings_and_tensors(names: Collection[str]) -> dict[str, str]:
    """Return the settings of a layer and its tensors, for each layer among the names of files.

    The names are relative to the folder of the set, with ``/``.

    >>> settings_and_tensors(["README.md", "layers.0.mlp/cfg.json", "layers.0.mlp/sae.safetensors"])
    {'layers.0.mlp/cfg.json': 'layers.0.mlp/sae.safetensors'}
    """
    known, found = set(names), {}
    for name in sorted(known):
        path = PurePosixPath(name)
        tensors = next((f"{path.parent}/{t}" for t in TENSORS if f"{path.parent}/{t}" in known), "")
        if path.name == SETTINGS and len(path.parts) in (2, 3) and tensors:
            found[name] = tensors
    return found


def config_of_other_tool(folder: Path, tensors: Collection[Path] | None = None) -> SetConfig | None:
    """Return the configuration of a set of sparsify or SAELens; None for any other folder.

    ``tensors`` are the files of tensors that are there, or will be; None looks on the disk.

    Raises :class:`TranscoderError` when the set is not of per-layer MLP transcoders.
    """
    layers = sorted(_layers(folder, tensors), key=lambda layer: layer.number)
    if not layers:
        return None
    first = layers[0]
    numbers = [layer.number for layer in layers]
    if numbers != list(range(len(layers))):
        raise TranscoderError(
            f"{folder} has transcoders for layers {', '.join(map(str, numbers))}: expected one for "
            "every layer of the model, from 0"
        )
    for layer in layers:
        for name in ("read_point", "write_point", "activation", "k"):
            value, other = getattr(first, name), getattr(layer, name)
            if value != other:
                raise TranscoderError(
                    f"layer {layer.number} of {folder} has another {name} ({other}) than layer 0 "
                    f"({value}): expected layers of the same kind"
                )
    return SetConfig(
        model_name=first.model_name,
        cross_layer=False,
        read_point=first.read_point,
        write_point=first.write_point,
        scan=folder.name,
        transcoders=tuple(layer.file for layer in layers),
        activation=first.activation,
        k=first.k,
    )


def _inside(folder: Path) -> list[Path]:
    """Return the settings of layers; none where the folder cannot be read, whatever its name."""
    try:
        return sorted([*folder.glob(f"*/{SETTINGS}"), *folder.glob(f"*/*/{SETTINGS}")])
    except (OSError, ValueError):
        return []


def _layers(folder: Path, tensors: Collection[Path] | None) -> Iterator[_Layer]:
    def is_there(path: Path) -> bool:
        return paths.is_file(path) if tensors is None else path in tensors

    for settings in _inside(folder):
        inside = settings.parent
        if is_there(inside / SPARSIFY):
            yield _sparsify(folder, inside, _settings(settings))
        elif is_there(inside / SAELENS):
            yield _saelens(folder, inside, _settings(settings))


def _settings(path: Path) -> Mapping[str, Any]:
    try:
        stored = read_json(path)
    except (OSError, ValueError) as error:
        raise TranscoderError(f"{path} cannot be read ({error}): fetch the set again") from error
    if not isinstance(stored, dict):
        raise TranscoderError(f"{path} is a {type(stored).__name__}, expected an object")
    return stored


def _sparsify(folder: Path, inside: Path, stored: Mapping[str, Any]) -> _Layer:
    match = _SPARSIFY_FOLDER.fullmatch(inside.name)
    if match is None:
        raise TranscoderError(
            f"{inside} is not the transcoder of an MLP: expected a folder such as layers.0.mlp"
        )
    if stored.get("transcode") is not True:
        raise TranscoderError(f"{inside} is {_AUTOENCODER}")
    activation = str(stored.get("activation", "topk"))
    if activation != "topk" or stored.get("normalize_io"):
        raise TranscoderError(
            f"{inside} has activation {activation!r} and normalize_io "
            f"{bool(stored.get('normalize_io'))}: expected topk of inputs that are not normalised"
        )
    k = stored.get("k")
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise TranscoderError(f"{inside / SETTINGS} has k {k!r}: expected a whole number from 1")
    return _Layer(
        number=int(match[1]),
        file=(inside / SPARSIFY).relative_to(folder).as_posix(),
        read_point=ReadPoint.MLP_INPUT,  # it hooks the module itself
        write_point=WritePoint.MLP_OUTPUT,
        model_name="",
        activation="relu_topk",
        k=k,
    )


_AUTOENCODER: Final = (
    "a sparse autoencoder, which reconstructs what it reads: expected a transcoder, which "
    "reconstructs the output of an MLP from its input"
)


def _saelens(folder: Path, inside: Path, stored: Mapping[str, Any]) -> _Layer:
    metadata = stored.get("metadata")
    settings = {**stored, **(metadata if isinstance(metadata, dict) else {})}
    architecture = str(stored.get("architecture", ""))
    if not architecture.endswith("transcoder") or not settings.get("hook_name_out"):
        raise TranscoderError(f"{inside} is {_AUTOENCODER}")
    for key, neutral in (("normalize_activations", "none"), ("apply_b_dec_to_input", False)):
        if settings.get(key) not in (None, neutral):
            raise TranscoderError(
                f"{inside / SETTINGS} has {key} {settings[key]!r}, which changes what the features "
                f"read: expected {neutral!r}"
            )
    number, read_point = _hook(inside, settings, "hook_name", _READS)
    written, write_point = _hook(inside, settings, "hook_name_out", _WRITES)
    if number != written:
        raise TranscoderError(
            f"{inside} reads layer {number} and writes to layer {written}: expected a transcoder "
            "of one MLP"
        )
    return _Layer(
        number=number,
        file=(inside / SAELENS).relative_to(folder).as_posix(),
        read_point=read_point,
        write_point=write_point,
        model_name=str(settings.get("model_name") or ""),
        activation="jumprelu" if architecture.startswith("jumprelu") else "relu",
    )


Point = TypeVar("Point", ReadPoint, WritePoint)


def _hook(
    inside: Path, settings: Mapping[str, Any], key: str, known: Mapping[str, Point]
) -> tuple[int, Point]:
    match = _SAELENS_HOOK.fullmatch(str(settings.get(key)))
    if match is None or match[2] not in known:
        raise TranscoderError(
            f"{inside / SETTINGS} has {key} {settings.get(key)!r}: expected one of "
            f"{', '.join(f'blocks.0.{name}' for name in known)}"
        )
    return int(match[1]), known[match[2]]
