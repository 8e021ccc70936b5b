"""The part of `Store` that keeps what people write: titles, notes, pins, supernodes and runs.

A write of pins says what it started from, so two tabs cannot overwrite each other.
"""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from cache.annotations import Annotations, StoredRun, scenarios_from_json, scenarios_to_json
from cache.catalogue import Catalogue, StoreError
from cache.merge import Saved, merged_annotations, merged_text
from tracer.errors import one_line
from tracer.interventions.scenario import Scenario

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound="StoredAnnotations")


def failing_as(
    what: str,
) -> Callable[[Callable[Concatenate[S, P], R]], Callable[Concatenate[S, P], R]]:
    """Turn errors of the disk and of SQLite into a :class:`StoreError` that says ``what``."""

    def decorate(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
        @wraps(method)
        def guarded(store: S, /, *args: P.args, **options: P.kwargs) -> R:
            try:
                try:
                    return method(store, *args, **options)
                except sqlite3.Error as error:
                    if not store.is_repaired(error):
                        raise
                    return method(store, *args, **options)
            except (OSError, sqlite3.Error, ValueError) as error:
                reason = one_line(error).rstrip(".")
                raise StoreError(f"{what} ({reason}): check the store in {store.root}") from error

        return guarded

    return decorate


class StoredAnnotations(ABC):
    """What people write about graphs.

    These methods take a graph's own key, or the digest of a request it answers.
    """

    root: Path
    _catalogue: Catalogue

    @abstractmethod
    def is_repaired(self, error: sqlite3.Error) -> bool:
        """Repair the catalogue if ``error`` means that it is damaged; False if it does not."""

    @failing_as("the title or notes could not be saved")
    def annotate(
        self,
        key: str,
        *,
        title: str | None = None,
        notes: str | None = None,
        tags: tuple[str, ...] | None = None,
        read: tuple[str, str] | None = None,
    ) -> bool:
        """Set the title, notes or tags of a graph; annotated graphs are never evicted.

        None leaves a text unchanged. ``read`` is the title and notes that the change started from:
        what somebody else has written since is kept next to it, and the result is True.
        """
        own_key = self._catalogue.own_key(key)
        joined = None if tags is None else "\n".join(" ".join(tag.split()) for tag in tags)
        if read is None:
            self._catalogue.annotate(own_key, title, notes, tags=joined)
            return False
        with self._catalogue.transaction():
            stored = self._catalogue.texts(own_key)
            new = [
                None if text is None else merged_text(base, text, now)
                for text, base, now in zip((title, notes), read, stored, strict=True)
            ]
            self._catalogue.annotate(
                own_key, new[0] and new[0].replace("\n", " / "), new[1], tags=joined
            )
        self._catalogue.checkpoint()
        return tuple(new) != (title, notes)

    @failing_as("the pins could not be read")
    def annotations(self, key: str) -> Annotations:
        """Return the pins and supernodes of a graph."""
        return Annotations.from_json(self._catalogue.annotations(self._catalogue.own_key(key)))

    @failing_as("the pins could not be saved")
    def save_annotations(
        self, key: str, annotations: Annotations, read: Annotations | None = None
    ) -> Saved:
        """Keep pins and supernodes with a graph; a graph with any is never evicted.

        ``read`` is what the change started from. Where something else is stored by now, both
        changes are merged. Without ``read``, what is stored is replaced.
        """
        merged = False

        def new(text: str) -> str:
            nonlocal annotations, merged
            stored = Annotations.from_json(text)
            if read is not None and stored not in (read, annotations):
                annotations, merged = merged_annotations(read, annotations, stored), True
            return annotations.to_json()

        self._catalogue.change(self._catalogue.own_key(key), new)
        return Saved(annotations, merged)

    @failing_as("the run could not be saved")
    def remember_run(self, key: str, scenarios: tuple[Scenario, ...], summary: str) -> None:
        """Add a run of scenarios to a graph's history, which keeps the latest 50."""
        own_key = self._catalogue.own_key(key)
        self._catalogue.add_run(own_key, scenarios_to_json(scenarios), summary)

    @failing_as("the history could not be read")
    def runs(self, key: str) -> tuple[StoredRun, ...]:
        """Return the history of a graph, the latest run first."""
        return tuple(
            StoredRun(scenarios_from_json(scenarios), summary, ran)
            for scenarios, summary, ran in self._catalogue.runs(self._catalogue.own_key(key))
        )
