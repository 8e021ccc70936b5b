"""`GraphFolder`: the files of the store. It knows nothing about the catalogue.

<root>/graphs/<key[:2]>/<key>.safetensors
<root>/originals/<key>.json.gz            the files that imported graphs came as
<root>/damaged/                           files that failed their check, kept for inspection
"""

from __future__ import annotations

import gzip
import hashlib
import re
import time
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final
from uuid import uuid4

from cache.catalogue import StoreError
from tracer.errors import GraphFileError
from tracer.files import atomic_write
from tracer.graph.graph import AttributionGraph, load_graph

_KEY: Final = re.compile(r"[0-9a-f]{32}")
_PARTIAL_SECONDS: Final = 3600.0
"""A partial file older than this belongs to a process that died while writing it."""
_DAMAGED_KEPT: Final = 20
_COMPRESSION: Final = 6
"""gzip level of the originals: 9 takes more than twice as long and saves 2 % more."""


class GraphFolder:
    """The files of one store. Methods raise ``OSError`` when the disk refuses."""

    def __init__(self, root: Path) -> None:
        self._graphs = root / "graphs"
        self._originals = root / "originals"
        self._damaged = root / "damaged"

    def create(self) -> None:
        """Create the folders that do not exist."""
        for folder in (self._graphs, self._originals, self._damaged):
            folder.mkdir(parents=True, exist_ok=True)

    def path(self, key: str) -> Path:
        """Return the path of a graph, whether it exists or not."""
        return self._graphs / key[:2] / f"{key}.safetensors"

    def write_partial(self, key: str, content: bytes) -> Path:
        """Write a graph next to its path, flushed to the disk; rename it to keep it."""
        path = self.path(key)
        path.parent.mkdir(exist_ok=True)
        partial = path.with_name(f".{key}.{uuid4().hex}.part")
        atomic_write(partial, content)
        return partial

    def read(self, key: str, sha256: str) -> AttributionGraph:
        """Read a graph; raises :class:`GraphFileError` when it is missing or damaged."""
        path = self.path(key)
        try:
            digest = sha256_of(path)
        except OSError as error:
            raise GraphFileError(f"{path} cannot be read: {error.strerror}") from error
        if digest != sha256:
            raise GraphFileError(f"{path} has SHA-256 {digest[:12]}…, expected {sha256[:12]}…")
        return load_graph(path)

    def original_path(self, key: str) -> Path:
        """Return the path of the file that a graph came as, whether it exists or not."""
        return self._originals / f"{key}.json.gz"

    def read_original(self, key: str) -> bytes | None:
        """Return the file that a graph came as; raises :class:`StoreError` when it is damaged."""
        path = self.original_path(key)
        try:
            return gzip.decompress(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, EOFError, zlib.error) as error:
            raise StoreError(
                f"{path} is damaged ({error}): import the graph's file again"
            ) from error

    def original_bytes(self) -> int:
        """Return how much disk space the files of imported graphs take."""
        return sum(file.stat().st_size for file in self._originals.glob("*.json.gz"))

    def delete(self, key: str) -> None:
        """Delete a graph and the file it came as."""
        self.path(key).unlink(missing_ok=True)
        self.original_path(key).unlink(missing_ok=True)

    def set_aside(self, path: Path, name: str) -> Path:
        """Move a damaged file away as ``name``, made unique; the oldest of those are deleted."""
        stem, dot, suffix = name.partition(".")
        target = self._damaged / f"{stem}.{uuid4().hex[:8]}{dot}{suffix}"
        if path.exists():
            path.replace(target)
        kept = sorted(self._damaged.iterdir(), key=lambda file: file.stat().st_mtime)
        for old in kept[:-_DAMAGED_KEPT]:
            old.unlink(missing_ok=True)
        return target

    def orphans(self, known: Collection[str]) -> Iterator[Path]:
        """Yield the graphs whose keys are not ``known``, and delete old partial files."""
        for path in self._partials():
            if time.time() - path.stat().st_mtime > _PARTIAL_SECONDS:
                path.unlink(missing_ok=True)
        yield from self.graph_files(known)

    def graph_files(self, known: Collection[str]) -> Iterator[Path]:
        """Yield the graphs whose keys are not ``known``."""
        for path in sorted(self._graphs.glob("*/*.safetensors")):
            if is_key(path.stem) and path.stem not in known:
                yield path

    def _partials(self) -> list[Path]:
        return [*self._graphs.glob("*/.*.part"), *self._originals.glob(".*.part")]


def is_key(text: str) -> bool:
    """Whether ``text`` is a key: 32 hexadecimal digits, so never a path."""
    return _KEY.fullmatch(text) is not None


def packed(original: bytes) -> bytes:
    """Return the file that a graph came as, compressed; the same bytes every time."""
    return gzip.compress(original, _COMPRESSION, mtime=0)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
