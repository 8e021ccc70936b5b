"""`Catalogue`: the SQLite side of the store. It lists the graphs, their sizes, times and titles.

Every change of a graph's file happens inside `Catalogue.transaction`, which takes SQLite's write
lock, so two processes cannot disagree about a file. Reading never waits for that lock. What a
person wrote has a checksum per graph, because SQLite does not notice a flipped bit in a text.
Errors of SQLite pass through: the store translates them.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Final

from cache.annotation_files import AnnotationFiles
from cache.catalogue_checks import WRITTEN_BY_PEOPLE, CatalogueChecks
from cache.database import Database, NewerVersion
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
_CHECKS_AND_DELETED: Final = """
CREATE TABLE checks (
    part TEXT NOT NULL, key TEXT NOT NULL, crc INTEGER NOT NULL, PRIMARY KEY (part, key)
);
CREATE TABLE deleted (key TEXT PRIMARY KEY)
"""
_LABELS_AND_TAGS: Final = """
CREATE TABLE labels (
    key TEXT NOT NULL, layer INTEGER NOT NULL, feature INTEGER NOT NULL,
    label TEXT NOT NULL, dictionary TEXT NOT NULL, changed REAL NOT NULL,
    PRIMARY KEY (key, layer, feature)
) WITHOUT ROWID;
ALTER TABLE annotations ADD COLUMN tags TEXT NOT NULL DEFAULT ''
"""
_STEPS: Final = (_SCHEMA, _MARKS_AND_RUNS, _IMPORTED, _CHECKS_AND_DELETED, _LABELS_AND_TAGS)
SCHEMA_VERSION: Final = len(_STEPS)
SALVAGED: Final = (*WRITTEN_BY_PEOPLE, "checks", "requests", "damaged", "deleted")
"""Tables that are copied out of a damaged catalogue; the graphs are listed from their files."""
_RUNS_KEPT: Final = 50
"""Per trace; the oldest runs make room."""


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


class Catalogue(CatalogueChecks):
    """One SQLite file; see :class:`cache.database.Database`."""

    def __init__(
        self, path: Path, copies: AnnotationFiles | None = None, read_only: bool = False
    ) -> None:
        """Open or create; raises ``sqlite3.DatabaseError`` when ``path`` is not usable.

        What people wrote is also written to ``copies``. Raises :class:`StoreError` for a catalogue
        of a newer version.
        """
        self._copies = copies
        try:
            self._file = Database.read_only(path, _STEPS) if read_only else Database(path, _STEPS)
        except NewerVersion as error:
            raise StoreError(
                f"the store's catalogue has version {error.version}, this program reads version "
                f"{SCHEMA_VERSION}: set CIRCUIT_STORE to another folder"
            ) from error

    @property
    def is_writable(self) -> bool:
        """False for a copy in memory of a catalogue that cannot be written."""
        return self._file.writable

    def close(self) -> None:
        """Close the connections; the catalogue is not usable afterwards."""
        self._file.close()

    def checkpoint(self) -> None:
        """Move the log into the file, so that damage to the log loses nothing."""
        self._file.checkpoint()

    def transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        """Apply all changes or none, while no other thread or process writes."""
        return self._file.transaction()

    def key_of(self, digest: str) -> str | None:
        """Return the key of the graph that answers a request, if it was ever answered."""
        rows = self._file.read("SELECT key FROM requests WHERE digest = ?", (digest,))
        return str(rows[0][0]) if rows else None

    def own_key(self, key: str) -> str:
        """Return a graph's own key, given that or the digest of a request it answers."""
        return self.key_of(key) or key

    def link(self, digest: str, key: str) -> None:
        """Remember that the graph ``key`` answers the request ``digest``."""
        with self.transaction() as db:
            db.execute("INSERT OR REPLACE INTO requests VALUES (?, ?)", (digest, key))

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
        return [
            replace(StoredGraph(*row[:-2]), imported=bool(row[-2]), tags=_lines(str(row[-1])))
            for row in self._file.read(query, values)
        ]

    def add(
        self, key: str, sha256: str, size: int, prompt: str, model: str, imported: bool = False
    ) -> None:
        """List a graph, created and used now."""
        now = time.time()
        with self.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO graphs VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (key, sha256, size, prompt, model, now, now, imported),
            )
            db.execute("DELETE FROM deleted WHERE key = ?", (key,))
            self._stamp(db, "graphs", key)

    def remove(self, key: str) -> None:
        """Remove a graph and its requests, but not its annotations."""
        with self.transaction() as db:
            db.execute("DELETE FROM graphs WHERE key = ?", (key,))
            db.execute("DELETE FROM requests WHERE key = ?", (key,))
            self._stamp(db, "graphs", key)

    def note_deleted(self, key: str) -> None:
        """List a graph whose files are to be deleted once that is committed."""
        with self.transaction() as db:
            db.execute("INSERT OR IGNORE INTO deleted VALUES (?)", (key,))

    def deleted(self) -> tuple[str, ...]:
        """Return the graphs that were deleted and whose files may still be there."""
        return tuple(str(key) for (key,) in self._file.read("SELECT key FROM deleted"))

    def files_deleted(self, key: str) -> None:
        """Take a graph off the list of :meth:`deleted`."""
        with self.transaction() as db:
            db.execute("DELETE FROM deleted WHERE key = ?", (key,))

    def touch(self, key: str) -> bool:
        """Mark the graph as used now; False when that could not be written at once."""
        return self._file.note("UPDATE graphs SET used = ? WHERE key = ?", (time.time(), key))

    def total_bytes(self, imported: bool) -> int:
        """Return the size of all imported graphs, or of all graphs traced here."""
        query = "SELECT coalesce(sum(bytes), 0) FROM graphs WHERE imported = ?"
        ((total,),) = self._file.read(query, (imported,))
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
            self._stamp(db, "annotations", key)
        self._file.checkpoint()

    def is_annotated(self, key: str) -> bool:
        """Whether a graph has a title, notes, pins or supernodes."""
        return bool(self._file.read("SELECT 1 FROM annotations WHERE key = ?", (key,)))

    def annotations(self, key: str) -> str:
        """Return the annotations as :meth:`annotate` received them; empty if there are none."""
        rows = self._file.read("SELECT marks FROM annotations WHERE key = ?", (key,))
        return str(rows[0][0]) if rows else ""

    def texts(self, key: str) -> tuple[str, str]:
        """Return a graph's title and notes; empty where there are none."""
        rows = self._file.read("SELECT title, notes FROM annotations WHERE key = ?", (key,))
        return (str(rows[0][0]), str(rows[0][1])) if rows else ("", "")

    def change(self, key: str, merged: Callable[[str], str]) -> str:
        """Replace the annotations by ``merged(stored annotations)``, which is returned.

        No other thread or process can write in between.
        """
        with self.transaction():
            annotations = merged(self.annotations(key))
            self.annotate(key, None, None, annotations)
        self._file.checkpoint()
        return annotations

    def labels(self, dictionary: str) -> tuple[tuple[int, int, str], ...]:
        """Return (layer, feature, label) of every label in ``dictionary``."""
        query = "SELECT layer, feature, label FROM labels WHERE key = ?"
        rows = self._file.read(query, (_dictionary_key(dictionary),))
        return tuple((int(layer), int(feature), str(label)) for layer, feature, label in rows)

    def set_label(self, dictionary: str, layer: int, feature: int, label: str) -> None:
        """Set the label of a feature; an empty one removes it."""
        key = _dictionary_key(dictionary)
        with self.transaction() as db:
            place = (key, layer, feature)
            db.execute("DELETE FROM labels WHERE key = ? AND layer = ? AND feature = ?", place)
            if label:
                row = (*place, label, dictionary, time.time())
                db.execute("INSERT INTO labels VALUES (?, ?, ?, ?, ?, ?)", row)
            self._stamp(db, "labels", key)
        self._file.checkpoint()

    def requests_of(self, key: str) -> tuple[str, ...]:
        """Return the digests of the requests that a graph answers."""
        rows = self._file.read("SELECT digest FROM requests WHERE key = ?", (key,))
        return tuple(str(digest) for (digest,) in rows)

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
            self._stamp(db, "runs", key)
        self._file.checkpoint()

    def runs(self, key: str) -> tuple[tuple[str, str, float], ...]:
        """Return (scenarios, summary, time) of every run, the latest first."""
        query = "SELECT scenarios, said, ran FROM runs WHERE key = ? ORDER BY ran DESC, rowid DESC"
        return tuple((text, said, ran) for text, said, ran in self._file.read(query, (key,)))

    def note_damage(self, file: str, key: str, reason: str) -> None:
        """List a file that was set aside."""
        with self.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO damaged VALUES (?, ?, ?, ?)",
                (file, key, reason, time.time()),
            )

    def damaged(self) -> tuple[DamagedFile, ...]:
        """Return every file that was set aside, the latest first."""
        query = "SELECT file, key, reason, found FROM damaged ORDER BY found DESC, rowid DESC"
        return tuple(DamagedFile(*row) for row in self._file.read(query))


def _dictionary_key(dictionary: str) -> str:
    """Return the key of a dictionary's labels, which names a file as well."""
    return sha256(dictionary.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _lines(text: str) -> tuple[str, ...]:
    return tuple(text.split("\n")) if text else ()
