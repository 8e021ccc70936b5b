"""Read a file that can be compressed with xz or gzip, and track how much has been read."""

from __future__ import annotations

import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self

_OPENERS: Final[dict[str, Callable[[BinaryIO], Any]]] = {
    ".xz": lzma.LZMAFile,
    ".gz": lambda file: gzip.GzipFile(fileobj=file),
}
COMPRESSED: Final = tuple(_OPENERS)


def inner_suffix(path: Path) -> str:
    """Return the suffix of a file without that of its compression, in lower case.

    >>> inner_suffix(Path("books.jsonl.xz")), inner_suffix(Path("books.txt"))
    ('.jsonl', '.txt')
    """
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in COMPRESSED else suffix


class OpenedFile(io.RawIOBase):
    """The bytes of a file, decompressed if its suffix is that of a compressed file.

    Damaged compression raises ``OSError``, like any other error of a file.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        opener = _OPENERS.get(path.suffix.lower())
        self._inner: Any = opener(self._file) if opener is not None else self._file
        self._size = max(path.stat().st_size, 1)

    @property
    def share(self) -> float:
        """How much of the file on disk has been read, 0 to 1."""
        return min(self._file.tell() / self._size, 1.0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            read = self._inner.read(len(buffer))
        except (EOFError, lzma.LZMAError, zlib.error) as error:
            raise OSError(f"its compressed data is damaged: {error}") from error
        buffer[: len(read)] = read
        return len(read)

    def close(self) -> None:
        self._file.close()
        super().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_buffered(raw: OpenedFile) -> io.BufferedReader:
    """Return a reader of lines over an opened file."""
    return io.BufferedReader(raw, 2**16)
