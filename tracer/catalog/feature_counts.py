"""Count the features of a transcoder set from the header of its first file, before it is opened.

A safetensors file begins with the length of its header and the header itself: JSON with the shape
of every tensor. No torch here.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, Final

from pydantic import NonNegativeInt, TypeAdapter
from pydantic_core import from_json
from safetensors import SafetensorError, safe_open

from tracer import hub
from tracer.catalog.downloads import Plan
from tracer.catalog.resolve import ModelSource
from tracer.errors import BrokenTransferError
from tracer.transcoders.other_tools import SAELENS

_FIRST: Final = ("layer_0.safetensors", "W_enc_0.safetensors")
_FEATURE_AXES: Final = {"W_enc": 0, "W_enc_0": 0, "w_enc": -1, "encoder.weight": 0}
"""Name of an encoder -> the axis of its features."""
_LONGEST_HEADER: Final = 2**24  # bytes
_SHAPE: Final = TypeAdapter(list[NonNegativeInt])


def features_planned(plan: Plan) -> int | None:
    """Return the features per layer of a set on the hub; None if its files do not say.

    Only the header is downloaded. Raises :class:`tracer.errors.HubError`.
    """
    listed = [(part, path) for part, path in plan.listed[:1]]
    named = [(plan.main, path) for path in plan.main.paths if Path(path).name in _FIRST]
    others = [(plan.main, path) for path in plan.main.paths if path.endswith(".safetensors")]
    part, path = (listed or named or others or [(plan.main, "")])[0]
    if not path.endswith(".safetensors"):
        return None
    try:
        (length,) = struct.unpack("<Q", hub.read_range(part.repo, path, part.commit, 0, 8))
        if length > _LONGEST_HEADER:
            return None
        header = from_json(hub.read_range(part.repo, path, part.commit, 8, 8 + length))
        shapes = {name: header[name]["shape"] for name in _FEATURE_AXES if name in header}
        return _features(shapes, Path(path).name)
    except (BrokenTransferError, ValueError, KeyError, TypeError):
        return None  # damaged: the error is raised when the set is opened


def features_here(source: ModelSource) -> int | None:
    """Return the features per layer of a set on this disk; None if its files do not say."""
    folder = source.transcoder_folder
    named = [folder / name for name in _FIRST if (folder / name).is_file()]
    files = [*(source.transcoder_files or named or sorted(folder.glob("*.safetensors")))]
    if not files or files[0].suffix != ".safetensors":
        return None
    try:
        with safe_open(files[0], framework="np") as file:
            names = _FEATURE_AXES.keys() & set(file.keys())
            shapes = {name: file.get_slice(name).get_shape() for name in names}
            return _features(shapes, files[0].name)
    except (OSError, SafetensorError):
        return None  # missing or damaged: the error is raised when the set is opened


def _features(shapes: dict[str, Any], file: str) -> int | None:
    """Return the size of the feature axis; raises ``ValueError`` for a malformed shape."""
    for name, axis in _FEATURE_AXES.items():
        if name in shapes:
            shape = _SHAPE.validate_python(shapes[name], strict=True)
            features = -1 if file == SAELENS else axis  # SAELens stores the transposed matrix
            return shape[features] if shape else None
    return None
