"""Where an index is written: a folder that is nothing else, and its ``.partial`` beside it.

One build at a time works there. What stands in the way and is not an index is left alone.
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


class Place:
    """The folder of an index, claimed by one build from the beginning of a ``with`` to its end.

    What was done is kept from the first checkpoint on.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Nothing is written yet; raises :class:`FeatureIndexError` for what is no place."""
        try:
            self.folder = Path(folder).expanduser().resolve()
            self.work = self.folder.with_name(f"{self.folder.name}.partial")
        except (OSError, RuntimeError, ValueError) as error:
            raise FeatureIndexError(
                f"no index can be written as {folder} ({error}): give a folder of its own"
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
        with suppress(OSError):  # a disk that refuses: told by what was done there
            if not (self.work / CHECKPOINT).exists():
                self.forget()
                (self.work / _LOCK).unlink(missing_ok=True)
                self.work.rmdir()
        self._claims.close()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Raises :class:`FeatureIndexError` where the disk refuses what is done in it."""
        try:
            yield
        except (OSError, SafetensorError) as error:
            why = getattr(error, "strerror", None) or error
            raise FeatureIndexError(
                f"the index cannot be written to {self.folder} ({why}): make room there, or make "
                f"it writable, and start again (what {self.work.name} holds beside it is gone on "
                "with), or give another folder"
            ) from error

    def put(self, whole: Path) -> None:
        """Move the finished index to its place, an older one out of it; then forget the work."""
        self._refuse_others()
        if self.folder.exists():
            old = self.work / "old"
            shutil.rmtree(old, ignore_errors=True)
            self.folder.rename(old)
        whole.rename(self.folder)
        self.forget()

    def forget(self) -> None:
        """Delete what was kept of the work: first what it would be gone on with, last its sign."""
        (self.work / CHECKPOINT).unlink(missing_ok=True)
        for path in self.work.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name not in (_LOCK, TOKENS):
                path.unlink()
        (self.work / TOKENS).unlink(missing_ok=True)

    def _refuse_others(self) -> None:
        """Somebody's files may have the name that was given: only an index makes way for one."""
        for folder, sign in ((self.folder, _INDEX), (self.work, TOKENS)):
            found = [path.name for path in folder.iterdir()] if folder.is_dir() else []
            ours = folder.is_dir() and (sign in found or set(found) <= {_LOCK})
            if folder.exists() and not ours:
                kind = f"holds {min(found)}" if found else "is a file"
                raise FeatureIndexError(
                    f"{folder} is there, {kind} and is no feature index: nothing was touched; give "
                    "a folder that is new, empty, or an index to be replaced"
                )
