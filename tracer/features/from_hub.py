"""Feature cards from the ``features/`` folder of a hub repository, one feature at a time.

The index is downloaded once; a record is a few kilobytes out of a file of gigabytes.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from tracer import hub
from tracer.errors import (
    FeatureIndexError,
    FeatureLookupError,
    HubError,
    HubFileMissingError,
    SourceUnavailableError,
)
from tracer.features.cards import FeatureCard, FeatureIndex, Label
from tracer.features.disk_cache import CardCache
from tracer.hub.cache import known_commit, snapshot
from tracer.types import FeatureId

_RECENT: Final = 0.2
"""Seconds for which an index that is not on this disk is not looked for again."""
_NO_LABELS: Final[Mapping[FeatureId, Label]] = MappingProxyType({})


class HubFeatures:
    """The ``features/`` folder of a transcoder set on the hub, at one commit."""

    def __init__(self, repo: str, folder: str, commit: str, cache_folder: Path) -> None:
        self._place = hub.Reference(repo, folder, commit)
        self._commit = commit
        self._path = f"{folder}/features" if folder else "features"
        self._cache = CardCache(cache_folder, "hub", repo, commit, folder)
        self._lock = threading.Lock()
        self._fetching = threading.Lock()
        self._index: FeatureIndex | None = None
        self._index_error: FeatureIndexError | None = None

    @property
    def labels(self) -> Mapping[FeatureId, Label]:
        """The labels published with the index, once the index is on this disk."""
        index = self._cached_index()
        return _NO_LABELS if index is None else index.labels

    @property
    def n_layers(self) -> int:
        """Number of layers of the index; 0 until it is on this disk."""
        index = self._cached_index()
        return 0 if index is None else index.n_layers

    def card(self, feature: FeatureId, network: bool = True) -> FeatureCard | None:
        """Return the card of ``feature``, or None; without ``network``, from this disk only.

        Raises :class:`SourceUnavailableError` when the hub cannot be reached and
        :class:`FeatureIndexError` when the published files are damaged.
        """
        index = self._fetched_index() if network else self._cached_index()
        if self._index_error is not None:
            raise FeatureIndexError(str(self._index_error))
        span = index.span(feature) if index is not None else None
        if index is None or span is None:
            return None
        cached = self._cache.read(feature)
        if cached is not None:
            try:
                return index.card_of_record(feature, cached)
            except FeatureIndexError:
                self._cache.forget(feature)
        name, start, stop = span
        path = f"{self._path}/{name}"
        if not network and not (snapshot(self._place.repo, self._commit) / path).is_file():
            return None
        try:
            record = hub.read_range(self._place.repo, path, self._commit, start, stop)
        except HubFileMissingError as error:
            raise FeatureLookupError(
                f"the feature index of {self._place} names a missing file: {error}"
            ) from error
        except HubError as error:
            raise _unavailable(feature, error) from error
        card = index.card_of_record(feature, record)
        self._cache.keep(feature, record)
        return card

    def _cached_index(self) -> FeatureIndex | None:
        with self._lock:
            if self._index is None and self._index_error is None:
                root = snapshot(self._place.repo, self._commit)
                if (root / self._path / "index.json.gz").is_file():
                    try:
                        self._index = FeatureIndex.open(root / self._place.folder)
                    except FeatureIndexError as error:
                        self._index_error = error  # raised by :meth:`card`; labels do without
            return self._index

    def _fetched_index(self) -> FeatureIndex | None:
        with self._fetching:
            known = self._cached_index() is not None or self._index_error is not None
            if not known and not self._cache.is_absent():
                self._fetch_index()
        return self._cached_index()

    def _fetch_index(self) -> None:
        names = [f"{self._path}/{name}.json.gz" for name in ("labels", "index")]
        try:
            try:
                hub.fetch(self._place, names, commit=self._commit)
            except HubFileMissingError:  # only indexes of this project have labels
                hub.fetch(self._place, names[1:], commit=self._commit)
        except HubFileMissingError:
            self._cache.note_absent()
        except HubError as error:
            raise _unavailable(None, error) from error


def _unavailable(feature: FeatureId | None, error: HubError) -> SourceUnavailableError:
    what = "the feature examples" if feature is None else f"the examples of feature {feature}"
    return SourceUnavailableError(f"{what} cannot be fetched: {error}")


class UnpinnedHubFeatures:
    """The ``features/`` folder of a repository at its current commit, looked up when needed."""

    def __init__(self, reference: hub.Reference, cache_folder: Path) -> None:
        self._reference, self._folder = reference, cache_folder
        self._lock = threading.Lock()
        self._pinned: HubFeatures | None = None
        self._looked = -math.inf
        """When this disk was last looked at. Names of a graph are asked for hundreds at a time."""

    @property
    def labels(self) -> Mapping[FeatureId, Label]:
        """The labels published with the index, once the index is on this disk."""
        pinned = self._pin(network=False)
        return _NO_LABELS if pinned is None else pinned.labels

    @property
    def n_layers(self) -> int:
        """Number of layers of the index; 0 until it is on this disk."""
        pinned = self._pin(network=False)
        return 0 if pinned is None else pinned.n_layers

    def card(self, feature: FeatureId, network: bool = True) -> FeatureCard | None:
        """Return the card of ``feature``, or None, as :meth:`HubFeatures.card` does."""
        try:
            pinned = self._pin(network)
        except HubError as error:
            raise _unavailable(None, error) from error
        return None if pinned is None else pinned.card(feature, network)

    def _pin(self, network: bool) -> HubFeatures | None:
        repo, revision = self._reference.repo, self._reference.revision or "main"
        with self._lock:
            recent = time.monotonic() - self._looked < _RECENT
            if self._pinned is None and (network or not recent):
                self._looked = time.monotonic()
                commit = known_commit(repo, revision)
                if network and commit is None:
                    commit = hub.look_up(self._reference).commit
                if commit is not None:
                    place = self._reference.folder
                    self._pinned = HubFeatures(repo, place, commit, self._folder)
            return self._pinned
