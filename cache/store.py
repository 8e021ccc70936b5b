"""`Store`: content-addressed graphs on disk, verified when read and bounded in size.

`Catalogue` lists them (titles, checksums, times), `GraphFolder` holds the files. A key names its
content, so a file is never rewritten while its entry is good. Files move only inside a catalogue
transaction; that makes the store safe under several threads and processes. Files are deleted after
the transaction that takes them off the list. Every public method raises :class:`StoreError` instead
of the errors of the disk and of SQLite.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import threading
import time
from pathlib import Path
from typing import Final

from cache.annotation_files import AnnotationFiles
from cache.annotations import Annotations
from cache.catalogue import Catalogue, DamagedFile, StoredGraph, StoreError, StoreUse
from cache.database import is_damage
from cache.graph_folder import GraphFolder, is_key, packed
from cache.store_repair import StoreRepair, open_catalogue
from cache.stored_annotations import StoredAnnotations, failing_as
from tracer.errors import GraphFileError, one_line
from tracer.files import atomic_write, format_bytes
from tracer.graph.graph import AttributionGraph
from tracer.types import FeatureId

logger = logging.getLogger(__name__)

DEFAULT_QUOTA: Final = 2 * 10**9
_TOUCH_SECONDS: Final = 60.0
"""Precision of "last used": a finer one would cost a database write on every hit."""


class Store(StoredAnnotations):
    """Attribution graphs on disk. Safe to share between threads and between processes."""

    def __init__(self, root: Path, quota_bytes: int = DEFAULT_QUOTA) -> None:
        """Open the store in ``root``, or create it.

        When the graphs traced here take more than ``quota_bytes``, the least recently used ones
        without annotations are deleted. Imported graphs are never deleted; they may take as much
        again, and imports beyond that are refused.

        Raises :class:`StoreError` when the folder cannot be written.
        """
        self.root = root
        self.quota_bytes = quota_bytes
        self.problem = ""
        """Why nothing can be written, as one sentence; empty while all is well."""
        self._folder = GraphFolder(root)
        self._copies = AnnotationFiles(root / "annotations")
        self._touched: dict[str, float] = {}
        self._touch_lock = threading.Lock()
        self._repair_lock = threading.Lock()
        try:
            self._folder.create()
            self._catalogue = open_catalogue(root, self._folder, self._copies)
        except (OSError, sqlite3.Error) as error:
            self._catalogue = self._readable_catalogue(error)
            return
        self._tidy()

    def _readable_catalogue(self, error: Exception) -> Catalogue:
        """Return a catalogue that can only be read, because of ``error``."""
        sentence = f"the store in {self.root} cannot be opened ({one_line(error)})"
        path = self.root / "catalogue.sqlite"
        try:
            if not path.is_file() or path.stat().st_size == 0:
                raise FileNotFoundError(path)
            catalogue = Catalogue(path, read_only=True)
        except (OSError, sqlite3.Error):
            raise StoreError(
                f"{sentence}: make the folder writable, or set CIRCUIT_STORE to one that is"
            ) from error
        self._cannot_write(error)
        return catalogue

    def _cannot_write(self, error: Exception) -> None:
        self.problem = (
            f"the store in {self.root} cannot be written ({one_line(error).rstrip('.')}): what is "
            "stored can be read, nothing new is kept; make room or make the folder writable, and "
            "restart"
        )
        logger.warning("%s", self.problem)

    def _tidy(self) -> None:
        """Verify the catalogue and list graphs that it lacks; a disk that refuses is reported."""
        try:
            self._repair.verify_catalogue()
            self._delete_files()
            self._repair.adopt_orphans()
            self._evict()
        except (OSError, sqlite3.Error) as error:
            self._cannot_write(error)

    @property
    def _repair(self) -> StoreRepair:
        return StoreRepair(self.root, self._folder, self._catalogue, self._copies)

    def is_repaired(self, error: sqlite3.Error) -> bool:
        """Open the catalogue again, which repairs it, if ``error`` means that it is damaged."""
        if not is_damage(error, self.root / "catalogue.sqlite") or self.problem:
            return False
        with self._repair_lock:
            logger.error("the catalogue is damaged (%s): repairing it", error)
            self._catalogue.close()
            self._catalogue = open_catalogue(self.root, self._folder, self._copies)
            self._tidy()
        return True

    @failing_as("the store could not be closed")
    def close(self) -> None:
        """Release the catalogue; the store is not usable afterwards."""
        self._catalogue.close()

    # Graphs

    @failing_as("a graph could not be looked up")
    def key_of(self, digest: str) -> str | None:
        """Return the key of the graph that answers the request ``digest``, if there is one."""
        return self._catalogue.key_of(digest)

    @failing_as("a request could not be saved")
    def link(self, digest: str, key: str) -> None:
        """Remember that the graph ``key`` answers the request ``digest``."""
        self._catalogue.link(digest, key)

    @failing_as("a graph could not be read")
    def load(self, key: str, touch: bool = True) -> AttributionGraph | None:
        """Return the graph under ``key``, or None if there is none with a valid checksum.

        Without ``touch`` it does not count as used. A damaged file is set aside, logged, and listed
        by :meth:`damaged`.
        """
        entry = self._catalogue.find(key)
        if entry is None:
            return None
        graph: AttributionGraph | None
        try:
            graph = self._folder.read(key, entry.sha256)
        except GraphFileError as error:
            graph = self._read_alone(key, error)
        if graph is not None and touch:
            self.touch(key)
        return graph

    @failing_as("a graph could not be saved")
    def save(self, key: str, graph: AttributionGraph) -> None:
        """Keep ``graph`` under ``key``; the file appears complete or not at all."""
        if not is_key(key):
            raise ValueError(f"{key!r} is not a key: expected 32 hexadecimal digits")
        content = graph.to_bytes()
        if len(content) > self.quota_bytes:
            logger.warning(
                "graph %s takes %s, more than the store's quota of %s: not kept",
                key, format_bytes(len(content)), format_bytes(self.quota_bytes),
            )  # fmt: skip
            return
        self._put(key, graph, content)

    def _put(self, key: str, graph: AttributionGraph, content: bytes) -> None:
        # Written before the transaction: a large graph must not hold up every reader.
        partial = self._folder.write_partial(key, content)
        try:
            with self._catalogue.transaction():
                path = self._folder.path(key)
                if self._catalogue.find(key) is None or not path.exists():
                    partial.replace(path)
                    digest = hashlib.sha256(content).hexdigest()
                    self._repair.enter(key, digest, len(content), graph)
            self._evict()
        finally:
            partial.unlink(missing_ok=True)

    @failing_as("the graph could not be kept")
    def add_import(
        self,
        key: str,
        graph: AttributionGraph,
        original: bytes | None,
        title: str,
        annotations: Annotations,
    ) -> None:
        """Keep a graph of another tool, with the published JSON it came as, and never evict it.

        A title or pins that a visitor already changed stay as they are.

        Raises :class:`StoreError` when imported graphs would take more than the quota with it;
        nothing is kept then.
        """
        content = graph.to_bytes()
        file = None if original is None else packed(original)
        is_new = self._catalogue.find(key) is None
        if is_new:
            self._check_room(title, len(content) + len(file or b""))
        annotated = self._catalogue.is_annotated(key)
        path = self._folder.original_path(key)
        try:
            if file is not None:
                atomic_write(path, file)
            if not annotated:
                self._catalogue.annotate(key, title, None, annotations.to_json())
            self._put(key, graph, content)
        except BaseException:
            if is_new:
                path.unlink(missing_ok=True)
                if not annotated:
                    self._catalogue.annotate(key, "", "", "")
            raise

    def _check_room(self, title: str, size: int) -> None:
        taken = self.use.imported
        if taken + size > self.quota_bytes:
            raise StoreError(
                f"{title!r} needs {format_bytes(size)}, and imported graphs already take "
                f"{format_bytes(taken)} of {format_bytes(self.quota_bytes)}: delete some in the "
                "Library, or raise CIRCUIT_STORE_GB"
            )

    @failing_as("the original file could not be read")
    def original(self, key: str) -> bytes | None:
        """Return the published JSON that an imported graph came as, if it came as JSON.

        Raises :class:`StoreError` when it is damaged.
        """
        return self._folder.read_original(key)

    @failing_as("the graph could not be deleted")
    def forget(self, key: str) -> None:
        """Delete a graph, its original file and its annotations."""
        with self._catalogue.transaction():
            self._catalogue.note_deleted(key)
            self._catalogue.remove(key)
            self._catalogue.annotate(key, "", "", "", "")
        self._delete_files()

    def touch(self, key: str) -> None:
        """Mark ``key`` as used now, to the minute, so that it is evicted later.

        Does nothing while another process writes, or where nothing can be written: whoever reads a
        graph does not wait for that, and never fails because of it.
        """
        now = time.monotonic()
        with self._touch_lock:
            if now - self._touched.get(key, -_TOUCH_SECONDS) < _TOUCH_SECONDS:
                return
            if len(self._touched) > 10_000:
                self._touched.clear()
            self._touched[key] = now
        if self._catalogue.is_writable:
            self._catalogue.touch(key)

    # Labels of features, shared by all graphs

    @failing_as("the labels could not be read")
    def labels(self, dictionary: str) -> dict[FeatureId, str]:
        """Return the labels that people gave to features of a dictionary."""
        rows = self._catalogue.labels(dictionary)
        return {FeatureId(layer, feature): label for layer, feature, label in rows}

    @failing_as("the label could not be saved")
    def set_label(self, dictionary: str, feature: FeatureId, label: str) -> None:
        """Set the label of a feature; an empty one removes it."""
        self._catalogue.set_label(dictionary, feature.layer, feature.index, label)

    @failing_as("a graph could not be looked up")
    def requests_of(self, key: str) -> tuple[str, ...]:
        """Return the digests of the requests that a graph answers."""
        return self._catalogue.requests_of(key)

    # What is stored

    @failing_as("the stored graphs could not be listed")
    def entries(self) -> tuple[StoredGraph, ...]:
        """Return every stored graph, the most recently used first."""
        return self._catalogue.entries()

    @failing_as("the damaged files could not be listed")
    def damaged(self) -> tuple[DamagedFile, ...]:
        """Return every file that was set aside, the latest first."""
        return self._catalogue.damaged()

    @property
    def use(self) -> StoreUse:
        """The disk space that the stored graphs take."""
        return self._measured_use()

    @failing_as("the store could not be measured")
    def _measured_use(self) -> StoreUse:
        return StoreUse(
            traced=self._catalogue.total_bytes(imported=False),
            imported=self._catalogue.total_bytes(imported=True) + self._folder.original_bytes(),
            quota=self.quota_bytes,
        )

    @failing_as("the store could not be checked")
    def verify(self) -> list[str]:
        """Read everything and return what is wrong, one sentence each; changes nothing."""
        return self._repair.problems()

    # Reading

    def _read_alone(self, key: str, error: GraphFileError) -> AttributionGraph | None:
        """Read again while no process writes: was it a race, or is the file damaged?"""
        if not self._catalogue.is_writable:
            logger.warning("%s", error)
            return None
        try:
            return self._repair.read_or_set_aside(key)
        except sqlite3.OperationalError as failure:  # the disk is full, or the file locked
            logger.warning("%s; it could not be set aside (%s)", error, failure)
            return None

    # Housekeeping

    def _evict(self) -> None:
        """Delete the least recently used graphs beyond the quota."""
        if self._catalogue.total_bytes(imported=False) <= self.quota_bytes:
            return
        with self._catalogue.transaction():
            excess = self._catalogue.total_bytes(imported=False) - self.quota_bytes
            for entry in self._catalogue.evictable():
                if excess <= 0:
                    break
                self._catalogue.note_deleted(entry.key)
                self._catalogue.remove(entry.key)
                excess -= entry.bytes
        self._delete_files()
        if excess > 0:
            logger.warning(
                "annotated graphs alone exceed the quota of the store in %s by %s",
                self.root, format_bytes(excess),
            )  # fmt: skip

    def _delete_files(self) -> None:
        """Delete the files of graphs that are off the list, unless they were stored again."""
        if not self._catalogue.deleted():
            return
        with self._catalogue.transaction():
            for key in self._catalogue.deleted():
                if self._catalogue.find(key) is None and is_key(key):
                    self._folder.delete(key)
                self._catalogue.files_deleted(key)
