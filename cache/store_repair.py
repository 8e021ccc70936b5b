"""Find and repair damage in a store: of its catalogue, its graphs, and the originals of imports."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

from cache.annotation_files import AnnotationFiles
from cache.catalogue import SALVAGED, Catalogue, StoreError
from cache.catalogue_checks import WRITTEN_BY_PEOPLE
from cache.database import is_damage
from cache.graph_folder import GraphFolder, sha256_of
from cache.salvage import salvage
from tracer.errors import GraphFileError, TracerError, one_line
from tracer.graph.graph import AttributionGraph, load_graph

logger = logging.getLogger(__name__)


def open_catalogue(root: Path, folder: GraphFolder, copies: AnnotationFiles) -> Catalogue:
    """Open the catalogue of a store.

    A damaged one is set aside, and what can be read of it is copied into a new one. Raises
    ``sqlite3.DatabaseError`` when the disk refuses.
    """
    path = root / "catalogue.sqlite"
    try:
        return Catalogue(path, copies)
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        # SQLite quotes damaged names, which need not be text, in its own messages.
        if isinstance(error, sqlite3.Error) and not is_damage(error, path):
            raise  # locked, or not writable: the content is fine
        reason = one_line(error)
    target = folder.set_aside(path, path.name)
    for part in root.glob("catalogue.sqlite-*"):  # its log must not be replayed
        folder.set_aside(part, part.name)
    catalogue = Catalogue(path, copies)
    with catalogue.transaction() as db:
        copied = salvage(target, SALVAGED, db)
        reason += f"; read from it: {copied['annotations']} titles or annotations, "
        reason += f"{copied['runs']} runs"
        catalogue.note_damage(target.name, "", reason)
    logger.warning("%s is damaged (%s): set aside as %s", path, reason, target.name)
    return catalogue


class StoreRepair:
    """Checks one store. Methods raise ``OSError`` and ``sqlite3.Error``."""

    def __init__(
        self, root: Path, folder: GraphFolder, catalogue: Catalogue, copies: AnnotationFiles
    ) -> None:
        self._root = root
        self._folder = folder
        self._catalogue = catalogue
        self._copies = copies

    def enter(self, key: str, sha256: str, size: int, graph: AttributionGraph) -> None:
        """List a graph whose file exists."""
        provenance = graph.provenance
        model = str(provenance.get("model") or provenance.get("scan") or "")
        self._catalogue.add(key, sha256, size, graph.prompt, model, bool(imported_title(graph)))

    # The catalogue

    def verify_catalogue(self) -> None:
        """Restore what changed on the disk, or was lost, from its copy, and list that as damage."""
        changed = self._catalogue.changed_outside()
        for part, key in changed:
            if part == "graphs":
                self._catalogue.remove(key)  # listed again from its file
            elif part not in WRITTEN_BY_PEOPLE:
                self._catalogue.accept(part, key)
        for key in sorted({key for part, key in changed if part in WRITTEN_BY_PEOPLE}):
            self._restore(key, "its title, notes, pins, runs or labels changed on the disk")
        if changed and self._restore_missing() == 0:
            logger.warning("the catalogue changed on the disk: %s", changed)
        elif not changed:
            self._restore_missing()
        for part, key in self._catalogue.unchecked():
            self._catalogue.accept(part, key)
        copied = set(self._copies.stored_keys())
        for key in self._catalogue.written_by_people() - copied:
            self._copies.write(key, self._catalogue.written(key))

    def _restore_missing(self) -> int:
        missing = set(self._copies.stored_keys()) - self._catalogue.written_by_people()
        for key in sorted(missing):
            self._restore(
                key, "its title, notes, pins, runs or labels were missing in the catalogue"
            )
        return len(missing)

    def _restore(self, key: str, reason: str) -> None:
        content = self._copies.read(key)
        with self._catalogue.transaction():
            if content is None:
                for part in WRITTEN_BY_PEOPLE:
                    self._catalogue.accept(part, key)
                reason += ", and there is no intact copy: check them"
            else:
                self._catalogue.restore(key, content)
                reason += ": restored from the copy"
            self._catalogue.note_damage(f"catalogue.sqlite, {key}", key, reason)
        logger.warning("graph %s: %s", key, reason)

    def adopt_orphans(self) -> None:
        """List graphs that the catalogue lacks: it was lost, or a process died."""
        known = {entry.key for entry in self._catalogue.entries()}
        orphans = list(self._folder.orphans(known))
        if not orphans:
            return
        adopted: list[tuple[str, str]] = []
        with self._catalogue.transaction():
            for path in orphans:
                key = path.stem
                if self._catalogue.find(key) is not None:
                    continue  # another process was faster
                try:
                    graph: AttributionGraph | None = load_graph(path)
                except GraphFileError as error:
                    graph = self._set_aside(key, str(error))
                if graph is None:
                    continue
                self.enter(key, sha256_of(path), path.stat().st_size, graph)
                title = imported_title(graph)
                if title and not self._catalogue.is_annotated(key):
                    adopted.append((key, title))
        for key, title in adopted:
            self._catalogue.annotate(key, title, None)
        logger.info("%d graphs were listed again from their files", len(orphans))

    # Graphs

    def read_or_set_aside(self, key: str) -> AttributionGraph | None:
        """Return a graph, read while no process writes; a damaged file is set aside.

        A damaged import is read again from the file it came as.
        """
        with self._catalogue.transaction():
            entry = self._catalogue.find(key)
            if entry is None:
                return None
            try:
                return self._folder.read(key, entry.sha256)
            except GraphFileError as error:
                graph = self._set_aside(key, str(error))
            if graph is not None:
                path = self._folder.path(key)
                self.enter(key, sha256_of(path), path.stat().st_size, graph)
            return graph

    def _set_aside(self, key: str, reason: str) -> AttributionGraph | None:
        """Move a damaged file away and list it; call this inside a transaction.

        Returns the graph, written again, if it could be read from its original.
        """
        path = self._folder.path(key)
        target = self._folder.set_aside(path, path.name)
        self._catalogue.remove(key)
        graph = self._from_original(key)
        if graph is not None:
            reason += "; read again from the file it was imported from"
            self._folder.write_partial(key, graph.to_bytes()).replace(path)
        self._catalogue.note_damage(target.name, key, reason)
        logger.warning("graph %s is damaged (%s): set aside as %s", key, reason, target)
        return graph

    def _from_original(self, key: str) -> AttributionGraph | None:
        from cache.graph_files import import_key
        from cache.upload import read_upload

        try:
            original = self._folder.read_original(key)
            if original is None or import_key(original) != key:
                return None
            return read_upload(original, "graph.json").graph
        except TracerError as error:
            logger.warning("%s", error)
            return None

    def problems(self) -> list[str]:
        """Read everything and return what is wrong, one sentence each."""
        problems = [
            f"catalogue: the {part} of {key} changed on the disk"
            for part, key in self._catalogue.changed_outside()
        ]
        entries = self._catalogue.entries()
        for entry in entries:
            try:
                self._folder.read(entry.key, entry.sha256)
            except GraphFileError as error:
                problems.append(str(error))
            try:
                original = self._folder.read_original(entry.key)
            except StoreError as error:
                problems.append(str(error))
            else:
                if original is not None and _digest(original) != entry.key:
                    problems.append(f"{self._folder.original_path(entry.key)} has changed")
        known = {entry.key for entry in entries}
        problems += [f"{path} is not in the catalogue" for path in self._folder.graph_files(known)]
        return problems + [
            f"the copy of the annotations of {key} is damaged"
            for key in self._copies.stored_keys()
            if self._copies.read(key) is None
        ]


def _digest(original: bytes) -> str:
    from cache.graph_files import import_key

    return import_key(original)


def imported_title(graph: AttributionGraph) -> str:
    """Return the title that an imported graph came with; empty for a graph traced here."""
    return str(graph.provenance.get("imported") or "")
