"""Write files atomically, and format sizes for a person. No torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to ``path`` that replaces it at the end of the block.

    The content is flushed to disk before the file is renamed. If the block raises, ``path`` is
    unchanged and the temporary file is removed. The temporary name is unique, so threads and
    processes can write the same file at the same time: the last one wins.

    Raises ``OSError`` when the folder cannot be written.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with replacing(folder / "a.txt") as partial:
    ...     _ = partial.write_text("complete")
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
    """Write ``content`` (text as UTF-8) to ``path``, all of it or nothing.

    Raises ``OSError`` when the folder cannot be written.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "note.txt"
    >>> atomic_write(path, "remember")
    >>> path.read_text()
    'remember'
    """
    with replacing(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def format_bytes(size: float) -> str:
    """Return a number of bytes as text, in the decimal units that disks and models are sold in.

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
