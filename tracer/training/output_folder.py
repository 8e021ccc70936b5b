"""The folder of a trained set, which must be new or empty, and the ``.partial`` folder next to it.

One training at a time uses them. Files that are not part of an unfinished training are never
changed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from safetensors import SafetensorError

from tracer.errors import TrainingError
from tracer.files import atomic_write, format_bytes
from tracer.training.checkpoint import CHECKPOINT

_LOCK: Final = "lock"
_SIGN: Final = "training"
"""A file that only an unfinished training has."""


class OutputFolder:
    """The folder of a set, claimed by one training from the beginning of a ``with`` to its end.

    ``work`` holds the unfinished training. It is deleted at the end unless it has a checkpoint.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Resolve the path; nothing is written yet. Raises :class:`TrainingError` for a path that
        cannot be a folder."""
        try:
            self.folder = Path(folder).expanduser().resolve()
            self.work = self.folder.with_name(f"{self.folder.name}.partial")
        except (OSError, RuntimeError, ValueError) as error:
            raise TrainingError(
                f"no transcoder set can be written to {folder} ({error}): give a new folder"
            ) from error
        self._claims = ExitStack()

    def __enter__(self) -> Self:
        from filelock import FileLock, Timeout

        with self.writing():
            self._refuse_others()
            self.work.mkdir(parents=True, exist_ok=True)
            try:
                self._claims.enter_context(FileLock(self.work / _LOCK, timeout=0))
            except Timeout as error:
                raise TrainingError(
                    f"another training is writing {self.folder}: wait for it, or give another "
                    "folder"
                ) from error
            atomic_write(self.work / _SIGN, "An unfinished training of transcoders.\n")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        keep = (self.work / CHECKPOINT).exists()
        with suppress(OSError):
            if not keep:
                for path in self.work.iterdir():
                    if path.is_dir():
                        shutil.rmtree(path)
                    elif path.name != _LOCK:
                        path.unlink()
        self._claims.close()
        with suppress(OSError):
            if not keep:
                (self.work / _LOCK).unlink(missing_ok=True)
                self.work.rmdir()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turn a disk error in the block into a :class:`TrainingError`."""
        try:
            yield
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or error
            raise TrainingError(
                f"{self.folder} cannot be written ({reason}): free disk space or make the folder "
                f"writable, then start again; {self.work.name} next to it keeps the progress"
            ) from error

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
        with self.writing():
            self._refuse_others()
            if self.folder.exists():
                self.folder.rmdir()
            finished.rename(self.folder)
            (self.work / CHECKPOINT).unlink(missing_ok=True)

    def _refuse_others(self) -> None:
        contents = sorted(path.name for path in self.folder.iterdir()) if self._is_dir() else []
        if contents or (self.folder.exists() and not self.folder.is_dir()):
            what = f"holds {contents[0]}" if contents else "is a file"
            raise TrainingError(
                f"{self.folder} {what}: nothing was changed; give a folder that is new or empty"
            )
        if self.work.exists():
            inside = {path.name for path in self.work.iterdir()} if self.work.is_dir() else {""}
            if inside - {_LOCK} and _SIGN not in inside:
                raise TrainingError(
                    f"{self.work} is not an unfinished training: nothing was changed; move it "
                    "away, or give another folder"
                )

    def _is_dir(self) -> bool:
        return self.folder.is_dir()
