"""The file side of the store: content-addressed graphs, verified on read, bounded in size.

    <root>/catalogue.sqlite                   titles, checksums, times (see `catalogue.py`)
    <root>/graphs/<key[:2]>/<key>.safetensors
    <root>/originals/<key>.json.gz            published graphs as they came, for those imported
    <root>/damaged/                           files that failed their check, kept for a look

A key names its content, so a file is never rewritten while its entry is good. Files move only
inside a catalogue transaction; that makes the store safe under several threads and processes.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import re
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from uuid import uuid4

from cache.annotations import Annotations, StoredRun, scenarios_from_json, scenarios_to_json
from cache.catalogue import Catalogue, DamagedFile, StoredGraph, StoreError
from cache.files import StoreUse, sha256_of, write_synced
from tracer.errors import GraphFileError
from tracer.files import atomic_write, format_bytes
from tracer.graph.graph import AttributionGraph, load_graph
from tracer.interventions.scenario import Scenario

logger = logging.getLogger(__name__)

DEFAULT_QUOTA: Final = 2 * 10**9
_KEY: Final = re.compile(r"[0-9a-f]{32}")
_PARTIAL_SECONDS: Final = 3600.0
"""A partial file older than this belongs to a process that died while writing it."""
_TOUCH_SECONDS: Final = 60.0
"""How coarse "last used" is: finer would cost a database write on every hit."""
_DAMAGED_KEPT: Final = 20
_PACKED: Final = 6
"""How hard an original is packed: 9 takes more than twice as long, for 2 % less."""


class Store:
    """Attribution graphs on disk. Safe to share between threads, and between processes."""

    def __init__(self, root: Path, quota_bytes: int = DEFAULT_QUOTA) -> None:
        """Open the store in ``root``, creating it if need be.

        Beyond ``quota_bytes`` of graphs that were traced here, those used longest ago are deleted,
        except annotated ones. Imported graphs are never deleted; they may take as much again, and
        what is more is not taken in.

        Raises :class:`StoreError` when the folder cannot be written.
        """
        self.root = root
        self.quota_bytes = quota_bytes
        self._touched: dict[str, float] = {}
        self._touch_lock = threading.Lock()
        try:
            for folder in (self._graphs, self._damaged, self._originals):
                folder.mkdir(parents=True, exist_ok=True)
            self._catalogue = self._open_catalogue()
            self._adopt_orphans()
        except (OSError, sqlite3.Error) as error:
            raise StoreError(
                f"the store in {root} cannot be opened ({error}): make the folder writable, or set "
                "CIRCUIT_STORE to one that is"
            ) from error

    @property
    def _graphs(self) -> Path:
        return self.root / "graphs"

    @property
    def _damaged(self) -> Path:
        return self.root / "damaged"

    @property
    def _originals(self) -> Path:
        return self.root / "originals"

    def close(self) -> None:
        """Release the catalogue; the store is not usable afterwards."""
        self._catalogue.close()

    # Graphs

    def key_of(self, digest: str) -> str | None:
        """The key of the graph that answers the request ``digest``, if one ever did."""
        return self._catalogue.key_of(digest)

    def link(self, digest: str, key: str) -> None:
        """Remember that the request ``digest`` is answered by the graph ``key``."""
        self._catalogue.link(digest, key)

    def load(self, key: str) -> AttributionGraph | None:
        """The graph under ``key``, or None when there is none whose checksum holds.

        A damaged file is set aside, logged, and listed by :meth:`damaged`.
        """
        entry = self._catalogue.find(key)
        if entry is None:
            return None
        graph: AttributionGraph | None
        try:
            graph = self._read(entry)
        except GraphFileError:
            graph = self._read_alone(key)
        if graph is not None:
            self.touch(key)
        return graph

    def save(self, key: str, graph: AttributionGraph) -> None:
        """Keep ``graph`` under ``key``; the file appears whole or not at all."""
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key!r} is no key: expected 32 hexadecimal digits")
        content = graph.to_bytes()
        if len(content) > self.quota_bytes:
            logger.warning(
                "graph %s has %d bytes, the store may hold %d: not kept",
                key, len(content), self.quota_bytes,
            )  # fmt: skip
            return
        self._put(key, graph, content)

    def _put(self, key: str, graph: AttributionGraph, content: bytes) -> None:
        path = self._path(key)
        path.parent.mkdir(exist_ok=True)
        partial = path.with_name(f".{key}.{uuid4().hex}.part")
        try:
            write_synced(partial, content)
            with self._catalogue.transaction():
                if self._catalogue.find(key) is None or not path.exists():
                    partial.replace(path)
                    digest = hashlib.sha256(content).hexdigest()
                    self._enter(key, digest, len(content), graph)
                self._evict()
        finally:
            partial.unlink(missing_ok=True)

    def add_import(
        self,
        key: str,
        graph: AttributionGraph,
        original: bytes | None,
        title: str,
        marks: Annotations,
    ) -> None:
        """Keep a graph of another tool, with the published JSON it came as, and never evict it.

        What a person had already changed of it, its title or its pins, stays as it is.

        Raises :class:`StoreError` when imported graphs would take more than the quota with it;
        nothing is kept then.
        """
        content = graph.to_bytes()
        packed = None if original is None else gzip.compress(original, _PACKED, mtime=0)
        is_new = self._catalogue.find(key) is None
        if is_new:
            self._check_room(title, len(content) + len(packed or b""))
        annotated = self._catalogue.is_annotated(key)
        path = self._original_path(key)
        try:
            if packed is not None:
                atomic_write(path, packed)
            if not annotated:
                self._catalogue.annotate(key, title, None, marks.to_json())
            self._put(key, graph, content)
        except BaseException:
            if is_new:
                path.unlink(missing_ok=True)
                if not annotated:
                    self._catalogue.annotate(key, "", "", "")
            raise

    def _check_room(self, title: str, size: int) -> None:
        """Refuse a graph with which imported ones would take more than they may."""
        taken = self.use.imported
        if taken + size > self.quota_bytes:
            raise StoreError(
                f"{title!r} needs {format_bytes(size)}, and imported graphs already take "
                f"{format_bytes(taken)} of {format_bytes(self.quota_bytes)}: delete some in the "
                "Library, or set CIRCUIT_STORE_GB to more"
            )

    def original(self, key: str) -> bytes | None:
        """The published JSON that an imported graph came as, if it came as one.

        Raises :class:`StoreError` when it is damaged.
        """
        path = self._original_path(key)
        try:
            return gzip.decompress(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, EOFError, zlib.error) as error:
            raise StoreError(
                f"{path} is damaged ({error}): import the graph's file again"
            ) from error

    def forget(self, key: str) -> None:
        """Delete a graph and all that was kept with it."""
        with self._catalogue.transaction():
            self._path(key).unlink(missing_ok=True)
            self._original_path(key).unlink(missing_ok=True)
            self._catalogue.remove(key)
        self._catalogue.annotate(key, "", "", "")

    def touch(self, key: str) -> None:
        """Count ``key`` as used now (to the minute), so that it is evicted later."""
        now = time.monotonic()
        with self._touch_lock:
            if now - self._touched.get(key, -_TOUCH_SECONDS) < _TOUCH_SECONDS:
                return
            if len(self._touched) > 10_000:
                self._touched.clear()
            self._touched[key] = now
        self._catalogue.touch(key)

    # The library

    def annotate(self, key: str, *, title: str | None = None, notes: str | None = None) -> None:
        """Set the title or the notes of a graph; annotated graphs are never evicted.

        None leaves a text as it is; with both texts empty the graph counts as not annotated.
        """
        self._catalogue.annotate(key, title, notes)

    def annotations(self, key: str) -> Annotations:
        """Pins and supernodes of a graph; raises ``ValueError`` when they are damaged."""
        return Annotations.from_json(self._catalogue.annotations(key))

    def save_annotations(self, key: str, marks: Annotations) -> None:
        """Keep pins and supernodes with a graph; a graph that has some is never evicted."""
        self._catalogue.annotate(key, None, None, marks.to_json())

    def remember_run(self, key: str, scenarios: tuple[Scenario, ...], said: str) -> None:
        """Keep what was tried on a graph; at most the latest 50 runs of it."""
        self._catalogue.add_run(key, scenarios_to_json(scenarios), said)

    def runs(self, key: str) -> tuple[StoredRun, ...]:
        """What was tried on a graph, the latest first; raises ``ValueError`` when damaged."""
        return tuple(
            StoredRun(scenarios_from_json(scenarios), said, ran)
            for scenarios, said, ran in self._catalogue.runs(key)
        )

    def entries(self) -> tuple[StoredGraph, ...]:
        """Every graph that is kept, the most recently used first."""
        return self._catalogue.entries()

    def damaged(self) -> tuple[DamagedFile, ...]:
        """Every file that was set aside, with the reason, the latest first."""
        return self._catalogue.damaged()

    @property
    def use(self) -> StoreUse:
        """What the kept graphs take."""
        originals = sum(file.stat().st_size for file in self._originals.glob("*.json.gz"))
        return StoreUse(
            traced=self._catalogue.total_bytes(imported=False),
            imported=self._catalogue.total_bytes(imported=True) + originals,
            quota=self.quota_bytes,
        )

    # Reading

    def _path(self, key: str) -> Path:
        return self._graphs / key[:2] / f"{key}.safetensors"

    def _original_path(self, key: str) -> Path:
        return self._originals / f"{key}.json.gz"

    def _enter(self, key: str, sha256: str, size: int, graph: AttributionGraph) -> None:
        made = graph.provenance
        model = str(made.get("model") or made.get("scan") or "")
        self._catalogue.add(key, sha256, size, graph.prompt, model, bool(_imported(graph)))

    def _read(self, entry: StoredGraph) -> AttributionGraph:
        """The graph of an entry; raises :class:`GraphFileError` when its file is not whole."""
        path = self._path(entry.key)
        try:
            found = sha256_of(path)
        except OSError as error:
            raise GraphFileError(f"{path} cannot be read: {error.strerror}") from error
        if found != entry.sha256:
            raise GraphFileError(f"{path} has SHA-256 {found[:12]}…, expected {entry.sha256[:12]}…")
        return load_graph(path)

    def _read_alone(self, key: str) -> AttributionGraph | None:
        """Read again while nobody else writes: was it a race, or is the file damaged?"""
        with self._catalogue.transaction():
            entry = self._catalogue.find(key)
            if entry is None:
                return None
            try:
                return self._read(entry)
            except GraphFileError as error:
                self._set_aside(self._path(key), key, str(error))
                return None

    def _set_aside(self, path: Path, key: str, reason: str) -> None:
        """Move a file out of the way and say so; call it inside a transaction."""
        target = self._damaged / f"{key}.{uuid4().hex[:8]}.safetensors"
        if path.exists():
            path.replace(target)
        self._catalogue.remove(key)
        self._catalogue.note_damage(target.name, key, reason)
        logger.warning("graph %s is damaged (%s): set aside as %s", key, reason, target)
        kept = sorted(self._damaged.iterdir(), key=lambda file: file.stat().st_mtime)
        for old in kept[:-_DAMAGED_KEPT]:
            old.unlink(missing_ok=True)

    # Keeping house

    def _evict(self) -> None:
        """Delete what was used longest ago until the quota holds; call it inside a transaction."""
        excess = self._catalogue.total_bytes(imported=False) - self.quota_bytes
        if excess <= 0:
            return
        for entry in self._catalogue.evictable():
            self._path(entry.key).unlink(missing_ok=True)
            self._catalogue.remove(entry.key)
            excess -= entry.bytes
            if excess <= 0:
                return
        logger.warning(
            "the store in %s is %d bytes over its quota, all of it annotated", self.root, excess
        )

    def _open_catalogue(self) -> Catalogue:
        path = self.root / "catalogue.sqlite"
        try:
            return Catalogue(path)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) or not path.exists():
                raise  # locked, or not ours to write: nothing is wrong with the content
            stamp = uuid4().hex[:8]
            for part in self.root.glob("catalogue.sqlite*"):
                part.replace(self._damaged / f"{part.name}.{stamp}")
            logger.warning("%s is damaged (%s): set aside, starting a new one", path, error)
            catalogue = Catalogue(path)
            catalogue.note_damage(f"{path.name}.{stamp}", "", str(error))
            return catalogue

    def _adopt_orphans(self) -> None:
        """Enter graphs that the catalogue does not know (it was lost, or a process died)."""
        adopted: list[tuple[str, str]] = []
        with self._catalogue.transaction():
            for path in self._orphans():
                key = path.stem
                try:
                    graph = load_graph(path)
                except GraphFileError as error:
                    self._set_aside(path, key, str(error))
                    continue
                size = path.stat().st_size
                self._enter(key, sha256_of(path), size, graph)
                if _imported(graph) and not self._catalogue.is_annotated(key):
                    adopted.append((key, _imported(graph)))
            self._evict()
        for key, title in adopted:
            self._catalogue.annotate(key, title, None)

    def _orphans(self) -> Iterator[Path]:
        known = {entry.key for entry in self._catalogue.entries()}
        for path in sorted([*self._graphs.glob("*/*"), *self._originals.glob("*.part")]):
            if path.suffix == ".part":
                if time.time() - path.stat().st_mtime > _PARTIAL_SECONDS:
                    path.unlink(missing_ok=True)
            elif _KEY.fullmatch(path.stem) and path.stem not in known:
                yield path


def _imported(graph: AttributionGraph) -> str:
    """What an imported graph was called where it came from; empty for one that was traced here."""
    return str(graph.provenance.get("imported") or "")
