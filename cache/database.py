"""`Database`: one SQLite file in WAL mode, opened, checked and, where possible, repaired.

There are three connections. One writes, flushing every commit to the disk. One reads and never
waits for a writer. One makes notes that may get lost, and gives up at once when the file is busy.
Nothing here knows what the tables mean. Errors of SQLite pass through.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

BUSY_SECONDS: Final = 30.0
"""How long a write waits for another process."""
_READ_SECONDS: Final = 5.0
_NOTE_SECONDS: Final = 0.1
_OUTSIDE: Final = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
}
"""Errors of the disk or of other processes. The content may be fine."""
Row = tuple[Any, ...]


class Database:
    """One SQLite file and its connections. Safe from any thread.

    ``steps`` are the scripts that create the tables, one a version; the file remembers in
    ``user_version`` how many it has had.
    """

    def __init__(self, path: Path, steps: Sequence[str]) -> None:
        """Open or create the file.

        Raises ``sqlite3.DatabaseError`` when it is damaged beyond rebuilding its indexes, and
        :class:`NewerVersion` when a newer program wrote it.
        """
        self.writable = True
        self._lock = threading.RLock()
        self._read_lock = threading.Lock()
        self._note_lock = threading.Lock()
        self._writing: int | None = None
        self._db = _connect(path, BUSY_SECONDS)
        self._opened = [self._db]
        try:
            _enter_wal_mode(self._db)
            check(self._db)
            self._db.execute("PRAGMA synchronous = FULL")
            self._migrate(steps)
            self.checkpoint()
            self._reader = _connect(path, _READ_SECONDS)
            self._opened.append(self._reader)
            self._reader.execute("PRAGMA query_only = ON")
            self._notes = _connect(path, _NOTE_SECONDS)
            self._opened.append(self._notes)
        except BaseException:
            self.close()
            raise

    @classmethod
    def read_only(cls, path: Path, steps: Sequence[str]) -> Database:
        """Open a file that cannot be written, by reading it into memory.

        What is still in its log is read too where SQLite can; every write raises
        ``sqlite3.OperationalError``.
        """
        self = cls.__new__(cls)
        self.writable = False
        self._lock, self._read_lock = threading.RLock(), threading.Lock()
        self._note_lock, self._writing = threading.Lock(), None
        self._db = self._reader = self._notes = _in_memory(path)
        self._opened = [self._db]
        check(self._db)
        self._migrate(steps)
        self._db.execute("PRAGMA query_only = ON")
        return self

    def close(self) -> None:
        """Close all connections; the database is not usable afterwards."""
        with self._lock, self._read_lock, self._note_lock:
            for connection in self._opened:
                connection.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Apply all changes or none, while no other thread or process writes.

        Reads of this thread see the changes; those of other threads do not until the end.
        """
        with self._lock:
            if self._writing is not None:  # part of a larger one
                yield self._db
                return
            self._db.execute("BEGIN IMMEDIATE")
            self._writing = threading.get_ident()
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            finally:
                self._writing = None

    def read(self, query: str, values: Sequence[Any] = ()) -> list[Row]:
        """Return all rows of a query, without waiting for writers."""
        if self._writing == threading.get_ident():
            return self._db.execute(query, values).fetchall()
        lock = self._read_lock if self._reader is not self._db else self._lock
        with lock:
            return self._reader.execute(query, values).fetchall()

    def note(self, statement: str, values: Sequence[Any]) -> bool:
        """Write something that may get lost; False when it could not be written at once."""
        try:
            with self._note_lock:
                self._notes.execute(statement, values)
        except sqlite3.Error:
            return False
        return True

    def checkpoint(self) -> None:
        """Move the log into the file, so that damage to the log loses nothing.

        Does nothing while another process is in the way for longer than a moment.
        """
        with self._lock:
            if self.writable and self._writing is None:
                self._db.execute(f"PRAGMA busy_timeout = {int(1000 * _NOTE_SECONDS)}")
                try:
                    self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                finally:
                    self._db.execute(f"PRAGMA busy_timeout = {int(1000 * BUSY_SECONDS)}")

    def _migrate(self, steps: Sequence[str]) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version == len(steps) and layout(self._db) == expected_layout(steps):
            return  # nothing is written: the disk may be full
        with self.transaction() as db:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            current = layout(db)
            if current == expected_layout(steps):
                # A flipped bit in the version, where the tables are those of this program.
                if version > len(steps) and (version ^ len(steps)).bit_count() > 1:
                    raise NewerVersion(version)
                version = len(steps)
            elif version > len(steps):
                raise NewerVersion(version)
            elif current != expected_layout(steps[:version]):
                raise sqlite3.DatabaseError("its tables are not those of any version")
            for step in steps[version:]:
                for statement in step.split(";"):
                    db.execute(statement)
            db.execute(f"PRAGMA user_version = {len(steps)}")


