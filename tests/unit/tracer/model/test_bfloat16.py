"""bfloat16 weights with a float32 or bfloat16 forward pass, and the error that a graph reports."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

import tracer
from tracer.attribution import rounding
from tracer.errors import ModelError
from tracer.model.model import Model
from tracer.model.upcast import Upcast

Open = Callable[..., Model]


@pytest.fixture(scope="module")
def open_rounded(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Open]:
    """Save a model whose weights bfloat16 can represent; return how to open it.

    What is saved and opened is kept: the tests only run it.
    """

    @cache
    def save(architecture: str, **options: Any) -> Open:
        root = tmp_path_factory.mktemp(architecture)
        folder = tiny.save_model(root / "model", architecture)
        transcoders = tiny.save_transcoders(root / "set", **options)
        for path in (folder / "model.safetensors", *transcoders.glob("*.safetensors")):
            rounded = {
                name: value.bfloat16().float()
                if value.ndim > 1 or folder in path.parents
                else value
                for name, value in load_file(path).items()
            }
            save_file(rounded, path, {"format": "pt"})

        @cache
        def open_one(**how: Any) -> Model:
            return tracer.load(str(folder), str(transcoders), device="cpu", **how)

        return open_one

    return save


def data_types(model: Model) -> set[torch.dtype]:
    return {parameter.dtype for parameter in model.bridge._bridge.parameters()}


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_the_forward_pass_of_bfloat16_weights_is_float32(
    open_rounded: Callable[..., Open], architecture: str
) -> None:
    open_one = open_rounded(architecture)
    exact, narrow = open_one(), open_one(dtype="bfloat16")
    assert data_types(narrow) == {torch.bfloat16}
    ids = torch.tensor(tiny.IDS)
    expected, actual = exact.bridge.run(ids), narrow.bridge.run(ids)
    assert actual.dtype == torch.float32
    # Gemma rounds the factor of its embeddings to the type of its weights, too.
    tolerance = 3e-3 if architecture.startswith("gemma") else 1e-5
    assert torch.allclose(actual, expected, atol=tolerance)
    assert data_types(narrow) == {torch.bfloat16}, "as before the pass"


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_a_bfloat16_forward_pass_computes_in_bfloat16(
    open_rounded: Callable[..., Open], architecture: str
) -> None:
    fast = open_rounded(architecture)(dtype="bfloat16", forward_dtype="bfloat16")
    ids = torch.tensor(tiny.IDS)
    written = [fast.write_hook(layer) for layer in range(fast.n_layers)]
    logits, captured = fast.bridge.capture(ids, written)
    assert {value.dtype for value in captured.values()} == {torch.bfloat16}
    assert logits.dtype == torch.float32
    with fast.bridge.exact():
        exact, captured = fast.bridge.capture(ids, written)
    assert {value.dtype for value in captured.values()} == {torch.float32}
    error = (logits - exact).abs().max()
    assert 1e-4 < error < 0.1 * exact.abs().max()
    assert fast.bridge.capture(ids, written)[1][written[0]].dtype == torch.bfloat16


@pytest.mark.parametrize("where", ["in the pass", "while weights are upcast"])
def test_weights_are_bfloat16_again_after_a_pass_that_failed(
    open_rounded: Callable[..., Open], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    narrow, calls = open_rounded("llama")(dtype="bfloat16"), []

    def fail(*arguments: Any, **options: Any) -> None:
        calls.append(arguments)
        if where == "in the pass" or len(calls) > 20:
            raise torch.OutOfMemoryError("CUDA out of memory")

    hooks = [(narrow.write_hook(1), fail)] if where == "in the pass" else []
    ids = torch.tensor(tiny.IDS)
    with monkeypatch.context() as patch, pytest.raises(torch.OutOfMemoryError):
        if not hooks:
            copy = torch.Tensor.copy_
            patch.setattr(torch.Tensor, "copy_", lambda *a, **k: (fail(*a), copy(*a, **k))[1])
        narrow.bridge.run(ids, hooks)
    assert data_types(narrow) == {torch.bfloat16}
    assert torch.isfinite(narrow.bridge.run(ids)).all()


def test_a_bfloat16_forward_pass_needs_bfloat16_weights() -> None:
    with pytest.raises(ModelError, match="forward_dtype is 'bfloat16' and dtype 'float32'"):
        tracer.load("atlas", forward_dtype="bfloat16")
    with pytest.raises(ModelError, match="forward_dtype is 'float16': expected one of float32"):
        tracer.load("atlas", forward_dtype="float16")  # type: ignore[arg-type]


KINDS: dict[str, dict[str, Any]] = {
    "per-layer": {},
    "cross-layer": {"kind": "cross_layer_transcoder", "activation": "relu"},
    "top-k with skip": {
        "activation": "topk",
        "skip": True,
        "write": "hook_mlp_out",
        "read": "hook_resid_mid",
    },
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "neox", "olmo2"])
def test_the_reported_error_is_the_error(
    open_rounded: Callable[..., Open], architecture: str, kind: str
) -> None:
    """Compared with the complete graph in float32, of which the measurement saw a sample."""
    open_one = open_rounded(architecture, **KINDS[kind])
    expected = tracer.trace(open_one(), tiny.PROMPT, max_logits=3)
    actual = tracer.trace(open_one(dtype="bfloat16"), tiny.PROMPT, max_logits=3)
    assert expected.rounding_error == 0.0
    assert actual.features.tolist() == expected.features.tolist()
    assert actual.activations == pytest.approx(expected.activations, abs=1e-4)
    dense, rounded = expected.to_dense(), actual.to_dense()
    moved = float((rounded - dense).abs().sum() / dense.abs().sum())
    assert 0 < actual.rounding_error < 0.05
    assert actual.rounding_error / 3 < moved < 3 * actual.rounding_error
    assert actual.provenance["dtype"] == "bfloat16"
    assert actual.provenance["forward_dtype"] == "float32"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ["llama", "gemma2", "olmo2"])
def test_the_reported_error_includes_the_forward_pass(
    open_rounded: Callable[..., Open], architecture: str, kind: str
) -> None:
    """Compared on the nodes that both graphs have: rounding switches some features on and off."""
    open_one = open_rounded(architecture, **KINDS[kind])
    expected = tracer.trace(open_one(), tiny.PROMPT, targets=["w3", "w9"])
    fast = open_one(dtype="bfloat16", forward_dtype="bfloat16")
    actual = tracer.trace(fast, tiny.PROMPT, targets=["w3", "w9"])
    assert actual.provenance["forward_dtype"] == "bfloat16"
    nodes = [{g.index.node(row) for row in range(g.n_nodes)} for g in (actual, expected)]
    shared = [(actual.index.row(n), expected.index.row(n)) for n in nodes[0] & nodes[1]]
    left, right = zip(*shared, strict=True)
    dense = expected.to_dense()[right, :][:, right]
    rounded = actual.to_dense()[left, :][:, left]
    moved = float((rounded - dense).abs().sum() / dense.abs().sum())
    assert actual.rounding_error / 3 < moved < 3 * actual.rounding_error
    walk_only = tracer.trace(open_one(dtype="bfloat16"), tiny.PROMPT, targets=["w3", "w9"])
    assert actual.rounding_error > walk_only.rounding_error


def test_tf32_is_measured_by_a_reference_without_it(
    open_rounded: Callable[..., Open], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only CUDA has TF32. Here the option is forced on, and every product notes its precision."""
    model = open_rounded("llama")()
    assert tracer.trace(model, tiny.PROMPT).provenance["tf32"] is False
    monkeypatch.setattr(model.bridge, "tf32", True)
    precision: list[str] = []
    matmul = torch.Tensor.__matmul__

    def note(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        precision.append(torch.backends.cuda.matmul.fp32_precision)
        return matmul(left, right)

    monkeypatch.setattr(torch.Tensor, "__matmul__", note)
    with monkeypatch.context() as patch:
        patch.setattr("tracer.attribution.trace.rounding_error", lambda *arguments: 0.5)
        graph = tracer.trace(model, tiny.PROMPT)
    assert set(precision) == {"tf32"}, "the encoders and the walks"
    assert (graph.provenance["tf32"], graph.rounding_error) == (True, 0.5)
    precision.clear()
    assert tracer.trace(model, tiny.PROMPT).rounding_error == 0.0, "the CPU has no TF32"
    assert set(precision) == {"tf32", "ieee"}
    assert model.bridge.tf32 is True


def test_a_finished_graph_survives_a_reference_that_does_not_fit(
    open_rounded: Callable[..., Open],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    """The reference is computed last, and used to take the finished graph with it."""
    model = open_rounded("llama")(dtype="bfloat16")
    expected = tracer.trace(model, tiny.PROMPT)
    assert not caplog.records

    def out_of_memory(*arguments: Any, **options: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with monkeypatch.context() as patch:
        patch.setattr(rounding, "FrozenBackward", out_of_memory)
        graph = tracer.trace(model, tiny.PROMPT, offload=True)
    assert math.isnan(graph.rounding_error)
    graph.save(tmp_path / "graph")
    again = tracer.load_graph(tmp_path / "graph")
    assert math.isnan(again.rounding_error), "a graph that cannot be read back is lost as well"
    assert torch.equal(again.to_dense(), expected.to_dense())
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "rounding error of this graph was not measured: cpu has no memory" in caplog.text
    assert tracer.trace(model, tiny.PROMPT).rounding_error == expected.rounding_error


def test_a_reference_that_would_not_fit_is_not_begun(
    open_rounded: Callable[..., Open], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CPU does not refuse memory: the system would end the process instead."""
    model = open_rounded("llama")(dtype="bfloat16")
    started: list[Any] = []
    monkeypatch.setattr(rounding, "_measured", lambda *arguments: started.append(arguments))
    monkeypatch.setattr("tracer.attribution.memory._reference_bytes", lambda *arguments: 10**15)
    assert math.isnan(tracer.trace(model, tiny.PROMPT).rounding_error)
    assert not started


def test_other_errors_of_the_reference_are_not_swallowed(
    open_rounded: Callable[..., Open], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(rounding, "_measured", fail)
    with pytest.raises(RuntimeError, match="shapes differ"):
        tracer.trace(open_rounded("llama")(dtype="bfloat16"), tiny.PROMPT)


def test_an_intervention_hardly_changes(open_rounded: Callable[..., Open]) -> None:
    open_one = open_rounded("llama", skip=True)
    exact, narrow = open_one(), open_one(dtype="bfloat16")
    edits = [tracer.Intervention(1, 2, 5, 3.0), tracer.Intervention(0, -1, 7, 0.0)]
    choices: tuple[dict[str, Any], ...] = (
        {},
        {"freeze_attention": False},
        {"constrained_layers": range(3)},
    )
    for options in choices:
        expected = tracer.intervene(exact, tiny.PROMPT, edits, **options)
        actual = tracer.intervene(narrow, tiny.PROMPT, edits, **options)
        assert actual.edited_logits == pytest.approx(expected.edited_logits, abs=1e-4)


def test_interventions_run_on_a_bfloat16_forward_pass(open_rounded: Callable[..., Open]) -> None:
    open_one = open_rounded("llama", skip=True)
    exact, fast = open_one(), open_one(dtype="bfloat16", forward_dtype="bfloat16")
    edit = [tracer.Intervention(1, 2, 5, 3.0)]
    expected = tracer.intervene(exact, tiny.PROMPT, edit, constrained_layers=range(3), generate=2)
    actual = tracer.intervene(fast, tiny.PROMPT, edit, constrained_layers=range(3), generate=2)
    scale = float(abs(expected.edited_logits).max())
    assert actual.edited_logits == pytest.approx(expected.edited_logits, abs=0.1 * scale)
    assert actual.edited_logits.dtype == expected.edited_logits.dtype


def test_models_in_float32_are_not_upcast(model: Model) -> None:
    parts = list(model.bridge._bridge.blocks)
    before = [len(part._forward_pre_hooks) for part in parts]
    Upcast(parts, [])
    assert [len(part._forward_pre_hooks) for part in parts] == before
