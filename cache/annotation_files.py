"""`AnnotationFiles`: a second copy of what people wrote, one small file a graph.

<root>/annotations/<key>.json

The catalogue is what is read; the copies are read only when it is damaged or lost.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tracer.files import atomic_write

Written = dict[str, list[dict[str, Any]]]
"""Rows of the catalogue, by table."""
_NAME: Final = re.compile(r"[0-9a-f]{1,64}")
_COLUMN: Final = re.compile(r"[a-z_]{1,40}")


class AnnotationFiles:
    """The files in one folder. Methods raise ``OSError`` when the disk refuses."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, key: str, content: Written) -> None:
        """Replace the copy of a graph's annotations; without any, delete it."""
        if not _NAME.fullmatch(key):
            return
        if not content:
            self._path(key).unlink(missing_ok=True)
            return
        text = json.dumps(content, ensure_ascii=False, sort_keys=True)
        self._folder.mkdir(parents=True, exist_ok=True)
        atomic_write(self._path(key), f"{_digest(text)}\n{text}\n")

    def read(self, key: str) -> Written | None:
        """Return the copy; None if there is none, or it is damaged."""
        try:
            digest, _, text = self._path(key).read_bytes().decode("utf-8").partition("\n")
        except (OSError, UnicodeDecodeError):
            return None
        text = text.removesuffix("\n")
        if digest != _digest(text):
            return None
        content: Written = json.loads(text)
        columns = (name for rows in content.values() for row in rows for name in row)
        return content if all(map(_COLUMN.fullmatch, columns)) else None

    def stored_keys(self) -> Iterator[str]:
        """Yield the keys of all copies."""
        for path in sorted(self._folder.glob("*.json")):
            if _NAME.fullmatch(path.stem):
                yield path.stem

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.json"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
