"""How much disk fetched explanations may take: what was used longest ago goes first.

Every process counts what it writes and looks at the whole folder now and then, so that several may
share it: together they exceed the quota by a sixteenth each at most. Only what an
:class:`tracer.features.disk_cache.CardCache` wrote is deleted, by its place and name, and
only after something was fetched: without the network nothing goes.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from tracer import paths
from tracer.errors import FeatureLookupError

logger = logging.getLogger(__name__)

QUOTA_VARIABLE: Final = "CIRCUIT_EXAMPLES_GB"
DEFAULT_QUOTA: Final = 10**9
_STEPS: Final = 16
"""After this part of the quota was written the folder is looked at again."""
_BLOCK: Final = 4096
"""What the smallest file takes, and what file systems round up to."""
_PARTIAL_SECONDS: Final = 3600.0
"""A partial file older than this belongs to a process that died while writing it."""
_OURS: Final = re.compile(
    r"(?:\d+/\d+\.(?:bin|absent)|[^/]+/(?:everything\.absent|labels\.jsonl))(\.[0-9a-f]{8})?"
)
"""A file's folder and name, with the ending of a partial one."""


class _File(NamedTuple):
    used: float
    n_bytes: int
    path: Path
    partial: bool


def quota_bytes() -> int:
    """Return the quota in bytes; raises :class:`FeatureLookupError` if it is not a number."""
    return paths.shared_quota(QUOTA_VARIABLE, DEFAULT_QUOTA, FeatureLookupError)


class Quota:
    """Keeps one folder of fetched explanations within ``n_bytes``. Safe between threads."""

    def __init__(self, folder: Path, n_bytes: int) -> None:
        self._folder, self._n_bytes = folder, n_bytes
        self._lock = threading.Lock()
        self._until_next_look = 0

    def count(self, n_bytes: int) -> None:
        """Count a file that was written; makes room when it is time to."""
        with self._lock:
            self._until_next_look -= _on_disk(n_bytes)
            if self._until_next_look < 0:
                self._make_room()
                self._until_next_look = self._n_bytes // _STEPS

    def _make_room(self) -> None:
        files = sorted(_files(self._folder))
        excess = sum(file.n_bytes for file in files) - (self._n_bytes - self._n_bytes // _STEPS)
        trouble: OSError | None = None
        now = time.time()
        for file in files:
            fresh = now - file.used < _PARTIAL_SECONDS
            if (file.partial and fresh) or (not file.partial and excess <= 0):
                continue
            try:
                file.path.unlink(missing_ok=True)  # another process may have been here
                excess -= file.n_bytes
            except OSError as error:
                trouble = error
        if trouble is not None:
            logger.warning(
                "fetched feature examples in %s take more than %s allows, or left partial files, "
                "and cannot be deleted: %s",
                self._folder, QUOTA_VARIABLE, trouble,
            )  # fmt: skip


def quota_of(folder: Path) -> Quota:
    """The one quota of a folder in this process; raises as :func:`quota_bytes` does."""
    return _quota(folder, quota_bytes())


@functools.cache
def _quota(folder: Path, n_bytes: int) -> Quota:
    return Quota(folder, n_bytes)


def _on_disk(n_bytes: int) -> int:
    return max(1, -(-n_bytes // _BLOCK)) * _BLOCK


def _files(folder: Path) -> Iterator[_File]:
    """The files below ``folder`` that a store wrote; links are not followed."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return  # not ours to look into, or just gone
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path))
        elif match := _OURS.fullmatch(f"{folder.name}/{entry.name}"):
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue  # deleted by another process
            yield _File(
                status.st_mtime, _on_disk(status.st_size), Path(entry.path), bool(match.group(1))
            )
