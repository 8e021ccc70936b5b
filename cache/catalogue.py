"""`Catalogue`: the SQLite side of the store. It lists the graphs, their sizes, times and titles.

Every change of a graph's file happens inside `Catalogue.transaction`, which takes SQLite's write
lock, so two processes cannot disagree about a file. Errors of SQLite pass through: the store
translates them.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypedDict

from tracer.errors import TracerError

_SCHEMA: Final = """
CREATE TABLE graphs (
    key TEXT PRIMARY KEY, sha256 TEXT NOT NULL, bytes INTEGER NOT NULL,
    prompt TEXT NOT NULL, model TEXT NOT NULL,
    created REAL NOT NULL, used REAL NOT NULL
);
CREATE INDEX graphs_by_use ON graphs (used);
CREATE TABLE requests (digest TEXT PRIMARY KEY, key TEXT NOT NULL);
CREATE INDEX requests_by_key ON requests (key);
CREATE TABLE annotations (
    key TEXT PRIMARY KEY, title TEXT NOT NULL DEFAULT '', notes TEXT NOT NULL DEFAULT ''
);
CREATE TABLE damaged (
    file TEXT PRIMARY KEY, key TEXT NOT NULL, reason TEXT NOT NULL, found REAL NOT NULL
);
"""
_MARKS_AND_RUNS: Final = """
ALTER TABLE annotations ADD COLUMN marks TEXT NOT NULL DEFAULT '';
CREATE TABLE runs (
    key TEXT NOT NULL, scenarios TEXT NOT NULL, said TEXT NOT NULL, ran REAL NOT NULL,
    PRIMARY KEY (key, scenarios)
);
"""
_IMPORTED: Final = "ALTER TABLE graphs ADD COLUMN imported INTEGER NOT NULL DEFAULT 0"
_LABELS_AND_TAGS: Final = """
CREATE TABLE labels (
    dictionary TEXT NOT NULL, layer INTEGER NOT NULL, feature INTEGER NOT NULL,
    label TEXT NOT NULL, changed REAL NOT NULL,
    PRIMARY KEY (dictionary, layer, feature)
) WITHOUT ROWID;
ALTER TABLE annotations ADD COLUMN tags TEXT NOT NULL DEFAULT ''
"""
_STEPS: Final = (_SCHEMA, _MARKS_AND_RUNS, _IMPORTED, _LABELS_AND_TAGS)
SCHEMA_VERSION: Final = len(_STEPS)
_RUNS_KEPT: Final = 50
"""Per trace; the oldest runs make room."""
_BUSY_SECONDS: Final = 30.0


class StoreError(TracerError):
    """The store on disk cannot be opened, read or written."""


@dataclass(frozen=True)
class StoredGraph:
    """One graph as the catalogue lists it; times are seconds since 1970."""

    key: str
    sha256: str
    bytes: int
    prompt: str
    model: str
    created: float
    used: float
    title: str
    notes: str
    imported: bool = False
    """Whether it came from a file of another tool; no model is behind it then."""
    tags: tuple[str, ...] = ()


class Texts(TypedDict, total=False):
    """What a person writes about a graph; None leaves a text unchanged."""

    title: str | None
    notes: str | None
    tags: tuple[str, ...] | None


@dataclass(frozen=True)
class DamagedFile:
    """A file that was set aside, and why."""

    file: str
    key: str
    reason: str
    found: float


@dataclass(frozen=True)
class StoreUse:
    """Disk space that the store takes, in bytes."""

    traced: int
    """Graphs traced here; eviction keeps them within the quota."""
    imported: int
    """Imported graphs, with the files they came as."""
    quota: int
    """How much each of the two may take."""


class Catalogue:
    """One SQLite file in WAL mode, and one connection that threads share behind a lock."""

    def __init__(self, path: Path) -> None:
        """Open or create; raises ``sqlite3.DatabaseError`` when ``path`` is not usable."""
        self._lock = threading.RLock()
        self._db = sqlite3.connect(
            path, timeout=_BUSY_SECONDS, check_same_thread=False, isolation_level=None
        )
        try:
            (state,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
            if state != "ok":
                raise sqlite3.DatabaseError(state)
            self._enter_wal_mode()
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._migrate()
        except BaseException:
            self._db.close()
            raise

    def _enter_wal_mode(self) -> None:
        """Retry until the lock is free: SQLite does not wait for it here, unlike elsewhere."""
        deadline = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
            time.sleep(0.01)

    def _migrate(self) -> None:
        with self.transaction() as db:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version > SCHEMA_VERSION:
                raise StoreError(
                    f"the store's catalogue has version {version}, this program reads version "
                    f"{SCHEMA_VERSION}: set CIRCUIT_STORE to another folder"
                )
            for step in _STEPS[version:]:
                for statement in step.split(";"):
                    db.execute(statement)
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def close(self) -> None:
        """Close the connection; the catalogue is not usable afterwards."""
        with self._lock:
            self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Apply all changes or none, while no other thread or process writes."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def key_of(self, digest: str) -> str | None:
        """Return the key of the graph that answers a request, if it was ever answered."""
        with self._lock:
            row = self._db.execute(
                "SELECT key FROM requests WHERE digest = ?", (digest,)
            ).fetchone()
        return None if row is None else str(row[0])

    def own_key(self, key: str) -> str:
        """Return a graph's own key, given that or the digest of a request it answers."""
        return self.key_of(key) or key

    def link(self, digest: str, key: str) -> None:
        """Remember that the graph ``key`` answers the request ``digest``."""
        with self._lock:
            self._db.execute("INSERT OR REPLACE INTO requests VALUES (?, ?)", (digest, key))

    def find(self, key: str) -> StoredGraph | None:
        """Return the entry of a graph, or None."""
        entries = self._select("WHERE graphs.key = ?", (key,))
        return entries[0] if entries else None

    def entries(self) -> tuple[StoredGraph, ...]:
        """Return every graph, the most recently used first."""
        return tuple(self._select("ORDER BY used DESC, graphs.rowid DESC"))

    def _select(self, tail: str, values: tuple[str, ...] = ()) -> list[StoredGraph]:
        columns = "graphs.key, sha256, bytes, prompt, model, created, used"
        query = (
            f"SELECT {columns}, coalesce(title, ''), coalesce(notes, ''), imported, "
            "coalesce(tags, '') "
            f"FROM graphs LEFT JOIN annotations USING (key) {tail}"
        )
        with self._lock:
            rows = self._db.execute(query, values).fetchall()
        return [
            replace(
                StoredGraph(*columns[:-2]), imported=bool(columns[-2]), tags=_lines(columns[-1])
            )
            for columns in rows
        ]

    def add(
        self, key: str, sha256: str, size: int, prompt: str, model: str, imported: bool = False
    ) -> None:
        """List a graph, created and used now."""
        now = time.time()
        with self._lock:
            self._db.execute(
                "INSERT OR REPLACE INTO graphs VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (key, sha256, size, prompt, model, now, now, imported),
            )

    def remove(self, key: str) -> None:
        """Remove a graph and its requests, but not its annotations."""
        with self._lock:
            self._db.execute("DELETE FROM graphs WHERE key = ?", (key,))
            self._db.execute("DELETE FROM requests WHERE key = ?", (key,))

    def touch(self, key: str) -> None:
        """Mark the graph as used now."""
        with self._lock:
            self._db.execute("UPDATE graphs SET used = ? WHERE key = ?", (time.time(), key))

    def total_bytes(self, imported: bool) -> int:
        """Return the size of all imported graphs, or of all graphs traced here."""
        query = "SELECT coalesce(sum(bytes), 0) FROM graphs WHERE imported = ?"
        with self._lock:
            (total,) = self._db.execute(query, (imported,)).fetchone()
        return int(total)

    def evictable(self) -> tuple[StoredGraph, ...]:
        """Return the traced graphs without annotations, the least recently used first."""
        return tuple(
            self._select(
                "WHERE annotations.key IS NULL AND NOT imported ORDER BY used, graphs.rowid"
            )
        )

    def annotate(
        self,
        key: str,
        title: str | None,
        notes: str | None,
        annotations: str | None = None,
        tags: str | None = None,
    ) -> None:
        """Set what is not None; a graph whose texts are all empty is not annotated."""
        with self.transaction() as db:
            db.execute("INSERT OR IGNORE INTO annotations (key) VALUES (?)", (key,))
            db.execute(
                "UPDATE annotations SET title = coalesce(?, title), notes = coalesce(?, notes), "
                "marks = coalesce(?, marks), tags = coalesce(?, tags) WHERE key = ?",
                (title, notes, annotations, tags, key),
            )
            db.execute(
                "DELETE FROM annotations "
                "WHERE key = ? AND title = '' AND notes = '' AND marks = '' AND tags = ''",
                (key,),
            )

    def is_annotated(self, key: str) -> bool:
        """Whether a graph has a title, notes, pins or supernodes."""
        query = "SELECT 1 FROM annotations WHERE key = ?"
        with self._lock:
            return self._db.execute(query, (key,)).fetchone() is not None

    def annotations(self, key: str) -> str:
        """Return the annotations as :meth:`annotate` received them; empty if there are none."""
        query = "SELECT marks FROM annotations WHERE key = ?"
        with self._lock:
            row = self._db.execute(query, (key,)).fetchone()
        return "" if row is None else str(row[0])

    def labels(self, dictionary: str) -> tuple[tuple[int, int, str], ...]:
        """Return (layer, feature, label) of every label in ``dictionary``."""
        query = "SELECT layer, feature, label FROM labels WHERE dictionary = ?"
        with self._lock:
            return tuple(self._db.execute(query, (dictionary,)))

    def set_label(self, dictionary: str, layer: int, feature: int, label: str) -> None:
        """Set the label of a feature; an empty one removes it."""
        place = (dictionary, layer, feature)
        with self.transaction() as db:
            db.execute(
                "DELETE FROM labels WHERE dictionary = ? AND layer = ? AND feature = ?", place
            )
            if label:
                db.execute(
                    "INSERT INTO labels VALUES (?, ?, ?, ?, ?)", (*place, label, time.time())
                )

    def requests_of(self, key: str) -> tuple[str, ...]:
        """Return the digests of the requests that a graph answers."""
        with self._lock:
            rows = self._db.execute("SELECT digest FROM requests WHERE key = ?", (key,))
            return tuple(digest for (digest,) in rows)

    def add_run(self, key: str, scenarios: str, summary: str) -> None:
        """Add a run now; it replaces an earlier run of the same scenarios."""
        with self.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?)",
                (key, scenarios, summary, time.time()),
            )
            db.execute(
                "DELETE FROM runs WHERE key = ? AND rowid NOT IN "
                "(SELECT rowid FROM runs WHERE key = ? ORDER BY ran DESC, rowid DESC LIMIT ?)",
                (key, key, _RUNS_KEPT),
            )

    def runs(self, key: str) -> tuple[tuple[str, str, float], ...]:
        """Return (scenarios, summary, time) of every run, the latest first."""
        query = "SELECT scenarios, said, ran FROM runs WHERE key = ? ORDER BY ran DESC, rowid DESC"
        with self._lock:
            return tuple(self._db.execute(query, (key,)))

    def note_damage(self, file: str, key: str, reason: str) -> None:
        """List a file that was set aside."""
        with self._lock:
            self._db.execute(
                "INSERT OR REPLACE INTO damaged VALUES (?, ?, ?, ?)",
                (file, key, reason, time.time()),
            )

    def damaged(self) -> tuple[DamagedFile, ...]:
        """Return every file that was set aside, the latest first."""
        query = "SELECT file, key, reason, found FROM damaged ORDER BY found DESC, rowid DESC"
        with self._lock:
            return tuple(DamagedFile(*row) for row in self._db.execute(query))


def _lines(text: str) -> tuple[str, ...]:
    return tuple(text.split("\n")) if text else ()
