"""What all visitors share: the backend and pruned graphs. `st.cache_resource` stands only here.

Nothing here is ever changed by a page; `st.cache_data` would copy every graph on every hit.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final
from weakref import WeakKeyDictionary

import pandas  # noqa: F401  # Plotly uses it wherever it is loaded, though the worker be half way
import streamlit as st

from cache import (
    Backend,
    Device,
    Dtype,
    ModelChoice,
    Published,
    TraceRequest,
    open_backend,
    stored_labels,
)
from tracer.errors import TracerError
from tracer.features.cards import FeatureCard, FeatureReader
from tracer.graph.graph import AttributionGraph
from tracer.graph.pruning import PrunedGraph, prune, without_pruning
from tracer.interchange.nodes import explained_by
from tracer.types import FeatureId, Thresholds

FeatureSource = ModelChoice | Published

WHOLE: Final = Thresholds(1.0, 1.0)


@st.cache_resource(show_spinner=False)
def backend() -> Backend[Any]:
    """The process's one backend. Raises :class:`cache.StoreError` if its store cannot be opened."""
    return open_backend()


@st.cache_resource(show_spinner=False)
def _devices() -> Future[tuple[Device, ...]]:
    """The look at this machine's devices, in a thread: it imports torch, which takes seconds."""
    pool = ThreadPoolExecutor(1, "devices")
    future = pool.submit(backend().devices)
    pool.shutdown(wait=False)
    return future


def devices(timeout: float) -> tuple[Device, ...] | None:
    """Return the devices models can run on; None if they are not known within ``timeout`` seconds.

    Raises the :class:`TracerError` the backend raises.
    """
    try:
        return _devices().result(timeout)
    except TimeoutError:
        return None


@st.cache_resource(show_spinner=False, max_entries=64)
def pruned_graph(key: str, thresholds: Thresholds) -> PrunedGraph:
    """The graph stored under ``key``, pruned."""
    graph: AttributionGraph | None = backend().graph(key)
    if graph is None:
        raise KeyError(key)
    if is_imported(graph) and thresholds == WHOLE:
        return without_pruning(graph)
    return prune(graph, thresholds.node, thresholds.edge)


def is_imported(graph: AttributionGraph) -> bool:
    """Whether a graph came from a file of another tool: there is no model behind it."""
    return bool(graph.provenance.get("imported"))


def request_for(graph: AttributionGraph) -> TraceRequest | None:
    """What would trace a graph again, but for its targets; None where no model is behind it."""
    made = graph.provenance
    if not {"model", "transcoders"} <= made.keys():
        return None
    dtype: Dtype = "bfloat16" if made.get("dtype") == "bfloat16" else "float32"
    choice = ModelChoice(str(made["model"]), str(made["transcoders"]), dtype)
    return TraceRequest(graph.prompt, choice) if backend().library.is_here(choice) else None


def card(choice: FeatureSource, feature: FeatureId) -> FeatureCard | None:
    """What this disk knows of a feature; raises a :class:`TracerError` when that is damaged."""
    return backend().library.features(choice).cached_card(feature)


def feature_source(graph: AttributionGraph, choice: ModelChoice) -> FeatureSource | None:
    """Who knows what the features of a graph are; None of an imported one that does not say."""
    if not is_imported(graph):
        return choice
    found = explained_by(graph.provenance)
    return Published(*found) if found else None


def names(choice: ModelChoice, pruned: PrunedGraph) -> dict[FeatureId, str]:
    """What to call the kept features: their label, else the tokens they fire on most; of an
    imported graph, first of all what its file calls them."""
    imported = is_imported(pruned.graph)
    found = stored_labels(pruned.graph) if imported else {}
    asked = feature_source(pruned.graph, choice)
    for node in pruned.nodes:
        if asked is not None and node.kind == "feature" and node.feature not in found:
            name = feature_name(asked, node.feature)
            if name:
                found[node.feature] = name
    return found


def densities(choice: ModelChoice, pruned: PrunedGraph) -> dict[FeatureId, float]:
    """Return the share of tokens that each kept feature is active on, where this disk knows it."""
    source = feature_source(pruned.graph, choice)
    known: dict[FeatureId, float] = {}
    if source is None:
        return known
    for node in pruned.nodes:
        if node.kind != "feature" or node.feature in known:
            continue
        try:
            found = card(source, node.feature)
        except TracerError:
            continue  # a damaged card hides nothing
        if found is not None and found.frequency is not None:
            known[node.feature] = found.frequency
    return known


def label_precision(asked: FeatureSource | None, feature: FeatureId) -> float | None:
    """The share of a feature's activation that its label describes, where that was measured."""
    try:
        label = backend().library.features(asked).labels.get(feature) if asked else None
    except TracerError:
        return None  # the panel says why, where the examples would be
    return label.precision if label is not None else None


@st.cache_resource(show_spinner=False)
def _names_found() -> WeakKeyDictionary[FeatureReader, dict[FeatureId, str]]:
    """Names by who knew them; what nobody knew may be known later, and is asked for again."""
    return WeakKeyDictionary()


def feature_name(choice: FeatureSource, feature: FeatureId) -> str | None:
    """The name of one feature; None when nothing is known of it, on this disk."""
    try:
        reader = backend().library.features(choice)
        found = _names_found().setdefault(reader, {})
        if feature not in found:
            name = reader.cached_name(feature)
            if not name:
                return None
            found[feature] = name
        return found[feature]
    except TracerError:
        return None  # the panel says so, once, for the feature that is opened
