"""A folder that long work fills in, and the ``.partial`` folder next to it where it is done.

One process at a time works there. What is built in it is for the subclasses to say.
"""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Final, Self

from safetensors import SafetensorError

from tracer.errors import TracerError

LOCK: Final = "lock"


class WorkFolder(ABC):
    """The folder of a result, locked by one process for the duration of a ``with`` block.

    ``work`` is kept after the block once it has a checkpoint.
    """

    failure: ClassVar[type[TracerError]]
    """The error that everything here raises."""
    result: ClassVar[str]
    """What the folder is to hold, such as ``index``."""
    activity: ClassVar[str]
    """What fills it in, such as ``build``."""
    checkpoint: ClassVar[str]
    """The file of ``work`` from which the activity can resume."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Resolve the path and write nothing; raise :attr:`failure` for an impossible path."""
        try:
            self.folder = Path(folder).expanduser().resolve()
            self.work = self.folder.with_name(f"{self.folder.name}.partial")
        except (OSError, RuntimeError, ValueError) as error:
            raise self.failure(
                f"no {self.result} can be written to {folder} ({error}): give the path of a new "
                "folder"
            ) from error
        self._locks = ExitStack()

    @abstractmethod
    def refuse_foreign_files(self) -> None:
        """Raise :attr:`failure` if either folder has files that are not this activity's."""

    def __enter__(self) -> Self:
        from filelock import FileLock, Timeout

        with self.disk_errors():
            self.refuse_foreign_files()
            self.work.mkdir(parents=True, exist_ok=True)
            try:
                self._locks.enter_context(FileLock(self.work / LOCK, timeout=0))
            except Timeout as error:
                raise self.failure(
                    f"another {self.activity} is writing {self.folder}: wait for it, or give "
                    "another folder"
                ) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(OSError):  # the work in the block has reported what the disk refuses
            if not (self.work / self.checkpoint).exists():
                self.discard_work()
                (self.work / LOCK).unlink(missing_ok=True)
                self.work.rmdir()
        self._locks.close()

    @contextmanager
    def disk_errors(self) -> Iterator[None]:
        """Raise :attr:`failure` for what the disk refuses inside the block."""
        try:
            yield
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or error
            raise self.failure(
                f"the {self.result} cannot be written to {self.folder} ({reason}): free some space "
                "or make the folder writable, then start again to resume from "
                f"{self.work.name}; or give another folder"
            ) from error

    def discard_work(self) -> None:
        """Delete the work, the checkpoint first."""
        (self.work / self.checkpoint).unlink(missing_ok=True)
        for path in self.work.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name not in self.last_to_go():
                path.unlink()

    def last_to_go(self) -> tuple[str, ...]:
        """Return the files that :meth:`discard_work` leaves to its caller."""
        return (LOCK,)
