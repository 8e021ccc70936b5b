"""Pruned graphs that the pages ask for do not pile up in the server's memory."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
import streamlit as st

from pages.shared import resources
from tracer.graph.graph import AttributionGraph
from tracer.types import Target, Thresholds


def graph_of(number: int) -> AttributionGraph:
    """Return a graph of one layer, two features and three tokens."""
    return AttributionGraph(
        prompt=f"prompt {number}",
        tokens=("a", "b", "c"),
        token_ids=(1, 2, number),
        n_layers=1,
        features=np.array([[0, 1, 5], [0, 2, 9]], np.int32),
        activations=np.array([0.5, 2.0], np.float32),
        targets=(Target(" x", (7,), 0.9),),
        indptr=np.array([0] * 9 + [7], np.int64),
        sources=np.arange(7, dtype=np.int32),
        weights=np.ones(7, np.float32),
        next_tokens=(),
        n_active_features=2,
    )


def test_pruned_graphs_are_let_go_when_the_memory_for_graphs_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`st.cache_resource` used to keep 64 pruned graphs, and through them their graphs."""
    monkeypatch.setenv("CIRCUIT_STORE", str(tmp_path))
    monkeypatch.setattr("cache.backend.GRAPH_BYTES", 50_000)
    st.cache_resource.clear()
    backend = resources.backend()
    graphs = []
    for number in range(40):
        backend.store.save(f"{number:032x}", graph_of(number))
        pruned = resources.pruned_graph(f"{number:032x}", Thresholds(1.0, 0.9))
        assert pruned is resources.pruned_graph(f"{number:032x}", Thresholds(1.0, 0.9))
        graphs.append(weakref.ref(pruned.graph))
        del pruned
    gc.collect()
    assert 1 <= sum(graph() is not None for graph in graphs) <= 20
    with pytest.raises(KeyError):
        resources.pruned_graph("nowhere", Thresholds())
    backend.close(10)
    st.cache_resource.clear()
