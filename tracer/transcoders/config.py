"""Read and check ``config.yaml`` of a transcoder set. No torch here.

An unknown key is refused, not ignored: it may mean that the features compute something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml

from tracer import paths
from tracer.errors import TranscoderError, one_line

CONFIG: Final = "config.yaml"
HUB_ENTRY: Final = "hf://"
_KINDS: Final = ("transcoder_set", "cross_layer_transcoder")
_ACTIVATIONS: Final = ("relu", "jumprelu", "jump_relu", "topk", "relu_topk")
_PROVENANCE: Final = ("repo_id", "revision", "subfolder")
"""Where circuit-tracer got a set from. This does not change the features."""
_SHAPES: Final = ("n_layers", "d_model", "d_transcoder")
"""Sizes that some converters add. They are checked against the tensors."""
_SETTINGS: Final = (
    "cache_dir", "delete_hf_cache", "device", "dtype", "lazy_decoder", "lazy_encoder", "sequential",
    "use_cache",
)  # fmt: skip
"""How another tool opened or cached the set, which some converters write down. Not used here."""
_KNOWN: Final = (
    "model_name", "model_kind", "feature_input_hook", "feature_output_hook", "scan", "scan_name",
    "transcoders", "activation", "activation_function", "k", *_SHAPES, *_PROVENANCE, *_SETTINGS,
)  # fmt: skip


class ReadPoint(Enum):
    """Which vector of a block a transcoder reads."""

    RESIDUAL = "hook_resid_mid"
    """The residual stream before the MLP's norm."""
    NORMALIZED = "ln2.hook_normalized"
    """After the MLP's norm, before its gain."""
    MLP_INPUT = "mlp.hook_in"
    """The input of the MLP itself."""


class WritePoint(Enum):
    """Which vector of a block a transcoder replaces."""

    MLP_OUTPUT = "mlp.hook_out"
    """The output of the MLP itself, before any norm that follows it."""
    RESIDUAL_UPDATE = "hook_mlp_out"
    """The vector added to the residual stream, after such a norm."""


@dataclass(frozen=True)
class SetConfig:
    """The contents of a ``config.yaml``."""

    model_name: str
    """The model it was trained on, as the publisher names it; may be empty."""
    cross_layer: bool
    read_point: ReadPoint
    write_point: WritePoint
    scan: str
    """The publisher's name for the set."""
    transcoders: tuple[str, ...] = ()
    """One ``hf://`` reference or path per layer; empty if the files are next to it."""
    activation: str = ""
    """``relu``, ``jumprelu``, ``topk``, ``relu_topk``, or empty to go by the stored tensors."""
    k: int | None = None
    shapes: Mapping[str, int] = field(default_factory=dict)
    """The sizes in the file, to be checked: ``n_layers``, ``d_model``, ``d_transcoder``."""
    ignored: tuple[str, ...] = ()
    """Keys that are settings of another tool."""

    def to_yaml(self) -> str:
        """Return the file's text without ``transcoders``, for tensors in the same folder."""
        stored: dict[str, Any] = {
            "model_name": self.model_name,
            "model_kind": _KINDS[self.cross_layer],
            "feature_input_hook": self.read_point.value,
            "feature_output_hook": self.write_point.value,
            "scan": self.scan,
        }
        if self.activation:
            stored["activation"] = self.activation
        if self.k is not None:
            stored["k"] = self.k
        return yaml.safe_dump(stored, sort_keys=False)


def read_config(folder: Path) -> SetConfig:
    """Read the ``config.yaml`` in ``folder``.

    Raises :class:`TranscoderError` naming the key that is unknown, missing or has an unknown value.
    """
    path = folder / CONFIG
    try:
        stored = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TranscoderError(f"{path} cannot be read: {one_line(error)}") from error
    if not isinstance(stored, dict) or stored.get("model_kind") not in _KINDS:
        kind = stored.get("model_kind") if isinstance(stored, dict) else stored
        raise TranscoderError(
            f"{path} has model_kind {kind!r}: expected one of {', '.join(_KINDS)}"
        )
    unknown = sorted(str(key) for key in stored if key not in _KNOWN)
    if unknown:
        raise TranscoderError(
            f"{path} has unknown keys: {', '.join(unknown)}; supported keys are "
            f"{', '.join(_KNOWN)}: remove the others if they do not change the features"
        )
    k = stored.get("k")
    if k is not None and (isinstance(k, bool) or not isinstance(k, int) or k < 1):
        raise TranscoderError(f"{path} has k {k!r}: expected a whole number from 1")
    sizes = {key: stored[key] for key in _SHAPES if stored.get(key) is not None}
    for key, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise TranscoderError(f"{path} has {key} {size!r}: expected a whole number from 1")
    return SetConfig(
        model_name=str(stored.get("model_name") or ""),
        cross_layer=stored["model_kind"] == _KINDS[1],
        read_point=_hook(ReadPoint, stored, "feature_input_hook", path),
        write_point=_hook(WritePoint, stored, "feature_output_hook", path),
        scan=str(stored.get("scan") or stored.get("scan_name") or folder.name),
        transcoders=_entries(stored.get("transcoders"), path),
        activation=_activation(stored, path),
        k=k,
        shapes=sizes,
        ignored=tuple(key for key in _SETTINGS if key in stored),
    )


def _activation(stored: Mapping[str, Any], path: Path) -> str:
    """Return the activation function, which converters write under two keys."""
    names = []
    for key in ("activation", "activation_function"):
        name = str(stored.get(key) or "").lower()
        if name and name not in _ACTIVATIONS:
            raise TranscoderError(
                f"{path} has {key} {stored[key]!r}: expected one of {', '.join(_ACTIVATIONS)}"
            )
        names.append("jumprelu" if name == "jump_relu" else name)
    if all(names) and names[0] != names[1]:
        raise TranscoderError(
            f"{path} has activation {names[0]} and activation_function {names[1]}: expected one of "
            "them, or both the same"
        )
    return names[0] or names[1]


Point = TypeVar("Point", ReadPoint, WritePoint)


def _hook(kind: type[Point], stored: Mapping[str, Any], key: str, path: Path) -> Point:
    try:
        return kind(stored[key])
    except (KeyError, ValueError) as error:
        known = ", ".join(point.value for point in kind)
        raise TranscoderError(
            f"{path} has {key} {stored.get(key)!r}: expected one of {known}"
        ) from error


def _entries(stored: Any, path: Path) -> tuple[str, ...]:
    if stored is None:
        return ()
    if not isinstance(stored, list) or not all(isinstance(entry, str) for entry in stored):
        raise TranscoderError(
            f"{path} has transcoders {stored!r:.80}: expected a list of one hf:// reference or "
            "path per layer, in order"
        )
    for entry in stored:
        if stored.count(entry) > 1:
            raise TranscoderError(
                f"{path} lists {entry} for two layers: expected different transcoders per layer"
            )
    return tuple(stored)


def local_files(folder: Path, config: SetConfig) -> tuple[Path, ...]:
    """Return the paths that ``transcoders`` lists, relative ones starting at ``folder``.

    Raises :class:`TranscoderError` for an ``hf://`` entry, which has to be downloaded first.
    """
    for entry in config.transcoders:
        if entry.startswith(HUB_ENTRY):
            raise TranscoderError(
                f"{folder / CONFIG} lists {entry}, which is on the Hub: open the set by its name "
                "on the Hub, or download the files and list their paths"
            )
    return tuple(folder / paths.expand_user(entry) for entry in config.transcoders)
