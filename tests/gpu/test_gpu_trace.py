"""A trace on an accelerator gives the graph of the CPU, or reports how far it is off."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import tiny
import torch

import tracer
from tracer.attribution import memory
from tracer.errors import MemoryLimitError
from tracer.model.model import Model

KINDS: dict[str, dict[str, Any]] = {
    "per-layer": {"skip": True},
    "cross-layer": {"kind": "cross_layer_transcoder", "activation": "relu"},
}
PRECISIONS: dict[str, dict[str, Any]] = {
    "float32": {},
    "tf32": {"tf32": True},
    "bfloat16": {"dtype": "bfloat16"},
    "bfloat16 forward pass": {"dtype": "bfloat16", "forward_dtype": "bfloat16"},
}
TARGETS = ["w3", "w9", tracer.Contrast("w3", "w4")]
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Model]:
    """Open a small model on a device, with options of `tracer.load`; models are kept."""
    root = tmp_path_factory.mktemp("gpu")

    @cache
    def folders(architecture: str, kind: str) -> tuple[str, str]:
        model = tiny.save_model(root / f"{architecture}-{kind}", architecture)
        transcoders = tiny.save_transcoders(root / f"{architecture}-{kind}-set", **KINDS[kind])
        return str(model), str(transcoders)

    def open_one(architecture: str, kind: str, device: str, **options: Any) -> Model:
        return tracer.load(*folders(architecture, kind), device=device, **options)

    return open_one


def difference(left: tracer.AttributionGraph, right: tracer.AttributionGraph) -> float:
    """Return the share of absolute weight by which the edges between common nodes differ."""
    nodes = [{g.index.node(row) for row in range(g.n_nodes)} for g in (left, right)]
    common = sorted(nodes[0] & nodes[1])
    assert len(common) > 0.9 * max(map(len, nodes))
    weights = []
    for graph in (left, right):
        rows = [graph.index.row(node) for node in common]
        weights.append(graph.to_dense()[rows][:, rows])
    return float((weights[0] - weights[1]).abs().sum() / weights[1].abs().sum())


@EVERY_KIND
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_the_graph_is_that_of_the_cpu(
    opened: Callable[..., Model], accelerator: str, architecture: str, precision: str, kind: str
) -> None:
    expected = tracer.trace(opened(architecture, kind, "cpu"), tiny.PROMPT, targets=TARGETS)
    model = opened(architecture, kind, accelerator, **PRECISIONS[precision])
    assert model.device.type == accelerator
    graph = tracer.trace(model, tiny.PROMPT, targets=TARGETS)
    assert graph.provenance["device"].startswith(accelerator)
    moved = difference(graph, expected)
    if precision == "float32":
        assert graph.rounding_error == 0.0
        assert moved < 1e-4
    elif precision == "tf32":  # which CUDA may not use for products as small as these
        assert graph.provenance["tf32"] is (accelerator == "cuda")
        assert moved < 3 * graph.rounding_error + 1e-4
    else:
        # Weights are rounded to bfloat16 as well, which the reference takes as given.
        assert 0 < graph.rounding_error < 0.1
        assert moved < 0.1


@EVERY_KIND
def test_the_same_features_are_expanded(
    opened: Callable[..., Model], accelerator: str, kind: str
) -> None:
    """Features are ranked on CUDA, and on the CPU for MPS."""
    graphs = [
        tracer.trace(opened("llama", kind, device), tiny.PROMPT, max_features=20, rank_every=5)
        for device in (accelerator, "cpu")
    ]
    assert graphs[0].features.tolist() == graphs[1].features.tolist()
    assert difference(*graphs) < 1e-4


@EVERY_KIND
def test_long_rows_are_shortened_alike(
    opened: Callable[..., Model], accelerator: str, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(memory, "WHOLE_ROWS", 0)
    monkeypatch.setattr(memory, "LONG_ROW_SHARE", 0.9)
    graphs = [
        tracer.trace(opened("gemma2", kind, device), tiny.PROMPT) for device in (accelerator, "cpu")
    ]
    assert graphs[0].dropped_weight == pytest.approx(graphs[1].dropped_weight, abs=1e-3)
    assert difference(*graphs) < 5e-3, "an entry at the limit may fall on either side"


@EVERY_KIND
def test_small_batches_and_offloaded_weights_change_nothing(
    opened: Callable[..., Model], accelerator: str, kind: str
) -> None:
    model = opened("gemma2", kind, accelerator)
    expected = tracer.trace(model, tiny.PROMPT)
    graph = tracer.trace(model, tiny.PROMPT, batch_size=3, offload=True)
    assert difference(graph, expected) < 1e-4
    assert difference(tracer.trace(model, tiny.PROMPT), expected) < 1e-4


def test_transcoders_left_in_their_files_change_nothing(
    opened: Callable[..., Model], accelerator: str
) -> None:
    expected = tracer.trace(opened("llama", "cross-layer", accelerator), tiny.PROMPT)
    lazy = opened("llama", "cross-layer", accelerator, lazy_decoders=True, lazy_encoders=True)
    assert difference(tracer.trace(lazy, tiny.PROMPT), expected) < 1e-4


def test_deterministic_algorithms_repeat_a_graph_exactly(
    opened: Callable[..., Model], accelerator: str
) -> None:
    if accelerator == "mps":
        pytest.skip("not all operations have a deterministic variant")
    model = opened("gemma2", "cross-layer", accelerator)
    torch.use_deterministic_algorithms(True)
    try:
        graphs = [tracer.trace(model, tiny.PROMPT, max_features=40) for _ in range(2)]
    finally:
        torch.use_deterministic_algorithms(False)
    assert graphs[0].provenance["deterministic"] is True
    assert torch.equal(graphs[0].to_dense(), graphs[1].to_dense())


def test_an_exhausted_device_is_one_sentence_and_works_again(
    opened: Callable[..., Model], accelerator: str
) -> None:
    if accelerator == "mps":
        pytest.skip("the limit of MPS counts the memory of other processes")
    model = opened("llama", "per-layer", accelerator)
    expected = tracer.trace(model, tiny.PROMPT)
    torch.cuda.set_per_process_memory_fraction(1e-9)
    filling: list[torch.Tensor] = []
    try:
        with pytest.raises(torch.OutOfMemoryError):  # what is left of memory already reserved
            while True:
                filling.append(torch.empty(1, device=model.device))
        with pytest.raises(MemoryLimitError, match=r"^cuda:\d+ ran out of memory while tracing"):
            tracer.trace(model, tiny.PROMPT)
    finally:
        filling.clear()
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert difference(tracer.trace(model, tiny.PROMPT), expected) < 1e-4
