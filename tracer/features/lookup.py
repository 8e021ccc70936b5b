"""Look up feature cards in the first source that has them: this disk, the hub, Neuronpedia.

A fetched card is read from disk from then on. While the network is off
(:func:`tracer.hub.network_allowed`), only this disk is used. No torch here.
"""

from __future__ import annotations

import threading
import time
from collections import ChainMap
from collections.abc import Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Final, Protocol, cast

from tracer import hub, paths
from tracer.catalog.published import Published
from tracer.catalog.resolve import ModelSource
from tracer.errors import FeatureIndexError, SourceUnavailableError
from tracer.features.cards import FeatureCard, FeatureIndex, FeatureReader, Label
from tracer.features.from_address import AddressFeatures
from tracer.features.from_hub import HubFeatures, UnpinnedHubFeatures
from tracer.features.from_neuronpedia import Neuronpedia
from tracer.types import FeatureId, Progress

NO_EXAMPLES: Final = "No examples for this feature: build an index with python -m tracer index"
"""Text to show when :meth:`FeatureLookup.card` returns None."""

PAUSE: Final = 30.0
"""Seconds before a source that did not answer is asked again."""
_WORKERS: Final = 4


class Source(Protocol):
    """A source of cards on the network."""

    @property
    def labels(self) -> Mapping[FeatureId, Label]:
        """The labels that are on this disk."""

    @property
    def n_layers(self) -> int:
        """Number of layers; 0 if unknown."""

    def card(self, feature: FeatureId, network: bool = True) -> FeatureCard | None:
        """Return the card of ``feature``, or None; without ``network``, from this disk only."""


def feature_lookup(source: ModelSource) -> FeatureReader:
    """Return the reader for the cards of a set: an index on this disk, and network sources if any.

    The network is not used yet. Raises :class:`FeatureIndexError` when an index on this disk
    cannot be read.

    >>> from tracer.catalog.resolve import resolve
    >>> feature_lookup(resolve("atlas")).name(FeatureId(1, 887))
    'about Texas'
    """
    repository = source.set_repository
    if repository is None and source.neuronpedia is None:
        return FeatureIndex.open(source.transcoder_folder)
    pinned = (repository.repo, repository.folder, repository.revision or "") if repository else None
    return FeatureLookup.open(
        source.index_folder,  # not the snapshot's features/, which is only partly downloaded
        hub=pinned,
        neuronpedia=source.neuronpedia,
        cache_folder=paths.feature_cards(),
    )


def published_lookup(published: Published) -> FeatureReader:
    """Return the reader for a set that is known only by where it is published.

    The sources are the set's repository, then an address of feature files, then Neuronpedia. The
    network is not used yet. Raises :class:`tracer.errors.HubReferenceError` when the repository is
    not a valid reference.
    """
    cache = paths.feature_cards()
    sources: list[Source] = []
    if published.hub is not None:
        sources.append(UnpinnedHubFeatures(hub.Reference.parse(published.hub), cache))
    if published.address is not None:
        sources.append(AddressFeatures(published.address, published.numbering, cache))
    if published.neuronpedia is not None:
        sources.append(Neuronpedia(*published.neuronpedia, cache))
    return FeatureLookup([], sources)


