"""What all visitors share: the backend and pruned graphs. `st.cache_resource` stands only here.

Nothing here is ever changed by a page; `st.cache_data` would copy every graph on every hit.
"""

from __future__ import annotations

from typing import Any, Final

import streamlit as st

from cache import Backend, ModelChoice, TraceRequest, open_backend, stored_labels
from tracer.errors import FeatureIndexError
from tracer.features import FeatureCard
from tracer.graph import AttributionGraph
from tracer.pruning import PrunedGraph, prune, whole
from tracer.sources import ATLAS, ATLAS_TRANSCODERS
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
    if made.get("model") != ATLAS or made.get("transcoders") not in ATLAS_TRANSCODERS:
        return None
    return TraceRequest(graph.prompt, ModelChoice(ATLAS, str(made["transcoders"])))


@st.cache_resource(show_spinner=False, max_entries=4096)
def card(choice: ModelChoice, feature: FeatureId) -> FeatureCard | None:
    """What the index knows of a feature; raises :class:`FeatureIndexError` when it is damaged."""
    return backend().shelf.features(choice).card(feature)


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


@st.cache_resource(show_spinner=False, max_entries=8192)
def feature_name(choice: ModelChoice, feature: FeatureId) -> str | None:
    """The name of one feature; None when nothing is known of it."""
    try:
        return backend().shelf.features(choice).cached_name(feature) or None
    except FeatureIndexError:
        return None  # the panel says so, once, for the feature that is opened
