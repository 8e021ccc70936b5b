"""What all visitors share: the backend and pruned graphs. `st.cache_resource` stands only here.

Nothing here is ever changed by a page; `st.cache_data` would copy every graph on every hit.
"""

from __future__ import annotations

from typing import Any, Final
from weakref import WeakKeyDictionary

import pandas  # noqa: F401  # Plotly uses it wherever it is loaded, though the worker be half way
import streamlit as st

from cache import Backend, Dtype, ModelChoice, TraceRequest, open_backend, stored_labels
from tracer.errors import TracerError
from tracer.features import FeatureCard, FeatureReader
from tracer.graph import AttributionGraph
from tracer.pruning import PrunedGraph, prune, whole
from tracer.types import FeatureId, Thresholds

WHOLE: Final = Thresholds(1.0, 1.0)


@st.cache_resource(show_spinner=False)
def backend() -> Backend[Any]:
    """The process's one backend. Raises :class:`cache.StoreError` if its store cannot be opened."""
    return open_backend()


@st.cache_resource(show_spinner=False, max_entries=64)
def pruned_graph(key: str, thresholds: Thresholds) -> PrunedGraph:
    """The graph stored under ``key``, pruned."""
    graph: AttributionGraph | None = backend().graph(key)
    if graph is None:
        raise KeyError(key)
    if is_imported(graph) and thresholds == WHOLE:
        return whole(graph)
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
    return TraceRequest(graph.prompt, choice) if backend().shelf.is_here(choice) else None


def card(choice: ModelChoice, feature: FeatureId) -> FeatureCard | None:
    """What this disk knows of a feature; raises a :class:`TracerError` when that is damaged."""
    return backend().shelf.features(choice).cached_card(feature)


def names(choice: ModelChoice, pruned: PrunedGraph) -> dict[FeatureId, str]:
    """What to call the kept features: their label, else the tokens they fire on most; of an
    imported graph, all that its file names."""
    if is_imported(pruned.graph):
        return stored_labels(pruned.graph)
    found: dict[FeatureId, str] = {}
    for node in pruned.nodes:
        if node.kind == "feature":
            name = feature_name(choice, node.feature)
            if name:
                found[node.feature] = name
    return found


@st.cache_resource(show_spinner=False)
def _names_found() -> WeakKeyDictionary[FeatureReader, dict[FeatureId, str]]:
    """Names by who knew them; what nobody knew may be known later, and is asked for again."""
    return WeakKeyDictionary()


def feature_name(choice: ModelChoice, feature: FeatureId) -> str | None:
    """The name of one feature; None when nothing is known of it, on this disk."""
    try:
        reader = backend().shelf.features(choice)
        found = _names_found().setdefault(reader, {})
        if feature not in found:
            name = reader.cached_name(feature)
            if not name:
                return None
            found[feature] = name
        return found[feature]
    except TracerError:
        return None  # the panel says so, once, for the feature that is opened