class FeatureLookup(FeatureReader):
    """The feature cards of one transcoder set, from several sources."""

    def __init__(
        self, indexes: Sequence[FeatureIndex], sources: Sequence[Source], n_layers: int = 0
    ) -> None:
        self._indexes = tuple(indexes)
        self._sources = tuple(sources)
        self._readers: tuple[FeatureIndex | Source, ...] = (*indexes, *sources)
        self._n_layers = n_layers
        self._paused: dict[int, tuple[float, str]] = {}
        """Number of a source that did not answer -> (time of the next attempt, message)."""
        self._lock = threading.Lock()

    @classmethod
    def open(
        cls,
        index_folder: Path,
        *,
        hub: tuple[str, str, str] | None,
        neuronpedia: tuple[str, str] | None,
        cache_folder: Path,
        n_layers: int = 0,
    ) -> FeatureLookup:
        """Open the sources of one set; the network is not used yet.

        ``index_folder`` is an index folder, or the folder that contains ``features/``; it need not
        exist. A snapshot of the hub will not do, because only parts of it are downloaded. ``hub``
        is (repository, folder in it, commit), ``neuronpedia`` is (model, source set) there, and
        ``n_layers`` is used when no index has it. Raises :class:`FeatureIndexError` when the index
        on this disk cannot be read.
        """
        sources: list[Source] = []
        if hub is not None:
            sources.append(HubFeatures(*hub, cache_folder))
        if neuronpedia is not None:
            sources.append(Neuronpedia(*neuronpedia, cache_folder))
        return cls([FeatureIndex.open(index_folder)], sources, n_layers)

    @property
    def indexes(self) -> tuple[FeatureIndex, ...]:
        """The indexes on this disk, complete; one that does not exist has no features."""
        return self._indexes

    @property
    def labels(self) -> Mapping[FeatureId, Label]:
        """All labels on this disk; if two sources label a feature, the first one's."""
        labels = [reader.labels for reader in self._readers]
        maps = cast("list[MutableMapping[FeatureId, Label]]", labels)
        return MappingProxyType(ChainMap({}, *maps))

    @property
    def n_layers(self) -> int:
        return max(self._n_layers, *(reader.n_layers for reader in self._readers))

    def card(self, feature: FeatureId) -> FeatureCard | None:
        """Return the card of ``feature`` from the first source that has it, or None.

        A missing label is taken from the next source that has one. Raises
        :class:`FeatureIndexError`, or its subclass :class:`FeatureLookupError`, when one source
        failed and no other has the feature.
        """
        return self._labelled_card(feature, hub.network_allowed())

    def cached_card(self, feature: FeatureId) -> FeatureCard | None:
        """Return the card of ``feature`` if it is on this disk; never use the network.

        Raises :class:`FeatureIndexError` when an index on this disk is damaged.
        """
        return self._labelled_card(feature, network=False)

    def cached_name(self, feature: FeatureId) -> str:
        """Return the feature's name as :meth:`name` does, from this disk only."""
        label = self.labels.get(feature)
        return label.text if label is not None else self._name_by_card(self.cached_card(feature))

    def fetch_many(
        self, features: Sequence[FeatureId], progress: Progress | None = None
    ) -> dict[FeatureId, FeatureCard]:
        """Return the cards of those ``features`` that have one, fetched several at a time.

        ``progress`` counts features; when it raises, no further one is fetched. If some fail, the
        others are fetched (and cached) first; then the first error is raised as by :meth:`card`.
        """
        unique = list(dict.fromkeys(features))
        cards: dict[FeatureId, FeatureCard] = {}
        first_error: FeatureIndexError | None = None
        pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="feature-cards")
        try:
            if progress is not None:
                progress(0, len(unique), "feature examples")
            jobs = {pool.submit(self.card, feature): feature for feature in unique}
            for done, job in enumerate(as_completed(jobs), start=1):
                try:
                    card = job.result()
                except FeatureIndexError as error:
                    first_error = first_error or error
                else:
                    if card is not None:
                        cards[jobs[job]] = card
                if progress is not None:
                    progress(done, len(unique), "feature examples")
        finally:
            pool.shutdown(cancel_futures=True)
        if first_error is not None:
            raise first_error
        return {feature: cards[feature] for feature in unique if feature in cards}

    def _labelled_card(self, feature: FeatureId, network: bool) -> FeatureCard | None:
        card, error = self._first_card(feature, network)
        if card is None and error is not None:
            raise error
        return None if card is None else self._labelled(card, network)

    def _first_card(
        self, feature: FeatureId, network: bool
    ) -> tuple[FeatureCard | None, FeatureIndexError | None]:
        """Return the first source's card, or None and the first error."""
        first_error: FeatureIndexError | None = None
        if min(feature) < 0:
            return None, None
        for index in self._indexes:
            try:
                if (card := index.card(feature)) is not None:
                    return card, None
            except FeatureIndexError as error:
                first_error = first_error or error
        for number, source in enumerate(self._sources):
            paused = self._pause_error(number)
            try:
                card = source.card(feature, network and paused is None)
            except SourceUnavailableError as error:
                self._pause(number, error)
                first_error = first_error or error
                continue
            except FeatureIndexError as error:
                first_error = first_error or error
                continue
            if card is not None:
                return card, None
            if network:
                first_error = first_error or paused
        return None, first_error

    def _labelled(self, card: FeatureCard, network: bool) -> FeatureCard:
        """Return the card with the label of the next source that has one, if it has none itself."""
        for number, source in enumerate(self._sources):
            if card.label is not None:
                break
            try:
                other = source.card(card.feature, network and self._pause_error(number) is None)
            except SourceUnavailableError as error:
                self._pause(number, error)
            except FeatureIndexError:
                continue  # there are examples; only the label is missing
            else:
                label = other.label if other is not None else None
                card = replace(card, label=label)
        return card

    def _pause(self, number: int, error: SourceUnavailableError) -> None:
        with self._lock:
            self._paused[number] = (time.monotonic() + PAUSE, str(error))

    def _pause_error(self, number: int) -> SourceUnavailableError | None:
        """Return the error that paused a source, or None when it may be asked."""
        with self._lock:
            until, message = self._paused.get(number, (0.0, ""))
        return SourceUnavailableError(message) if time.monotonic() < until else None
