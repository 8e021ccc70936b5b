"""The disk quota of fetched feature records: the least recently used are deleted.

Every process counts the bytes it writes and scans the folder now and then, so several processes can
share it; each exceeds the quota by at most a sixteenth. Only files that a
:class:`tracer.features.disk_cache.CardCache` wrote are deleted, recognised by place and name, and
only after a record was fetched: nothing is deleted while the network is off.
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
"""The folder is scanned again after one part in so many of the quota was written."""
_BLOCK: Final = 4096
"""Bytes that file systems round sizes up to, and the size of the smallest file."""
_PARTIAL_SECONDS: Final = 3600.0
"""A partial file older than this was left by a process that died while writing it."""
_NAMES: Final = r"\d+/{}\d+\.(?:bin|absent){}|[^/]+/{}(?:everything\.absent|labels\.jsonl){}"
_COMPLETE: Final = re.compile(_NAMES.format("", "", "", ""))
"""Folder and name of a file of the cache."""
_PARTIAL: Final = re.compile(_NAMES.format(*[r"\.", r"\.[0-9a-f]{32}\.part"] * 2))
"""Folder and name while :func:`tracer.files.replacing` writes it."""


class _File(NamedTuple):
    used: float
    n_bytes: int
    path: Path
    partial: bool


def quota_bytes() -> int:
    """Return the quota in bytes; raises :class:`FeatureLookupError` if it is not a number."""
    return paths.shared_quota(QUOTA_VARIABLE, DEFAULT_QUOTA, FeatureLookupError)


class Quota:
    """Keeps one folder of fetched records within ``n_bytes``. Thread-safe."""

    def __init__(self, folder: Path, n_bytes: int) -> None:
        self._folder, self._n_bytes = folder, n_bytes
        self._lock = threading.Lock()
        self._until_next_scan = 0

    def count(self, n_bytes: int) -> None:
        """Count a file that was written, and delete old files when it is time to."""
        with self._lock:
            self._until_next_scan -= _on_disk(n_bytes)
            if self._until_next_scan < 0:
                self._make_room()
                self._until_next_scan = self._n_bytes // _STEPS

    def _make_room(self) -> None:
        files = sorted(_files(self._folder))
        excess = sum(file.n_bytes for file in files) - (self._n_bytes - self._n_bytes // _STEPS)
        failure: OSError | None = None
        now = time.time()
        for file in files:
            fresh = now - file.used < _PARTIAL_SECONDS
            if (file.partial and fresh) or (not file.partial and excess <= 0):
                continue
            try:
                file.path.unlink(missing_ok=True)  # another process may have deleted it
                excess -= file.n_bytes
            except OSError as error:
                failure = error
        if failure is not None:
            logger.warning(
                "fetched feature examples in %s take more than %s allows and cannot be deleted: %s",
                self._folder, QUOTA_VARIABLE, failure,
            )  # fmt: skip


def quota_of(folder: Path) -> Quota:
    """Return the quota of a folder, one object per process; raises as :func:`quota_bytes`."""
    return _quota(folder, quota_bytes())


@functools.cache
def _quota(folder: Path, n_bytes: int) -> Quota:
    return Quota(folder, n_bytes)


def _on_disk(n_bytes: int) -> int:
    return max(1, -(-n_bytes // _BLOCK)) * _BLOCK


def _files(folder: Path) -> Iterator[_File]:
    """Yield the files below ``folder`` that a cache wrote, without following links."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return  # unreadable, or deleted by another process
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path))
            continue
        name = f"{folder.name}/{entry.name}"
        partial = _PARTIAL.fullmatch(name) is not None
        if partial or _COMPLETE.fullmatch(name):
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue  # deleted by another process
            yield _File(status.st_mtime, _on_disk(status.st_size), Path(entry.path), partial)
