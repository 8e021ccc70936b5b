"""Files of the store: checksums, writes that have reached the disk, and what they take."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class StoreUse:
    """Bytes on the disk."""

    traced: int
    """Of graphs that were traced here; the quota bounds them by eviction."""
    imported: int
    """Of imported graphs, with the files that they came as."""
    quota: int
    """How much each of the two may take."""


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
