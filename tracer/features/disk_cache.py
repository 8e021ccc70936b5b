"""Fetched feature records on this disk: one small file per feature, and notes of absent ones.

Every source has a folder ``<folder>/<layer>/<index>.bin``; only the source knows the format of its
files. They are written completely or not at all. All sources share a quota
(:mod:`tracer.features.disk_quota`), so any file may be gone when it is needed again.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote

from pydantic import TypeAdapter

from tracer.errors import FeatureLookupError
from tracer.features.cards import Label
from tracer.features.disk_quota import quota_of
from tracer.files import atomic_write
from tracer.types import FeatureId

_FOREVER: Final = float("inf")
_TOUCH_SECONDS: Final = 3600.0
"""Resolution of "last used": a finer one would write to the disk on every read."""
_LABEL_LINE: Final = TypeAdapter(tuple[int, int, str])


class CardCache:
    """The records and labels that were fetched from one source."""

    def __init__(self, cache_folder: Path, *source: str) -> None:
        """Open the cache of a source, identified by any texts, such as the name of a repository.

        Raises :class:`FeatureLookupError` when the quota is invalid or the labels cannot be read.
        """
        self.folder = cache_folder.joinpath(*map(_folder_name, source))
        self._quota = quota_of(cache_folder)
        self._lock = threading.Lock()
        self._labels = _labels_in(_contents(self.folder / "labels.jsonl") or b"")

    @property
    def labels(self) -> Mapping[FeatureId, Label]:
        """All labels so far. The mapping itself never changes; a new label makes a new one."""
        return self._labels

    def read(self, feature: FeatureId) -> bytes | None:
        """Return the record of a feature, or None; raises :class:`FeatureLookupError`."""
        return _contents(self._path(feature, "bin"))

    def keep(self, feature: FeatureId, contents: bytes) -> None:
        """Write the record of a feature; raises :class:`FeatureLookupError`."""
        self._write(self._path(feature, "bin"), contents)

    def forget(self, feature: FeatureId) -> None:
        """Delete a record that cannot be read."""
        with suppress(OSError):  # a read-only disk: the record is skipped again next time
            self._path(feature, "bin").unlink(missing_ok=True)

    def note_absent(self, feature: FeatureId | None = None) -> None:
        """Note that the source has no record of a feature, or no records at all."""
        self._write(self._path(feature, "absent"), b"")

    def is_absent(self, feature: FeatureId | None = None, within: float = _FOREVER) -> bool:
        """Return whether this was noted in the last ``within`` seconds."""
        try:
            noted = self._path(feature, "absent").stat().st_mtime
        except OSError:
            return False
        return time.time() - noted < within

    def learn(self, feature: FeatureId, label: str) -> None:
        """Add a label, also for later sessions; raises :class:`FeatureLookupError`."""
        with self._lock:
            if feature in self._labels:
                return
            self._labels = {**self._labels, feature: Label(label, None)}
            line = json.dumps([*feature, label], ensure_ascii=False) + "\n"
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                with (self.folder / "labels.jsonl").open("a", encoding="utf-8") as file:
                    file.write(line)
            except OSError as error:
                raise self._unwritable(error) from error

    def _path(self, feature: FeatureId | None, ending: str) -> Path:
        if feature is None:
            return self.folder / f"everything.{ending}"
        return self.folder / str(feature.layer) / f"{feature.index}.{ending}"

    def _write(self, path: Path, contents: bytes) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(path, contents)
        except OSError as error:
            raise self._unwritable(error) from error
        self._quota.count(len(contents))

    def _unwritable(self, error: OSError) -> FeatureLookupError:
        return FeatureLookupError(
            f"feature examples cannot be saved in {self.folder} ({error.strerror or error}): make "
            "room there, or make it writable"
        )


def _folder_name(text: str) -> str:
    """Return any text as the name of a single visible folder, never a path."""
    return quote(text, safe=" ").replace(".", "%2E") or "%"


def _contents(path: Path) -> bytes | None:
    """Return the contents of a file, or None if there is none, and mark it as used now."""
    try:
        with path.open("rb") as file:
            contents = file.read()
            used = os.fstat(file.fileno()).st_mtime
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise FeatureLookupError(
            f"{path}, which was fetched earlier, cannot be read ({error.strerror or error}): make "
            "it readable, or delete it to have it fetched again"
        ) from error
    if abs(time.time() - used) > _TOUCH_SECONDS:
        with suppress(OSError):  # a file that cannot be touched cannot be evicted either
            os.utime(path)
    return contents


def _labels_in(lines: bytes) -> Mapping[FeatureId, Label]:
    labels: dict[FeatureId, Label] = {}
    for line in lines.splitlines():
        try:
            layer, index, text = _LABEL_LINE.validate_json(line)
        except ValueError:
            continue  # truncated by a crash: the label is added again with its card
        labels[FeatureId(layer, index)] = Label(text, None)
    return labels
