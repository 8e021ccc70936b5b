"""Graphs and pruned graphs stay within one limit, however many a visitor looks at."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeEngine, FakeFolders
from small_graphs import make_graph

from cache import Backend
from cache.graph_memory import GraphMemory
from cache.store import Store
from tracer.graph.graph import AttributionGraph
from tracer.graph.pruning import PrunedGraph, without_pruning
from tracer.types import Target, Thresholds

LIMIT = 1_000_000
WHOLE = Thresholds(1.0, 1.0)


def graph_of(number: int, n_features: int = 300, n_edges: int = 3_000) -> AttributionGraph:
    """Return a graph of 6 layers; tokens affect the features, and these the one logit."""
    random = np.random.default_rng(number)
    n_layers, n_pos, n_inputs = 6, 40, n_edges // n_features
    numbers = random.permutation(16_000)[:n_features]
    places = random.integers([0, 1], [n_layers, n_pos], (n_features, 2))
    features = np.array(sorted(zip(*places.T, numbers, strict=True)), np.int32)
    n_nodes = n_features + n_layers * n_pos + n_pos + 1
    first_token, logit = n_nodes - n_pos - 1, n_nodes - 1
    inputs = np.sort(np.argsort(random.random((n_features, n_pos)))[:, :n_inputs])
    rows = [*np.repeat(np.arange(n_features), n_inputs), *[logit] * n_features]
    sources = [*(first_token + inputs).ravel(), *range(n_features)]
    return AttributionGraph(
        prompt=f"prompt {number}",
        tokens=tuple(f"t{place}" for place in range(n_pos)),
        token_ids=(number, *range(n_pos - 1)),
        n_layers=n_layers,
        features=features,
        activations=random.random(n_features).astype(np.float32),
        targets=(Target(" x", (7,), 0.9),),
        indptr=np.searchsorted(rows, np.arange(n_nodes + 1)).astype(np.int64),
        sources=np.array(sources, np.int32),
        weights=random.random(len(rows)).astype(np.float32),
        next_tokens=(),
        n_active_features=n_features,
    )


def use_everything(pruned: PrunedGraph) -> None:
    """Fill every cached property, as the pages do."""
    graph = pruned.graph
    assert len(pruned.nodes) and len(pruned.edges) == 3
    assert graph.index.row(pruned.nodes[0]) >= 0
    assert len(graph.index.layers) == len(graph.index.positions) == graph.n_nodes


def key_of(number: int) -> str:
    return f"{number:032x}"


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    """A backend with 20 stored graphs, which together take several times the limit."""
    monkeypatch.setattr("cache.backend.GRAPH_BYTES", LIMIT)
    folders, store = FakeFolders(), Store(tmp_path / "store")
    for number in range(20):
        store.save(key_of(number), graph_of(number))
    backend = Backend(store, FakeEngine(folders), folders)
    yield backend
    backend.close(10)


def traced_growth(work: Callable[[], None]) -> int:
    """Return the bytes that are still allocated after ``work`` and were not before."""
    gc.collect()
    tracemalloc.start()
    work()
    gc.collect()
    growth = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return growth


def test_what_graphs_compute_lazily_counts_towards_the_limit(backend: Backend) -> None:
    def look_at_all() -> None:
        for number in range(20):
            graph = backend.graph(key_of(number))
            assert graph is not None
            use_everything(without_pruning(graph))

    use_everything(without_pruning(graph_of(99)))  # so that imports are not measured
    assert LIMIT / 3 < traced_growth(look_at_all) < LIMIT


def test_many_graphs_at_many_thresholds_stay_within_the_limit(backend: Backend) -> None:
    graphs: list[weakref.ref[AttributionGraph]] = []
    pruned: list[weakref.ref[PrunedGraph]] = []

    def move_the_sliders() -> None:
        for number in range(20):
            for step in range(3):
                thresholds = Thresholds(0.5 + step / 5, 0.9)
                found = backend.pruned(key_of(number), thresholds)
                assert found is not None and found.thresholds == thresholds
                use_everything(found)
                graphs.append(weakref.ref(found.graph))
                pruned.append(weakref.ref(found))

    use_everything(without_pruning(graph_of(99)))
    assert LIMIT / 3 < traced_growth(move_the_sliders) < LIMIT
    assert backend._graphs.n_bytes < LIMIT
    alive = {id(graph()) for graph in graphs if graph() is not None}
    assert 1 <= len(alive) < 10, "few of the graphs fit"
    for found in filter(None, (reference() for reference in pruned)):
        assert id(found.graph) in alive


def test_a_pruned_graph_is_pruned_once_and_shares_the_graph(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = backend.pruned(key_of(1))
    assert first is not None and first.graph is backend.graph(key_of(1))
    assert first.thresholds == Thresholds()
    monkeypatch.delattr("cache.graph_memory.prune")
    assert backend.pruned(key_of(1)) is first


def test_both_keys_of_a_graph_find_one_pruned_graph(backend: Backend) -> None:
    backend.store.link("question", key_of(1))
    assert backend.pruned("question") is backend.pruned(key_of(1)) is not None


def test_an_unknown_graph_has_no_pruned_form(backend: Backend) -> None:
    assert backend.pruned("nowhere") is None
    assert backend.pruned(key_of(1)) is not None
    backend.forget(key_of(1))
    assert backend.pruned(key_of(1)) is None


def test_an_imported_graph_keeps_its_dead_ends_at_thresholds_of_one() -> None:
    memory = GraphMemory(LIMIT)
    traced = make_graph()
    imported = make_graph()
    imported.provenance["imported"] = "somewhere"
    kept = [memory.pruned("a", graph, WHOLE).node_mask.sum() for graph in (traced, imported)]
    assert kept[1] == without_pruning(imported).node_mask.sum() > kept[0]


def test_pruned_forms_are_evicted_before_their_graph() -> None:
    memory = GraphMemory(LIMIT)
    memory.put("first", graph_of(1))
    graph = memory.get("first")
    assert graph is not None
    pruned = [
        weakref.ref(memory.pruned("first", graph, Thresholds(share, 0.9)))
        for share in (0.5, 0.7, 0.9)
    ]
    reference = weakref.ref(graph)
    del graph
    alive = []
    for number in range(2, 20):
        memory.put(f"{number}", graph_of(number))
        alive.append((reference() is not None, sum(form() is not None for form in pruned)))
    assert alive[0] == (True, 3) and alive[-1] == (False, 0)
    assert alive == sorted(alive, reverse=True), "nothing comes back"
    assert (False, 0) in alive and not any(forms for kept, forms in alive if not kept)


def test_a_graph_in_use_stays() -> None:
    memory = GraphMemory(LIMIT)
    memory.put("used", graph_of(1))
    for number in range(2, 20):
        memory.put(f"{number}", graph_of(number))
        assert memory.get("used") is not None
    assert memory.get("2") is None, "the others make room"


def test_dropping_or_replacing_a_graph_drops_its_pruned_forms() -> None:
    memory = GraphMemory(LIMIT)
    for end in (
        lambda graph: memory.drop("a"),
        lambda graph: memory.put("a", graph_of(2)),
    ):
        graph = graph_of(1)
        memory.put("a", graph)
        memory.put("ab", graph_of(3))
        reference = weakref.ref(memory.pruned("a", graph, Thresholds()))
        memory.put("a", graph)
        assert reference() is not None, "putting the same graph again changes nothing"
        end(graph)
        assert reference() is None
        assert memory.get("ab") is not None


def test_a_pruned_form_of_a_graph_that_is_not_kept_is_not_kept_either() -> None:
    memory = GraphMemory(1_000)
    graph = graph_of(1)
    memory.put("a", graph)
    pruned = memory.pruned("a", graph, Thresholds())
    assert pruned.graph is graph
    assert memory.get("a") is None and memory.n_bytes == 0
    assert memory.pruned("a", graph, Thresholds()) is not pruned


def test_the_counted_size_is_an_upper_bound_close_to_the_truth() -> None:
    for n_features, n_edges in ((200, 8_000), (2_000, 4_000)):
        memory = GraphMemory(10**9)

        def fill(n_features=n_features, n_edges=n_edges, memory=memory) -> None:
            graph = graph_of(1, n_features, n_edges)
            memory.put("a", graph)
            for share in (0.5, 0.8, 1.0):
                use_everything(memory.pruned("a", graph, Thresholds(share, 0.98)))

        measured = traced_growth(fill)
        assert measured < memory.n_bytes < 1.5 * measured
