"""Fetched explanations on this disk: one small file a feature, and notes of what is not there.

A folder of its own for every source, ``<folder>/<layer>/<index>.bin``. What is in the files is the
source's business. Written whole or not at all. All sources share a quota
(:mod:`tracer.features.disk_quota`), so anything may be gone again when it is asked for.
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

from tracer.errors import FeatureLookupError
from tracer.features.cards import UNREADABLE, Label
from tracer.features.disk_quota import quota_of
from tracer.files import atomic_write
from tracer.types import FeatureId

_FOREVER: Final = float("inf")
_TOUCH_SECONDS: Final = 3600.0
"""How coarse "last used" is: finer would write to the disk on every look."""


class CardCache:
    """What one source has said so far."""

    def __init__(self, cache_folder: Path, *source: str) -> None:
        """``source`` are any texts that tell it from the others, such as a repository's name.

        Raises :class:`FeatureLookupError` when the quota is no number, or labels cannot be read.
        """
        self.folder = cache_folder.joinpath(*map(_folder_name, source))
        self._quota = quota_of(cache_folder)
        self._lock = threading.Lock()
        self._labels = _labels_in(_contents(self.folder / "labels.jsonl") or b"")

    @property
    def labels(self) -> Mapping[FeatureId, Label]:
        """Every label that was learned; the mapping returned does not change any more."""
        return self._labels

    def read(self, feature: FeatureId) -> bytes | None:
        """What was kept for a feature; raises :class:`FeatureLookupError` if the disk refuses."""
        return _contents(self._path(feature, "bin"))

    def keep(self, feature: FeatureId, contents: bytes) -> None:
        """Keep what the source said; raises :class:`FeatureLookupError` when the disk refuses."""
        self._write(self._path(feature, "bin"), contents)

    def forget(self, feature: FeatureId) -> None:
        """Drop what was kept, as it cannot be read."""
        with suppress(OSError):  # a disk that is not ours to write to: it is passed over each time
            self._path(feature, "bin").unlink(missing_ok=True)

    def note_absent(self, feature: FeatureId | None = None) -> None:
        """Note that the source has nothing on a feature, or nothing at all."""
        self._write(self._path(feature, "absent"), b"")

    def is_absent(self, feature: FeatureId | None = None, within: float = _FOREVER) -> bool:
        """Whether that was noted in the last ``within`` seconds."""
        try:
            noted = self._path(feature, "absent").stat().st_mtime
        except OSError:
            return False
        return time.time() - noted < within

    def learn(self, feature: FeatureId, label: str) -> None:
        """Add a label to those that are at hand when the store is opened the next time."""
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
            f"feature examples cannot be kept in {self.folder} ({error.strerror or error}): make "
            "room there, or make it writable"
        )


def _folder_name(text: str) -> str:
    """Any text as the name of one folder: neither a path nor a hidden file."""
    return quote(text, safe=" ").replace(".", "%2E") or "%"


def _contents(path: Path) -> bytes | None:
    """What a file holds, None if it is not there (any more); it was used now."""
    try:
        with path.open("rb") as file:
            contents = file.read()
            used = os.fstat(file.fileno()).st_mtime
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise FeatureLookupError(
            f"{path} was fetched earlier and cannot be read ({error.strerror or error}): make it "
            "readable, or delete it to have it fetched again"
        ) from error
    if abs(time.time() - used) > _TOUCH_SECONDS:
        with suppress(OSError):  # what cannot be touched cannot be deleted for room either
            os.utime(path)
    return contents


def _labels_in(lines: bytes) -> Mapping[FeatureId, Label]:
    labels: dict[FeatureId, Label] = {}
    for line in lines.splitlines():
        try:
            layer, index, text = json.loads(line)
            labels[FeatureId(int(layer), int(index))] = Label(str(text), None)
        except UNREADABLE:
            continue  # cut short by a crash: the label is learned again with its card
    return labels
