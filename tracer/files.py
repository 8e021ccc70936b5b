"""Write a file whole or not at all, and say how large something is. No torch here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that takes its name at the end of the block.

    What was written is flushed to the disk first. When the block raises, ``path`` is left as it was
    and the temporary file is removed. The temporary name is unique, so threads and processes that
    write the same file do not disturb each other: the last one wins.

    Raises ``OSError`` when the folder cannot be written.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with replacing(folder / "a.txt") as partial:
    ...     _ = partial.write_text("whole")
    >>> [file.name for file in folder.iterdir()]
    ['a.txt']
    """
    partial = path.with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def atomic_write(path: Path, content: bytes | str) -> None:
    """Write ``content`` (text as UTF-8) to ``path``, whole or not at all.

    Raises ``OSError`` when the folder cannot be written.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "note.txt"
    >>> atomic_write(path, "kept")
    >>> path.read_text()
    'kept'
    """
    with replacing(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def format_bytes(size: float) -> str:
    """Return a number of bytes for a person, in decimal units as disks and models are sold.

    >>> format_bytes(512), format_bytes(2_340), format_bytes(14_400_000_000)
    ('512 bytes', '2.3 kB', '14.4 GB')
    """
    if size < 1e3:
        return f"{size:.0f} bytes"
    unit, scale = next(
        (entry for entry in (("kB", 1e3), ("MB", 1e6)) if size < 999.5 * entry[1]), ("GB", 1e9)
    )
    digits = 1 if size < 99.95 * scale else 0
    return f"{size / scale:,.{digits}f} {unit}"
