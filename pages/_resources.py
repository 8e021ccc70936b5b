"""What all visitors share: the backend and pruned graphs. `st.cache_resource` stands only here.

Nothing here is ever changed by a page; `st.cache_data` would copy every graph on every hit.
"""

from __future__ import annotations

from typing import Any

import streamlit as st

from cache import Backend, ModelChoice, open_backend
from tracer.errors import FeatureIndexError
from tracer.features import FeatureCard
from tracer.graph import AttributionGraph
from tracer.pruning import PrunedGraph, prune
from tracer.types import FeatureId, Thresholds


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
    return prune(graph, thresholds.node, thresholds.edge)


@st.cache_resource(show_spinner=False, max_entries=4096)
def card(choice: ModelChoice, feature: FeatureId) -> FeatureCard | None:
    """What the index knows of a feature; raises :class:`FeatureIndexError` when it is damaged."""
    return backend().features(choice).card(feature)


def names(choice: ModelChoice, pruned: PrunedGraph) -> dict[FeatureId, str]:
    """What to call the kept features: their label, else the tokens they fire on most."""
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
        return backend().features(choice).name(feature) or None
    except FeatureIndexError:
        return None  # the panel says so, once, for the feature that is opened
