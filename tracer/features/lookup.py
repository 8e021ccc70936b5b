"""What features fire on, from wherever it is known: this disk, the hub, Neuronpedia, in this order.

What was fetched once is read from disk from then on. With the network switched off
(:func:`tracer.hub.network_allowed`) only this disk is asked. No torch here.
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
from tracer.catalog.resolve import ModelSource
from tracer.errors import FeatureIndexError, SourceUnavailableError
from tracer.features.cards import FeatureCard, FeatureIndex, FeatureReader, Label
from tracer.features.from_hub import HubFeatures
from tracer.features.from_neuronpedia import Neuronpedia
from tracer.types import FeatureId, Progress

NO_EXAMPLES: Final = "No examples for this feature: build an index with python -m tracer index"
"""What to say where :meth:`FeatureLookup.card` returns None."""

PAUSE: Final = 30.0
"""Seconds for which a source that did not answer is not asked again."""
_WORKERS: Final = 4


class Source(Protocol):
    """A place further away than an index on this disk."""

    @property
    def labels(self) -> Mapping[FeatureId, Label]:
        """The labels that are here already."""

    @property
    def n_layers(self) -> int:
        """How many layers it knows of; 0 when it cannot tell."""

    def card(self, feature: FeatureId, network: bool = True) -> FeatureCard | None:
        """What it says of ``feature``; without ``network``, as far as it is here."""


def feature_lookup(source: ModelSource) -> FeatureReader:
    """What the features of a set fire on: an index on this disk, or places further away too.

    Nothing is asked of the network yet. Raises :class:`FeatureIndexError` when an index on this
    disk cannot be read.
    """
    place = source.set_repository
    if place is None and source.neuronpedia is None:
        return FeatureIndex.open(source.transcoder_folder)
    return FeatureLookup.open(
        source.index_folder,  # not the snapshot's features/, of which only parts are fetched
        hub=(place.repo, place.folder, place.revision or "") if place else None,
        neuronpedia=source.neuronpedia,
        cache_folder=paths.feature_cards(),
    )


def neuronpedia_lookup(model: str, source_set: str) -> FeatureReader:
    """The same for a dictionary that only Neuronpedia knows of, as that of an imported graph."""
    cache = paths.feature_cards()
    where = (model, source_set)
    return FeatureLookup.open(cache, hub=None, neuronpedia=where, cache_folder=cache)


class FeatureLookup(FeatureReader):
    """Feature cards of one transcoder set, to be used like a :class:`FeatureIndex`."""

    def __init__(
        self, indexes: Sequence[FeatureIndex], sources: Sequence[Source], n_layers: int = 0
    ) -> None:
        self._indexes = tuple(indexes)
        self._sources = tuple(sources)
        self._places: tuple[FeatureIndex | Source, ...] = (*indexes, *sources)
        self._n_layers = n_layers
        self._silent: dict[int, tuple[float, str]] = {}
        """Sources that did not answer: until when they are left alone, and what is said of it."""
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
        """Name the places to look in; nothing is asked of the network yet.

        ``index_folder`` is a ``features/`` that is whole, there or not, or the folder that holds
        it: not the hub's, of which only the parts that were asked for are here. ``hub`` is
        (repository, folder in it, commit); ``neuronpedia`` is its name of the model and of the
        source set; ``n_layers`` is the set's, where no index can tell. Raises
        :class:`FeatureIndexError` when the index on this disk cannot be read.
        """
        sources: list[Source] = []
        if hub is not None:
            sources.append(HubFeatures(*hub, cache_folder))
        if neuronpedia is not None:
            sources.append(Neuronpedia(*neuronpedia, cache_folder))
        return cls([FeatureIndex.open(index_folder)], sources, n_layers)

    @property
    def labels(self) -> Mapping[FeatureId, Label]:
        """All labels on this disk; where two places name a feature, the first one's."""
        labels = [place.labels for place in self._places]
        maps = cast("list[MutableMapping[FeatureId, Label]]", labels)
        return MappingProxyType(ChainMap({}, *maps))

    @property
    def n_layers(self) -> int:
        return max(self._n_layers, *(place.n_layers for place in self._places))

    def card(self, feature: FeatureId) -> FeatureCard | None:
        """What the first place that knows ``feature`` says of it; None if none does.

        None also when the network is off and nothing is on this disk. Raises
        :class:`FeatureIndexError`, or its subclass :class:`FeatureLookupError` when no
        other place knew the feature and one could not be asked or not be understood.
        """
        network = hub.network_allowed()
        found, trouble = self._look(feature, network)
        if found is None and trouble is not None:
            raise trouble
        return None if found is None else self._labelled(found, network)

    def cached_card(self, feature: FeatureId) -> FeatureCard | None:
        """What this disk knows of ``feature``, without touching the network.

        Raises :class:`FeatureIndexError` when an index on this disk is damaged.
        """
        found, trouble = self._look(feature, False)
        if found is None and trouble is not None:
            raise trouble
        return None if found is None else self._labelled(found, False)

    def cached_name(self, feature: FeatureId) -> str:
        """Like :meth:`name` from what is on this disk; the network is never touched."""
        label = self.labels.get(feature)
        return label.text if label is not None else self._name_by_card(self.cached_card(feature))

    def fetch_many(
        self, features: Sequence[FeatureId], progress: Progress | None = None
    ) -> dict[FeatureId, FeatureCard]:
        """The cards of those ``features`` that are known, a few at a time.

        ``progress`` is called with features; when it raises, no further one is asked for. When
        some could not be fetched the others are fetched (and kept) first, then the first trouble
        is raised as by :meth:`card`.
        """
        wanted = list(dict.fromkeys(features))
        cards: dict[FeatureId, FeatureCard] = {}
        trouble: FeatureIndexError | None = None
        pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="explanations")
        try:
            if progress is not None:
                progress(0, len(wanted), "feature examples")
            jobs = {pool.submit(self.card, feature): feature for feature in wanted}
            for done, job in enumerate(as_completed(jobs), start=1):
                try:
                    card = job.result()
                except FeatureIndexError as error:
                    trouble = trouble or error
                else:
                    if card is not None:
                        cards[jobs[job]] = card
                if progress is not None:
                    progress(done, len(wanted), "feature examples")
        finally:
            pool.shutdown(cancel_futures=True)
        if trouble is not None:
            raise trouble
        return {feature: cards[feature] for feature in wanted if feature in cards}

    def _look(
        self, feature: FeatureId, network: bool
    ) -> tuple[FeatureCard | None, FeatureIndexError | None]:
        trouble: FeatureIndexError | None = None
        if min(feature) < 0:
            return None, None
        for index in self._indexes:
            try:
                if (card := index.card(feature)) is not None:
                    return card, None
            except FeatureIndexError as error:
                trouble = trouble or error
        for number, source in enumerate(self._sources):
            silence = self._silence(number)
            try:
                card = source.card(feature, network and silence is None)
            except SourceUnavailableError as error:
                self._leave_alone(number, error)
                trouble = trouble or error
                continue
            except FeatureIndexError as error:
                trouble = trouble or error
                continue
            if card is not None:
                return card, None
            if network:
                trouble = trouble or silence
        return None, trouble

    def _labelled(self, card: FeatureCard, network: bool) -> FeatureCard:
        """With the label of a place further away, where the one that has examples has none."""
        for number, source in enumerate(self._sources):
            if card.label is not None:
                break
            try:
                other = source.card(card.feature, network and self._silence(number) is None)
            except SourceUnavailableError as error:
                self._leave_alone(number, error)
            except FeatureIndexError:
                continue  # the examples are here: only the label is missing
            else:
                label = other.label if other is not None else None
                card = replace(card, label=label)
        return card

    def _leave_alone(self, number: int, error: SourceUnavailableError) -> None:
        with self._lock:
            self._silent[number] = (time.monotonic() + PAUSE, str(error))

    def _silence(self, number: int) -> SourceUnavailableError | None:
        """Why a source is left alone for now, or None when it may be asked."""
        with self._lock:
            until, said = self._silent.get(number, (0.0, ""))
        return SourceUnavailableError(said) if time.monotonic() < until else None
