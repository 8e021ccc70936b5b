"""Where a model and its transcoders stand on disk, and a fingerprint of both. No torch here.

Knowing *what* would be opened is cheap; the cache and the pages ask this before anything is loaded.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from tracer.atlas.paths import WEIGHTS as ATLAS_WEIGHTS
from tracer.errors import ModelError, TranscoderError

ATLAS: Final = "atlas"
ATLAS_TRANSCODERS: Final = ("per-layer", "cross-layer")
_HASHED_WHOLE: Final = 64 * 2**20
"""Larger files count by name, size and modification time: hashing gigabytes would take seconds."""


@dataclass(frozen=True)
class ModelSource:
    """A model and a transcoder set, found but not opened."""

    name: str
    transcoders: str
    """Name to show for the set: for atlas ``per-layer`` or ``cross-layer``, else its folder."""
    model_folder: Path
    transcoder_folder: Path
    fingerprint: str
    """Hex digest over both folders: whatever was computed under another one does not apply."""


def resolve(model: str = ATLAS, transcoders: str | None = None) -> ModelSource:
    """Find a model: the embedded ``atlas``, or a Hugging Face folder with a transcoder folder.

    Raises :class:`ModelError` or :class:`TranscoderError` when there is nothing to open.
    """
    model_folder = _model_folder(model)
    transcoder_folder = _transcoder_folder(model, transcoders)
    return ModelSource(
        name=model,
        transcoders=transcoders or ATLAS_TRANSCODERS[0],
        model_folder=model_folder,
        transcoder_folder=transcoder_folder,
        fingerprint=_fingerprint(model_folder, transcoder_folder),
    )


def _model_folder(model: str) -> Path:
    folder = ATLAS_WEIGHTS / "model" if model == ATLAS else Path(model).expanduser()
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"no model at {str(model)!r}: expected {ATLAS!r}, or a folder that holds a Hugging "
            "Face config.json; models on the hub are opened from a downloaded folder"
        )
    return folder


def _transcoder_folder(model: str, transcoders: str | None) -> Path:
    if model == ATLAS and transcoders in (None, *ATLAS_TRANSCODERS):
        folder = ATLAS_WEIGHTS / (transcoders or ATLAS_TRANSCODERS[0])
    elif transcoders is None:
        raise TranscoderError(
            f"no transcoders named for {model!r}: give the folder of a transcoder set"
        )
    else:
        folder = Path(transcoders).expanduser()
    if not (folder / "config.yaml").is_file():
        known = f" or one of {', '.join(ATLAS_TRANSCODERS)}" if model == ATLAS else ""
        raise TranscoderError(
            f"no transcoders at {str(transcoders)!r}: expected a folder that holds a "
            f"config.yaml{known}"
        )
    return folder


def _fingerprint(*folders: Path) -> str:
    digest = hashlib.sha256()
    for folder in folders:
        files = sorted(path for path in folder.iterdir() if path.is_file())
        for path in files:
            status = path.stat()
            digest.update(f"{path.name}\0{status.st_size}\0".encode())
            if status.st_size <= _HASHED_WHOLE:
                digest.update(_content_digest(path, status.st_size, status.st_mtime_ns))
            else:
                digest.update(str(status.st_mtime_ns).encode())
    return digest.hexdigest()


@lru_cache(maxsize=4096)
def _content_digest(path: Path, size: int, modified_ns: int) -> bytes:
    """SHA-256 of a file; size and time are arguments so that a changed file is read again."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
