"""The examples published in a hub repository's ``features/``, one feature at a time.

The index is downloaded once; a feature is a few kilobytes out of a file of gigabytes.
"""

from __future__ import annotations

import threading
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
from tracer.hub.cache import snapshot
from tracer.types import FeatureId

_NO_LABELS: Final[Mapping[FeatureId, Label]] = MappingProxyType({})


class HubFeatures:
    """The ``features/`` folder beside a transcoder set on the hub, at one commit."""

    def __init__(self, repo: str, folder: str, commit: str, cache_folder: Path) -> None:
        self._place = hub.Reference(repo, folder, commit)
        self._commit = commit
        self._inside = f"{folder}/features" if folder else "features"
        self._store = CardCache(cache_folder, "hub", repo, commit, folder)
        self._lock = threading.Lock()
        self._fetching = threading.Lock()
        self._index: FeatureIndex | None = None
        self._damage: FeatureIndexError | None = None

    @property
    def labels(self) -> Mapping[FeatureId, Label]:
        """The labels published with the index, once that is here."""
        index = self._index_here()
        return _NO_LABELS if index is None else index.labels

    @property
    def n_layers(self) -> int:
        """The layers of the index, 0 until it is here."""
        index = self._index_here()
        return 0 if index is None else index.n_layers

    def card(self, feature: FeatureId, network: bool = True) -> FeatureCard | None:
        """What the repository says of ``feature``; without ``network``, as far as it is here.

        Raises :class:`SourceUnavailableError` when the hub cannot be asked and
        :class:`FeatureIndexError` when what it has published is damaged.
        """
        index = self._fetched_index() if network else self._index_here()
        if self._damage is not None:
            raise FeatureIndexError(str(self._damage))
        span = index.span(feature) if index is not None else None
        if index is None or span is None:
            return None
        kept = self._store.read(feature)
        if kept is not None:
            try:
                return index.card_of_record(feature, kept)
            except FeatureIndexError:
                self._store.forget(feature)
        name, start, stop = span
        path = f"{self._inside}/{name}"
        if not network and not (snapshot(self._place.repo, self._commit) / path).is_file():
            return None
        try:
            record = hub.read_range(self._place.repo, path, self._commit, start, stop)
        except HubFileMissingError as error:
            raise FeatureLookupError(
                f"the index of {self._place} names a file that is not there: {error}"
            ) from error
        except HubError as error:
            raise _unavailable(feature, error) from error
        card = index.card_of_record(feature, record)
        self._store.keep(feature, record)
        return card

    def _index_here(self) -> FeatureIndex | None:
        with self._lock:
            if self._index is None and self._damage is None:
                root = snapshot(self._place.repo, self._commit)
                if (root / self._inside / "index.json.gz").is_file():
                    try:
                        self._index = FeatureIndex.open(root / self._place.folder)
                    except FeatureIndexError as error:
                        self._damage = error  # for :meth:`card` to raise; labels go on without
            return self._index

    def _fetched_index(self) -> FeatureIndex | None:
        with self._fetching:
            known = self._index_here() is not None or self._damage is not None
            if not known and not self._store.is_absent():
                self._fetch_index()
        return self._index_here()

    def _fetch_index(self) -> None:
        names = [f"{self._inside}/{name}.json.gz" for name in ("labels", "index")]
        try:
            try:
                hub.fetch(self._place, names, commit=self._commit)
            except HubFileMissingError:  # only this project publishes labels
                hub.fetch(self._place, names[1:], commit=self._commit)
        except HubFileMissingError:
            self._store.note_absent()
        except HubError as error:
            raise _unavailable(None, error) from error


def _unavailable(feature: FeatureId | None, error: HubError) -> SourceUnavailableError:
    what = "the feature examples" if feature is None else f"the examples of feature {feature}"
    return SourceUnavailableError(f"{what} cannot be fetched: {error}")
