"""`FeatureLabels`: the labels that people give to features, kept for every prompt and graph.

A label belongs to a dictionary, not to a graph. A dictionary is identified by where its features
are published, so that a graph traced here and one imported from a file share their labels:
Neuronpedia's model and source set, else the reference of the set, else the model that an imported
graph names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cache.model_library import ModelLibrary
from cache.request import ModelChoice
from cache.store import Store
from tracer.catalog.published import Published
from tracer.catalog.resolve import ModelSource
from tracer.errors import ExternalGraphError, TracerError
from tracer.features.cards import FeatureReader
from tracer.features.names import FeatureName, clean_label, feature_name
from tracer.graph.graph import AttributionGraph
from tracer.interchange.nodes import explained_by, stored_labels
from tracer.types import FeatureId


class FeatureLabels:
    """Reads and writes labels, and names features. Any thread may call it."""

    def __init__(self, store: Store, library: ModelLibrary[Any]) -> None:
        self._store = store
        self._library = library

    def of(self, dictionary: str) -> Mapping[FeatureId, str]:
        """Return the labels that people gave to features of ``dictionary``.

        Raises :class:`cache.StoreError` when the catalogue cannot be read.
        """
        return self._store.labels(dictionary)

    def set(self, dictionary: str, feature: FeatureId, label: str) -> None:
        """Label a feature; an empty label removes it.

        Line breaks and control characters are left out, and what exceeds 200 characters. Raises
        :class:`cache.StoreError` when the catalogue cannot be written.
        """
        self._store.set_label(dictionary, feature, clean_label(label))

    def dictionary(self, where: AttributionGraph | ModelChoice | Published) -> str:
        """Return the name under which labels of these features are kept."""
        if isinstance(where, Published):
            return _of_published(where)
        if isinstance(where, ModelChoice):
            try:
                return _of_source(self._library.recent_source(where))
            except TracerError:  # the model is gone, its labels are not
                return f"{where.model}/{where.transcoders}"
        provenance = where.provenance
        if provenance.get("imported"):
            published = explained_by(provenance)
            if published is not None and (published.neuronpedia or published.hub):
                return _of_published(published)
            known = provenance.get("transcoder_set")
            return str(known) if known else f"file:{provenance.get('scan', 'unknown')}"
        return self.dictionary(
            ModelChoice(
                str(provenance.get("model", "unknown")),
                str(provenance.get("transcoders", "unknown")),
            )
        )

    def names(
        self, graph: AttributionGraph, features: Iterable[FeatureId], reader: FeatureReader | None
    ) -> dict[FeatureId, FeatureName]:
        """Return the names of ``features`` in ``graph``; damaged records are named by number.

        Raises :class:`cache.StoreError` when the catalogue cannot be read.
        """
        own = self.of(self.dictionary(graph))
        try:
            file = stored_labels(graph) if graph.provenance.get("imported") else {}
        except ExternalGraphError:
            file = {}
        names: dict[FeatureId, FeatureName] = {}
        for feature in features:
            try:
                names[feature] = feature_name(feature, reader, own=own, file=file)
            except TracerError:
                names[feature] = feature_name(feature, own=own, file=file)
        return names


def _of_published(where: Published) -> str:
    if where.neuronpedia is not None:
        return "/".join(where.neuronpedia)
    return str(where.hub or where.address)


def _of_source(source: ModelSource) -> str:
    if source.neuronpedia is not None:
        return "/".join(source.neuronpedia)
    place = source.set_repository
    if place is not None:
        return f"{place.repo}/{place.folder}" if place.folder else place.repo
    return f"{source.name}/{source.transcoders}"
