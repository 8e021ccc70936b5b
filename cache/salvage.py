"""Copy what can still be read of a damaged SQLite file into a new one."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from cache.database import Row, without_log

_PAGE: Final = 4096
_KEY: Final = re.compile(r"[0-9a-f]{32,64}")
_HEADER: Final = 100
_FIXED: Final = ((0, 24), (44, 48), (56, 60))
"""Bytes of the header that are the same in all our files: magic number, page size, encoding."""


def salvage(path: Path, tables: Sequence[str], into: sqlite3.Connection) -> dict[str, int]:
    """Copy the readable rows of ``tables`` and return how many there were of each.

    Rows are read from both ends, so one bad page in the middle costs only its own rows. A row that
    the new table refuses is skipped.
    """
    copied = dict.fromkeys(tables, 0)
    try:
        damaged = sqlite3.connect(":memory:")
        damaged.text_factory = lambda content: content.decode("utf-8", "replace")
        damaged.execute("PRAGMA writable_schema = ON")  # reads past a damaged schema
        damaged.deserialize(_with_sound_header(path.read_bytes()))
    except (OSError, sqlite3.Error):
        return copied
    try:
        for table in tables:
            for columns, row in _rows(damaged, table):
                copied[table] += _insert(into, table, columns, row)
    finally:
        damaged.close()
    return copied


def _rows(db: sqlite3.Connection, table: str) -> Iterator[tuple[tuple[str, ...], Row]]:
    for tail in ("", "ORDER BY rowid DESC"):
        try:
            cursor = db.execute(f"SELECT * FROM {table} NOT INDEXED {tail}")
            columns = tuple(entry[0] for entry in cursor.description)
            for row in cursor:
                yield columns, row
        except (sqlite3.Error, UnicodeDecodeError):
            continue  # from the other end
        return


def _insert(db: sqlite3.Connection, table: str, columns: tuple[str, ...], row: Row) -> int:
    keys = [value for name, value in zip(columns, row, strict=True) if name == "key"]
    if not all(isinstance(key, str) and _KEY.fullmatch(key) for key in keys):
        return 0  # not a row that was ever written
    names, marks = ", ".join(columns), ", ".join("?" * len(columns))
    try:
        return db.execute(f"INSERT OR IGNORE INTO {table} ({names}) VALUES ({marks})", row).rowcount
    except (sqlite3.Error, ValueError):
        return 0


def _with_sound_header(content: bytes) -> bytes:
    sound = sqlite3.connect(":memory:")
    sound.execute(f"PRAGMA page_size = {_PAGE}")
    sound.execute("CREATE TABLE t (x)")
    header, result = sound.serialize()[:_HEADER], bytearray(content)
    sound.close()
    for start, stop in _FIXED:
        result[start:stop] = header[start:stop]
    return without_log(bytes(result))