class NewerVersion(Exception):
    """A newer program wrote the file; ``version`` is its version."""

    def __init__(self, version: int) -> None:
        super().__init__(f"version {version}")
        self.version = version


def is_damage(error: sqlite3.Error, path: Path) -> bool:
    """Whether an error means that the content is damaged, rather than the disk full or busy."""
    code = getattr(error, "sqlite_errorcode", None)
    if not isinstance(error, sqlite3.DatabaseError) or isinstance(error, sqlite3.ProgrammingError):
        return False
    if code is None:
        return not isinstance(error, sqlite3.OperationalError)
    if code & 0xFF in _OUTSIDE:
        return False
    return path.exists()


def check(db: sqlite3.Connection) -> None:
    """Check every page and index, and rebuild the indexes if only they are wrong.

    Raises ``sqlite3.DatabaseError`` when more than an index is damaged.
    """
    problems = [str(row[0]) for row in db.execute("PRAGMA integrity_check(100)")]
    if problems == ["ok"]:
        return
    if all("index" in problem for problem in problems):
        db.execute("REINDEX")
        problems = [str(row[0]) for row in db.execute("PRAGMA integrity_check(1)")]
        if problems == ["ok"]:
            return
    raise sqlite3.DatabaseError(problems[0])


def layout(db: sqlite3.Connection) -> dict[str, list[Row]]:
    """Return the columns of every table, and the names of its indexes."""
    tables = [row[0] for row in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    return {
        table: [
            *db.execute("SELECT * FROM pragma_table_info(?)", (table,)).fetchall(),
            *sorted(db.execute("SELECT name, origin FROM pragma_index_list(?)", (table,))),
        ]
        for table in tables
        if not table.startswith("sqlite_")
    }


def expected_layout(steps: Sequence[str]) -> dict[str, list[Row]]:
    """Return the layout that ``steps`` create."""
    db = sqlite3.connect(":memory:")
    try:
        for step in steps:
            db.executescript(step)
        return layout(db)
    finally:
        db.close()


def _connect(path: Path, timeout: float) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=timeout, check_same_thread=False, isolation_level=None)
    db.text_factory = _lenient
    return db


def _lenient(content: bytes) -> str:
    """Decode a text; a flipped bit must not make every row unreadable."""
    return content.decode("utf-8", "replace")


def _enter_wal_mode(db: sqlite3.Connection) -> None:
    """Retry until the lock is free: SQLite does not wait for it here, unlike elsewhere."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def _in_memory(path: Path) -> sqlite3.Connection:
    """Copy a database into memory, with its log if SQLite can read that here."""
    memory = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
    memory.text_factory = _lenient
    try:
        source = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            source.backup(memory)
        finally:
            source.close()
    except sqlite3.OperationalError:  # its log cannot be opened without writing
        memory.deserialize(without_log(path.read_bytes()))
    return memory


def without_log(content: bytes) -> bytes:
    """Return a database file that needs no log beside it: marked as not in WAL mode."""
    return content[:18] + b"\x01\x01" + content[20:]
