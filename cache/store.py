"""`Store`: content-addressed graphs on disk, verified when read and bounded in size.

`Catalogue` lists them (titles, checksums, times), `GraphFolder` holds the files. A key names its
content, so a file is never rewritten while its entry is good. Files move only inside a catalogue
transaction; that makes the store safe under several threads and processes. Every public method
raises :class:`StoreError` instead of the errors of the disk and of SQLite.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Concatenate, Final, ParamSpec, TypeVar, Unpack

from cache.annotations import Annotations, StoredRun, scenarios_from_json, scenarios_to_json
from cache.catalogue import Catalogue, DamagedFile, StoredGraph, StoreError, StoreUse, Texts
from cache.graph_folder import GraphFolder, is_key, packed, sha256_of
from tracer.errors import GraphFileError, one_line
from tracer.files import atomic_write, format_bytes
from tracer.graph.graph import AttributionGraph, load_graph
from tracer.interventions.scenario import Scenario
from tracer.types import FeatureId

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

DEFAULT_QUOTA: Final = 2 * 10**9
_TOUCH_SECONDS: Final = 60.0
"""Precision of "last used": a finer one would cost a database write on every hit."""


def _failing_as(
    what: str,
) -> Callable[[Callable[Concatenate[Store, P], R]], Callable[Concatenate[Store, P], R]]:
    """Turn errors of the disk and of SQLite into a :class:`StoreError` that says ``what``."""

    def decorate(method: Callable[Concatenate[Store, P], R]) -> Callable[Concatenate[Store, P], R]:
        @wraps(method)
        def guarded(store: Store, /, *args: P.args, **options: P.kwargs) -> R:
            try:
                return method(store, *args, **options)
            except (OSError, sqlite3.Error, ValueError) as error:
                reason = one_line(error).rstrip(".")
                raise StoreError(f"{what} ({reason}): check the store in {store.root}") from error

        return guarded

    return decorate


class Store:
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
        self._folder = GraphFolder(root)
        self._touched: dict[str, float] = {}
        self._touch_lock = threading.Lock()
        try:
            self._folder.create()
            self._catalogue = self._open_catalogue()
            self._adopt_orphans()
        except (OSError, sqlite3.Error) as error:
            raise StoreError(
                f"the store in {root} cannot be opened ({error}): make the folder writable, or set "
                "CIRCUIT_STORE to one that is"
            ) from error

    @_failing_as("the store could not be closed")
    def close(self) -> None:
        """Release the catalogue; the store is not usable afterwards."""
        self._catalogue.close()

    # Graphs

    @_failing_as("a graph could not be looked up")
    def key_of(self, digest: str) -> str | None:
        """Return the key of the graph that answers the request ``digest``, if there is one."""
        return self._catalogue.key_of(digest)

    @_failing_as("a request could not be saved")
    def link(self, digest: str, key: str) -> None:
        """Remember that the graph ``key`` answers the request ``digest``."""
        self._catalogue.link(digest, key)

    @_failing_as("a graph could not be read")
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
        except GraphFileError:
            graph = self._read_alone(key)
        if graph is not None and touch:
            self.touch(key)
        return graph

    @_failing_as("a graph could not be saved")
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
                    self._enter(key, digest, len(content), graph)
                self._evict()
        finally:
            partial.unlink(missing_ok=True)

    @_failing_as("the graph could not be kept")
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

    @_failing_as("the original file could not be read")
    def original(self, key: str) -> bytes | None:
        """Return the published JSON that an imported graph came as, if it came as JSON.

        Raises :class:`StoreError` when it is damaged.
        """
        return self._folder.read_original(key)

    @_failing_as("the graph could not be deleted")
    def forget(self, key: str) -> None:
        """Delete a graph, its original file and its annotations."""
        with self._catalogue.transaction():
            self._folder.delete(key)
            self._catalogue.remove(key)
        self._catalogue.annotate(key, "", "", "", "")

    @_failing_as("a graph could not be marked as used")
    def touch(self, key: str) -> None:
        """Mark ``key`` as used now, to the minute, so that it is evicted later."""
        now = time.monotonic()
        with self._touch_lock:
            if now - self._touched.get(key, -_TOUCH_SECONDS) < _TOUCH_SECONDS:
                return
            if len(self._touched) > 10_000:
                self._touched.clear()
            self._touched[key] = now
        self._catalogue.touch(key)

    # Annotations: these methods take a graph's own key, or the digest of a request it answers.

    @_failing_as("the title or notes could not be saved")
    def annotate(self, key: str, **texts: Unpack[Texts]) -> None:
        """Set the title, notes or tags of a graph; annotated graphs are never evicted."""
        tags = texts.get("tags")
        joined = None if tags is None else "\n".join(" ".join(tag.split()) for tag in tags)
        own_key = self._catalogue.own_key(key)
        self._catalogue.annotate(own_key, texts.get("title"), texts.get("notes"), tags=joined)

    @_failing_as("the pins could not be read")
    def annotations(self, key: str) -> Annotations:
        """Return the pins and supernodes of a graph."""
        return Annotations.from_json(self._catalogue.annotations(self._catalogue.own_key(key)))

    @_failing_as("the pins could not be saved")
    def save_annotations(self, key: str, annotations: Annotations) -> None:
        """Keep pins and supernodes with a graph; a graph with any is never evicted."""
        own_key = self._catalogue.own_key(key)
        self._catalogue.annotate(own_key, None, None, annotations.to_json())

    @_failing_as("the run could not be saved")
    def remember_run(self, key: str, scenarios: tuple[Scenario, ...], summary: str) -> None:
        """Add a run of scenarios to a graph's history, which keeps the latest 50."""
        own_key = self._catalogue.own_key(key)
        self._catalogue.add_run(own_key, scenarios_to_json(scenarios), summary)

    @_failing_as("the history could not be read")
    def runs(self, key: str) -> tuple[StoredRun, ...]:
        """Return the history of a graph, the latest run first."""
        return tuple(
            StoredRun(scenarios_from_json(scenarios), summary, ran)
            for scenarios, summary, ran in self._catalogue.runs(self._catalogue.own_key(key))
        )

    # Labels of features, shared by all graphs

    @_failing_as("the labels could not be read")
    def labels(self, dictionary: str) -> dict[FeatureId, str]:
        """Return the labels that people gave to features of a dictionary."""
        rows = self._catalogue.labels(dictionary)
        return {FeatureId(layer, feature): label for layer, feature, label in rows}

    @_failing_as("the label could not be saved")
    def set_label(self, dictionary: str, feature: FeatureId, label: str) -> None:
        """Set the label of a feature; an empty one removes it."""
        self._catalogue.set_label(dictionary, feature.layer, feature.index, label)

    @_failing_as("a graph could not be looked up")
    def requests_of(self, key: str) -> tuple[str, ...]:
        """Return the digests of the requests that a graph answers."""
        return self._catalogue.requests_of(key)

    # What is stored

    @_failing_as("the stored graphs could not be listed")
    def entries(self) -> tuple[StoredGraph, ...]:
        """Return every stored graph, the most recently used first."""
        return self._catalogue.entries()

    @_failing_as("the damaged files could not be listed")
    def damaged(self) -> tuple[DamagedFile, ...]:
        """Return every file that was set aside, the latest first."""
        return self._catalogue.damaged()

    @property
    def use(self) -> StoreUse:
        """The disk space that the stored graphs take."""
        return self._measured_use()

    @_failing_as("the store could not be measured")
    def _measured_use(self) -> StoreUse:
        return StoreUse(
            traced=self._catalogue.total_bytes(imported=False),
            imported=self._catalogue.total_bytes(imported=True) + self._folder.original_bytes(),
            quota=self.quota_bytes,
        )

    # Reading

    def _enter(self, key: str, sha256: str, size: int, graph: AttributionGraph) -> None:
        provenance = graph.provenance
        model = str(provenance.get("model") or provenance.get("scan") or "")
        self._catalogue.add(key, sha256, size, graph.prompt, model, bool(_imported_title(graph)))

    def _read_alone(self, key: str) -> AttributionGraph | None:
        """Read again while no process writes: was it a race, or is the file damaged?"""
        with self._catalogue.transaction():
            entry = self._catalogue.find(key)
            if entry is None:
                return None
            try:
                return self._folder.read(key, entry.sha256)
            except GraphFileError as error:
                self._set_aside(self._folder.path(key), key, str(error))
                return None

    def _set_aside(self, path: Path, key: str, reason: str) -> None:
        """Move a damaged file away and list it; call this inside a transaction."""
        target = self._folder.set_aside(path, path.name)
        self._catalogue.remove(key)
        self._catalogue.note_damage(target.name, key, reason)
        logger.warning("graph %s is damaged (%s): set aside as %s", key, reason, target)

    # Housekeeping

    def _evict(self) -> None:
        """Delete the least recently used graphs beyond the quota; call inside a transaction."""
        excess = self._catalogue.total_bytes(imported=False) - self.quota_bytes
        if excess <= 0:
            return
        for entry in self._catalogue.evictable():
            self._folder.path(entry.key).unlink(missing_ok=True)
            self._catalogue.remove(entry.key)
            excess -= entry.bytes
            if excess <= 0:
                return
        logger.warning(
            "annotated graphs alone exceed the quota of the store in %s by %s",
            self.root, format_bytes(excess),
        )  # fmt: skip

    def _open_catalogue(self) -> Catalogue:
        path = self.root / "catalogue.sqlite"
        try:
            return Catalogue(path)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) or not path.exists():
                raise  # locked, or not writable: the content is fine
            target = self._folder.set_aside(path, path.name)
            for part in self.root.glob("catalogue.sqlite-*"):  # its log must not be replayed
                self._folder.set_aside(part, part.name)
            logger.warning("%s is damaged (%s): set aside, starting a new one", path, error)
            catalogue = Catalogue(path)
            catalogue.note_damage(target.name, "", str(error))
            return catalogue

    def _adopt_orphans(self) -> None:
        """List graphs that the catalogue lacks: it was lost, or a process died."""
        adopted: list[tuple[str, str]] = []
        with self._catalogue.transaction():
            known = {entry.key for entry in self._catalogue.entries()}
            for path in self._folder.orphans(known):
                key = path.stem
                try:
                    graph = load_graph(path)
                except GraphFileError as error:
                    self._set_aside(path, key, str(error))
                    continue
                size = path.stat().st_size
                self._enter(key, sha256_of(path), size, graph)
                title = _imported_title(graph)
                if title and not self._catalogue.is_annotated(key):
                    adopted.append((key, title))
            self._evict()
        for key, title in adopted:
            self._catalogue.annotate(key, title, None)


def _imported_title(graph: AttributionGraph) -> str:
    """Return the title that an imported graph came with; empty for a graph traced here."""
    return str(graph.provenance.get("imported") or "")
