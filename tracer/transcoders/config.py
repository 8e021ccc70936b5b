"""Read and check ``config.yaml`` of a transcoder set. No torch here.

An unknown key is refused, not ignored: it may mean that the features compute something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml

from tracer import paths
from tracer.errors import TranscoderError, one_line

CONFIG: Final = "config.yaml"
HUB_ENTRY: Final = "hf://"
_KINDS: Final = ("transcoder_set", "cross_layer_transcoder")
_ACTIVATIONS: Final = ("relu", "jumprelu", "jump_relu", "topk")
_PROVENANCE: Final = ("repo_id", "revision", "subfolder")
"""Where circuit-tracer got a set from. This does not change the features."""
_KNOWN: Final = (
    "model_name", "model_kind", "feature_input_hook", "feature_output_hook", "scan", "transcoders",
    "activation", "k", *_PROVENANCE,
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
    """``relu``, ``jumprelu``, ``topk``, or empty to go by the stored tensors."""
    k: int | None = None

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
    activation = stored.get("activation") or ""
    if activation and activation not in _ACTIVATIONS:
        raise TranscoderError(
            f"{path} has activation {activation!r}: expected one of {', '.join(_ACTIVATIONS)}"
        )
    return SetConfig(
        model_name=str(stored.get("model_name") or ""),
        cross_layer=stored["model_kind"] == _KINDS[1],
        read_point=_hook(ReadPoint, stored, "feature_input_hook", path),
        write_point=_hook(WritePoint, stored, "feature_output_hook", path),
        scan=str(stored.get("scan") or folder.name),
        transcoders=_entries(stored.get("transcoders"), path),
        activation=activation.replace("_", ""),
        k=k,
    )


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
