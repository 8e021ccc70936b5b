"""The part of `Catalogue` that notices and undoes changes that no visitor made.

SQLite does not notice a flipped bit in a text. So every graph has a checksum of its rows in each
table, and what people wrote is written a second time, to files.
"""

from __future__ import annotations

import sqlite3
import zlib
from typing import Final

from cache.annotation_files import AnnotationFiles, Written
from cache.database import Database, Row

WRITTEN_BY_PEOPLE: Final = ("annotations", "runs", "labels")
"""Tables that cannot be computed again."""
_CHECKED: Final = {
    "annotations": "*",
    "runs": "*",
    "labels": "*",
    "graphs": "key, sha256, bytes, prompt, model, created, imported",
}
"""Columns with a checksum, by table."""


class CatalogueChecks:
    """Checksums, and the second copy of what people wrote."""

    _file: Database
    _copies: AnnotationFiles | None

    def changed_outside(self) -> tuple[tuple[str, str], ...]:
        """Return (table, key) of what does not match its checksum: it changed on the disk."""
        if not self._mismatches():
            return ()
        with self._file.transaction():  # not a write of another process in between
            return self._mismatches()

    def _mismatches(self) -> tuple[tuple[str, str], ...]:
        return tuple(
            (str(part), str(key))
            for part, key, crc in self._file.read("SELECT part, key, crc FROM checks")
            if part not in _CHECKED or _crc(self._rows(part, key)) != crc
        )

    def unchecked(self) -> tuple[tuple[str, str], ...]:
        """Return (table, key) of what has no checksum: an older version wrote it."""
        return tuple(
            (table, str(key))
            for table in _CHECKED
            for (key,) in self._file.read(
                f"SELECT key FROM {table} EXCEPT SELECT key FROM checks WHERE part = ?", (table,)
            )
        )

    def accept(self, part: str, key: str) -> None:
        """Give what is stored the checksum that it has."""
        with self._file.transaction() as db:
            if part in _CHECKED:
                self._stamp(db, part, key)
            else:
                db.execute("DELETE FROM checks WHERE part = ? AND key = ?", (part, key))

    def written_by_people(self) -> set[str]:
        """Return the keys of graphs with annotations or runs."""
        return {
            str(key)
            for table in WRITTEN_BY_PEOPLE
            for (key,) in self._file.read(f"SELECT key FROM {table}")
        }

    def restore(self, key: str, content: Written) -> None:
        """Replace a graph's annotations and runs by a copy of them."""
        with self._file.transaction() as db:
            for table in WRITTEN_BY_PEOPLE:
                db.execute(f"DELETE FROM {table} WHERE key = ?", (key,))
                for row in content.get(table, []):
                    names, marks = ", ".join(row), ", ".join("?" * len(row))
                    db.execute(
                        f"INSERT OR REPLACE INTO {table} ({names}) VALUES ({marks})",
                        tuple(row.values()),
                    )
                self._stamp(db, table, key)

    def written(self, key: str) -> Written:
        """Return a graph's annotations and runs, as :meth:`restore` takes them."""
        return {
            table: [dict(zip(self._columns(table), row, strict=True)) for row in rows]
            for table in WRITTEN_BY_PEOPLE
            if (rows := self._rows(table, key))
        }

    def _columns(self, table: str) -> list[str]:
        return [
            str(name)
            for (name,) in self._file.read(f"SELECT name FROM pragma_table_info('{table}')")
        ]

    def _rows(self, part: str, key: str) -> list[Row]:
        query = f"SELECT {_CHECKED[part]} FROM {part} WHERE key = ? ORDER BY 1, 2, 3, 4"
        return self._file.read(query, (key,))

    def _stamp(self, db: sqlite3.Connection, part: str, key: str) -> None:
        """Update the checksum of a graph's rows in one table, and the copy of them."""
        rows = self._rows(part, key)
        db.execute("DELETE FROM checks WHERE part = ? AND key = ?", (part, key))
        if rows:
            db.execute("INSERT INTO checks VALUES (?, ?, ?)", (part, key, _crc(rows)))
        if self._copies is not None and part in WRITTEN_BY_PEOPLE:
            self._copies.write(key, self.written(key))


def _crc(rows: list[Row]) -> int:
    """Return a checksum of rows. Empty texts do not count, so new columns change nothing."""
    content = repr([[value for value in row if value != ""] for row in rows])
    return zlib.crc32(content.encode("utf-8", "backslashreplace"))
