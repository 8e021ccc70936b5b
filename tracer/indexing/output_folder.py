"""The folder of an index, and the ``.partial`` folder next to it where a build works.

Files that are not part of an index are never touched.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from tracer.errors import FeatureIndexError
from tracer.indexing.checkpoint import CHECKPOINT, TOKENS
from tracer.indexing.work_folder import LOCK, WorkFolder

_INDEX: Final = "index.json.gz"


class OutputFolder(WorkFolder):
    """The folder of an index; see :class:`WorkFolder`."""

    failure = FeatureIndexError
    result = "index"
    activity = "build"
    checkpoint = CHECKPOINT

    def publish(self, finished: Path) -> None:
        """Move the finished index to its folder, replacing an older one, and discard the work."""
        self.refuse_foreign_files()
        if self.folder.exists():
            old = self.work / "old"
            shutil.rmtree(old, ignore_errors=True)
            self.folder.rename(old)
        finished.rename(self.folder)
        self.discard_work()

    def discard_work(self) -> None:
        """Delete the work: the checkpoint first, and last the file that marks the folder."""
        super().discard_work()
        (self.work / TOKENS).unlink(missing_ok=True)

    def last_to_go(self) -> tuple[str, ...]:
        return (LOCK, TOKENS)

    def refuse_foreign_files(self) -> None:
        """Raise unless both folders are new, empty, or an index and the work on one."""
        for folder, mark in ((self.folder, _INDEX), (self.work, TOKENS)):
            names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
            is_index = folder.is_dir() and (mark in names or set(names) <= {LOCK})
            if folder.exists() and not is_index:
                kind = f"has {min(names)}" if names else "is a file"
                raise FeatureIndexError(
                    f"{folder} already exists, {kind} and is not a feature index; left unchanged: "
                    "give a folder that is new or empty, or an index to replace"
                )
