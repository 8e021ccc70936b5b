"""The folder of an index, and the ``.partial`` folder next to it where a build works.

One build at a time works there. Files that are not part of an index are never touched.
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

from tracer.errors import FeatureIndexError
from tracer.indexing.checkpoint import CHECKPOINT, TOKENS

_INDEX: Final = "index.json.gz"
_LOCK: Final = "lock"


class OutputFolder:
    """The folder of an index, locked by one build for the duration of a ``with`` block.

    ``work`` is kept after the block once it has a checkpoint.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Write nothing yet; raise :class:`FeatureIndexError` for an impossible path."""
        try:
            self.folder = Path(folder).expanduser().resolve()
            self.work = self.folder.with_name(f"{self.folder.name}.partial")
        except (OSError, RuntimeError, ValueError) as error:
            raise FeatureIndexError(
                f"no index can be written to {folder} ({error}): give the path of a new folder"
            ) from error
        self._locks = ExitStack()

    def __enter__(self) -> Self:
        from filelock import FileLock, Timeout

        with self.disk_errors():
            self._refuse_foreign_files()
            self.work.mkdir(parents=True, exist_ok=True)
            try:
                self._locks.enter_context(FileLock(self.work / _LOCK, timeout=0))
            except Timeout as error:
                raise FeatureIndexError(
                    f"another build is writing {self.folder}: wait for it, or give another folder"
                ) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(OSError):  # the work in the block has reported what the disk refuses
            if not (self.work / CHECKPOINT).exists():
                self.discard_work()
                (self.work / _LOCK).unlink(missing_ok=True)
                self.work.rmdir()
        self._locks.close()

    @contextmanager
    def disk_errors(self) -> Iterator[None]:
        """Raise :class:`FeatureIndexError` for what the disk refuses inside the block."""
        try:
            yield
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or error
            raise FeatureIndexError(
                f"the index cannot be written to {self.folder} ({reason}): free some space or make "
                f"the folder writable, then start again to resume from {self.work.name}; or give "
                "another folder"
            ) from error

    def publish(self, finished: Path) -> None:
        """Move the finished index to its folder, replacing an older one, and discard the work."""
        self._refuse_foreign_files()
        if self.folder.exists():
            old = self.work / "old"
            shutil.rmtree(old, ignore_errors=True)
            self.folder.rename(old)
        finished.rename(self.folder)
        self.discard_work()

    def discard_work(self) -> None:
        """Delete the work: the checkpoint first, and last the file that marks the folder."""
        (self.work / CHECKPOINT).unlink(missing_ok=True)
        for path in self.work.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name not in (_LOCK, TOKENS):
                path.unlink()
        (self.work / TOKENS).unlink(missing_ok=True)

    def _refuse_foreign_files(self) -> None:
        """Raise unless both folders are new, empty, or an index and the work on one."""
        for folder, mark in ((self.folder, _INDEX), (self.work, TOKENS)):
            names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
            is_index = folder.is_dir() and (mark in names or set(names) <= {_LOCK})
            if folder.exists() and not is_index:
                kind = f"has {min(names)}" if names else "is a file"
                raise FeatureIndexError(
                    f"{folder} already exists, {kind} and is not a feature index; left unchanged: "
                    "give a folder that is new or empty, or an index to replace"
                )
