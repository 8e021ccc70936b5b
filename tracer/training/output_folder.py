"""The folder of a trained set, which must be new or empty, and the ``.partial`` folder next to it.

Files that are not part of an unfinished training are never changed.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final, Self

from tracer.errors import TrainingError
from tracer.files import atomic_write, format_bytes
from tracer.indexing.work_folder import LOCK, WorkFolder
from tracer.training.checkpoint import CHECKPOINT

_SIGN: Final = "training"
"""A file that only an unfinished training has."""


class OutputFolder(WorkFolder):
    """The folder of a trained set; see :class:`WorkFolder`."""

    failure = TrainingError
    result = "transcoder set"
    activity = "training"
    checkpoint = CHECKPOINT

    def __enter__(self) -> Self:
        super().__enter__()
        with self.disk_errors():
            try:
                atomic_write(self.work / _SIGN, "An unfinished training of transcoders.\n")
            except OSError:
                self.__exit__(None, None, None)
                raise
        return self

    def check_room(self, size: int) -> None:
        """Raise :class:`TrainingError` if the disk has fewer than ``size`` bytes free."""
        free = shutil.disk_usage(self.work).free
        if free < size:
            raise TrainingError(
                f"{self.folder} needs {format_bytes(size)} for checkpoints and the finished set, "
                f"but the disk has {format_bytes(free)} free: make room or give another folder"
            )

    def publish(self, finished: Path) -> None:
        """Move the finished set, a folder inside ``work``, to its place and drop the checkpoint."""
        with self.disk_errors():
            self.refuse_foreign_files()
            if self.folder.exists():
                self.folder.rmdir()
            finished.rename(self.folder)
            (self.work / CHECKPOINT).unlink(missing_ok=True)

    def refuse_foreign_files(self) -> None:
        """Raise unless the folder is new or empty, and the other new or an unfinished training."""
        is_folder = self.folder.is_dir()
        contents = sorted(path.name for path in self.folder.iterdir()) if is_folder else []
        if contents or (self.folder.exists() and not is_folder):
            what = f"holds {contents[0]}" if contents else "is a file"
            raise TrainingError(
                f"{self.folder} {what}: nothing was changed; give a folder that is new or empty"
            )
        if self.work.exists():
            inside = {path.name for path in self.work.iterdir()} if self.work.is_dir() else {""}
            if inside - {LOCK} and _SIGN not in inside:
                raise TrainingError(
                    f"{self.work} is not an unfinished training: nothing was changed; move it "
                    "away, or give another folder"
                )
