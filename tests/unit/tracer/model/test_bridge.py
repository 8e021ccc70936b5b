"""Forward passes: only what is needed, at the stated precision, with weights where they belong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from dispatch import Shapes

import tracer
from tracer.errors import MemoryLimitError, ModelError
from tracer.model.model import Model
from tracer.model.precision import float32_products

IDS = torch.tensor(tiny.IDS)


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_only_the_last_position_is_unembedded(
    open_tiny: Callable[..., Model], architecture: str
) -> None:
    """500 tokens of a 256,000-token vocabulary would be 0.5 GB of logits that nobody reads."""
    model = open_tiny(architecture)
    expected, everything = model.bridge.capture(IDS, ["ln_final.hook_scale"])
    with Shapes() as shapes:
        logits, captured = model.bridge.capture(IDS, ["ln_final.hook_scale"], last_only=True)
    assert logits.shape == (1, model.vocab_size)
    assert torch.allclose(logits[0], expected[-1], atol=1e-6), "soft cap and bias included"
    assert torch.equal(captured["ln_final.hook_scale"], everything["ln_final.hook_scale"])
    assert not [s for s in shapes.seen if s[-1:] == (model.vocab_size,) and len(IDS) in s[:-1]]


def test_a_trace_never_computes_logits_it_does_not_need(model: Model) -> None:
    ids = [*tiny.IDS, 7, 8, 9, 10, 11]
    with Shapes() as shapes:
        tracer.trace(model, ids)
    assert not [s for s in shapes.seen if s[-1:] == (model.vocab_size,) and len(ids) in s[:-1]]


def test_an_unknown_hook_point_is_named(model: Model) -> None:
    """It does not exist (a KeyError of transformer-lens), or nothing ever passes it."""
    for name in ("blocks.0.hook_missing", "blocks.0.attn.hook_hidden_states"):
        with pytest.raises(
            ModelError, match=f"no hook point {name}: .* LlamaForCausalLM is not sup"
        ):
            model.bridge.capture(IDS, ["ln_final.hook_scale", name])


def test_the_precision_of_products_is_set_and_restored() -> None:
    cuda, cpu = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
    torch.set_float32_matmul_precision("medium")  # what another library may have done
    try:
        before = cuda.fp32_precision, cpu.fp32_precision
        assert "ieee" not in before
        with pytest.raises(KeyError), float32_products():
            assert (cuda.fp32_precision, cpu.fp32_precision) == ("ieee", "ieee")
            with float32_products(tf32=True):
                assert (cuda.fp32_precision, cpu.fp32_precision) == ("tf32", "ieee")
            assert cuda.fp32_precision == "ieee"
            raise KeyError
        assert (cuda.fp32_precision, cpu.fp32_precision) == before
    finally:
        torch.set_float32_matmul_precision("highest")


def test_a_forward_pass_is_float32_whatever_the_process_allows(model: Model) -> None:
    precision: list[str] = []

    def note(value: torch.Tensor, hook: Any) -> None:
        precision.append(torch.backends.cuda.matmul.fp32_precision)

    torch.set_float32_matmul_precision("medium")
    try:
        model.bridge.run(IDS, [(model.write_hook(0), note)])
        model.bridge.step(IDS[None], [(model.write_hook(0), note)], None)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert precision == ["ieee", "ieee"]


def test_a_forward_pass_uses_tf32_if_the_model_does(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    precision: list[str] = []

    def note(value: torch.Tensor, hook: Any) -> None:
        precision.append(torch.backends.cuda.matmul.fp32_precision)

    monkeypatch.setattr(model.bridge, "tf32", True)
    model.bridge.run(IDS, [(model.write_hook(0), note)])
    model.bridge.step(IDS[None], [(model.write_hook(0), note)], None)
    with model.bridge.exact():
        model.bridge.run(IDS, [(model.write_hook(0), note)])
    assert precision == ["tf32", "tf32", "ieee"]


def parameters(model: Model) -> list[torch.nn.Parameter]:
    return list(model.bridge._bridge.parameters())


@pytest.fixture
def fresh(tmp_path: Path) -> Model:
    folder = tiny.save_model(tmp_path / "model")
    transcoders = tiny.save_transcoders(tmp_path / "set")
    return tracer.load(str(folder), str(transcoders), device="cpu")


def test_weights_that_do_not_fit_back_stay_on_the_cpu_and_return_later(
    fresh: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They used to be left empty, and the model was unusable from then on."""
    expected = fresh.bridge.run(IDS)
    sizes = [parameter.numel() for parameter in parameters(fresh)]
    move, moved = torch.Tensor.to, []

    def to(tensor: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        if arguments == (fresh.device,):
            moved.append(tensor.nbytes)
            if len(moved) > 4:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return move(tensor, *arguments, **options)

    with monkeypatch.context() as patch:
        with (
            pytest.raises(MemoryLimitError, match=r"no longer fit on cpu .* remain on the CPU"),
            fresh.offloaded(True),
        ):
            patch.setattr(torch.Tensor, "to", to)
        assert moved == sorted(moved, reverse=True), "the largest are moved first"
        assert [parameter.numel() for parameter in parameters(fresh)] == sizes
        with pytest.raises(MemoryLimitError, match="no longer fit"):
            fresh.bridge.run(IDS)
        assert [parameter.numel() for parameter in parameters(fresh)] == sizes
    assert torch.equal(fresh.bridge.run(IDS), expected)
    assert not fresh.bridge._stranded
