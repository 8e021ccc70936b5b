"""How many features a set has, from the first bytes of its first file: on the hub, or on this disk.

A safetensors file begins with the length of its header and the header, JSON with every tensor's
shape. No torch here.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tracer import hub
from tracer.catalog.downloads import Plan
from tracer.catalog.resolve import ModelSource
from tracer.errors import BrokenTransferError

_FIRST: Final = ("layer_0.safetensors", "W_enc_0.safetensors")
_AXES: Final = {"W_enc": 0, "W_enc_0": 0, "w_enc": -1}
"""Where the features are counted in an encoder, by its name."""
_LONGEST_HEADER: Final = 2**24


def features_planned(plan: Plan) -> int | None:
    """Features per layer of a set that is not here yet; None where its layout does not say.

    Raises :class:`tracer.errors.HubError`.
    """
    listed = [(part, path) for part, path in plan.listed[:1]]
    named = [(plan.main, path) for path in plan.main.paths if Path(path).name in _FIRST]
    alone = [(plan.main, path) for path in plan.main.paths if path.endswith(".safetensors")]
    part, path = (listed or named or alone or [(plan.main, "")])[0]
    if not path.endswith(".safetensors"):
        return None
    try:
        return _features(lambda a, b: hub.read_range(part.repo, path, part.commit, a, b))
    except BrokenTransferError:
        return None  # it is shorter than any header


def features_here(source: ModelSource) -> int | None:
    """The same of a set on this disk."""
    folder = source.transcoder_folder
    named = [folder / name for name in _FIRST if (folder / name).is_file()]
    found = [*(source.transcoder_files or named or sorted(folder.glob("*.safetensors")))]
    if not found or found[0].suffix != ".safetensors" or not found[0].is_file():
        return None
    with found[0].open("rb") as file:

        def read(start: int, stop: int) -> bytes:
            file.seek(start)
            return bytes(file.read(stop - start))

        return _features(read)


def _features(read: Callable[[int, int], bytes]) -> int | None:
    try:
        (length,) = struct.unpack("<Q", read(0, 8))
        if length > _LONGEST_HEADER:
            return None
        header: dict[str, Any] = json.loads(read(8, 8 + length))
        for name, axis in _AXES.items():
            if name in header:
                return int(header[name]["shape"][axis])
    except (struct.error, ValueError, KeyError, IndexError, TypeError, AttributeError):
        return None  # a file that opening it will name
    return None
