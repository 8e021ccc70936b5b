"""What all visitors share: the backend. `st.cache_resource` is used only here.

Pages treat everything returned here as read-only. `st.cache_data` would copy every graph on every
hit.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any, Final
from weakref import WeakKeyDictionary

import pandas  # noqa: F401  # Plotly would otherwise find it half imported by the worker's thread
import streamlit as st

from cache import (
    Backend,
    Dtype,
    ModelChoice,
    Published,
    StoreError,
    TraceRequest,
    open_backend,
    stored_labels,
)
from cache.engine import collect_once
from cache.logs import log_text
from pages.shared.session import departed_visitors
from tracer.errors import TracerError
from tracer.features.cards import FeatureCard, FeatureReader
from tracer.features.names import FeatureName
from tracer.features.names import feature_name as named
from tracer.graph.graph import AttributionGraph
from tracer.graph.pruning import PrunedGraph
from tracer.interchange.nodes import explained_by
from tracer.types import FeatureId, Thresholds

logger = logging.getLogger(__name__)

FeatureSource = ModelChoice | Published
"""Where examples and labels of features come from: a model's transcoders, or Neuronpedia."""

WHOLE: Final = Thresholds(1.0, 1.0)


@st.cache_resource(show_spinner=False)
def backend() -> Backend[Any]:
    """Return the backend of this process. Raises :class:`cache.StoreError` if its store cannot be
    opened."""
    opened = open_backend()
    log_text()
    opened.watch_visitors(departed_visitors)
    collect_once()
    return opened


def pruned_graph(key: str, thresholds: Thresholds) -> PrunedGraph:
    """Return the graph stored under ``key``, pruned. Raises ``KeyError`` if there is none."""
    pruned = backend().pruned(key, thresholds)
    if pruned is None:
        raise KeyError(key)
    return pruned


def is_imported(graph: AttributionGraph) -> bool:
    """Return whether a graph was imported from a file, without a model to run."""
    return bool(graph.provenance.get("imported"))


def request_for(graph: AttributionGraph) -> TraceRequest | None:
    """Return the request that traces a graph's prompt with its model, with default targets.

    None if the graph was imported, or its model is not on this disk.
    """
    provenance = graph.provenance
    if not {"model", "transcoders"} <= provenance.keys():
        return None
    dtype: Dtype = "bfloat16" if provenance.get("dtype") == "bfloat16" else "float32"
    choice = ModelChoice(str(provenance["model"]), str(provenance["transcoders"]), dtype)
    return TraceRequest(graph.prompt, choice) if backend().library.is_here(choice) else None


def card(source: FeatureSource, feature: FeatureId) -> FeatureCard | None:
    """Return the card of a feature if it is on this disk.

    Raises a :class:`TracerError` when it cannot be read.
    """
    return backend().library.features(source).cached_card(feature)


def feature_source(graph: AttributionGraph, choice: ModelChoice) -> FeatureSource | None:
    """Return where a graph's features can be looked up; None for an imported graph that does not
    name its transcoders."""
    if not is_imported(graph):
        return choice
    return explained_by(graph.provenance)


def names(choice: ModelChoice, pruned: PrunedGraph) -> dict[FeatureId, str]:
    """Return display names of the kept features: their label, or else their top tokens.

    The visitor's own labels come first, then those stored in an imported graph.
    """
    imported = is_imported(pruned.graph)
    names = stored_labels(pruned.graph) if imported else {}
    names |= own_labels(pruned.graph)
    source = feature_source(pruned.graph, choice)
    if source is None:
        return names
    nameless = {n.feature for n in pruned.nodes if n.kind == "feature"} - names.keys()
    return names | _published_names(source, nameless)


def densities(choice: ModelChoice, pruned: PrunedGraph) -> dict[FeatureId, float]:
    """Return the share of tokens that each kept feature is active on, where this disk knows it."""
    source = feature_source(pruned.graph, choice)
    features = {node.feature for node in pruned.nodes if node.kind == "feature"}
    known = {feature: density(source, feature) for feature in features}
    return {feature: share for feature, share in known.items() if share is not None}


def density(source: FeatureSource | None, feature: FeatureId) -> float | None:
    """Return the share of tokens that a feature is active on; None if this disk does not know."""
    if source is None:
        return None
    try:
        known = card(source, feature)
    except TracerError:
        return None  # shown in the panel, in place of the examples
    return known.frequency if known is not None else None


def label_precision(source: FeatureSource | None, feature: FeatureId) -> float | None:
    """Return the share of a feature's activation that its label covers; None if not measured."""
    try:
        label = backend().library.features(source).labels.get(feature) if source else None
    except TracerError:
        return None  # shown in the panel, in place of the examples
    return label.precision if label is not None else None


@st.cache_resource(show_spinner=False)
def _known_names() -> WeakKeyDictionary[FeatureReader, dict[FeatureId, str]]:
    """Names by the reader they came from. Missing ones are not stored: they may be fetched yet."""
    return WeakKeyDictionary()


def own_labels(where: AttributionGraph | FeatureSource) -> Mapping[FeatureId, str]:
    """Return the labels that people gave to the features of a graph or a dictionary."""
    try:
        labels = backend().labels
        return labels.of(labels.dictionary(where))
    except StoreError as error:
        logger.warning("%s", error)  # the names without them are right, too
        return {}


def set_label(where: AttributionGraph | FeatureSource, feature: FeatureId, label: str) -> None:
    """Label a feature in all graphs of its dictionary. Raises :class:`cache.StoreError`."""
    labels = backend().labels
    labels.set(labels.dictionary(where), feature, label)


def full_name(
    source: FeatureSource | None, feature: FeatureId, graph: AttributionGraph | None = None
) -> FeatureName:
    """Return the name of a feature and its source; its number where nothing is known of it."""
    where = graph if graph is not None else source
    own = own_labels(where) if where is not None else {}
    file = stored_labels(graph) if graph is not None and is_imported(graph) else {}
    try:
        reader = backend().library.features(source) if source is not None else None
        return named(feature, reader, own=own, file=file)
    except TracerError:  # shown in place of the examples
        return named(feature, own=own, file=file)


def feature_name(source: FeatureSource, feature: FeatureId) -> str | None:
    """Return the display name of one feature; None if none is on this disk."""
    return own_labels(source).get(feature) or published_name(source, feature)


def published_name(source: FeatureSource, feature: FeatureId) -> str | None:
    """Return the name of one feature without labels of visitors; None if none is on this disk."""
    return _published_names(source, (feature,)).get(feature)


def _published_names(
    source: FeatureSource, features: Collection[FeatureId]
) -> dict[FeatureId, str]:
    """Return the names on this disk, without labels of visitors.

    Finding the reader looks at files, so it is done once for all features.
    """
    try:
        reader = backend().library.features(source)
    except TracerError:
        return {}  # shown in the panel when the feature is opened
    known = _known_names().setdefault(reader, {})
    for feature in features:
        if feature in known:
            continue
        try:
            name = reader.cached_name(feature)
        except TracerError:
            continue  # a damaged record must not lose the other names
        if name:
            known[feature] = name
    return {feature: known[feature] for feature in features if feature in known}
