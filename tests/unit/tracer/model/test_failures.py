"""A device that fails is reported by name, and the memory of the failed work is released."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch

import tracer
from tracer.errors import DeviceLostError, MemoryLimitError, ModelError
from tracer.indexing.build import build_index
from tracer.model import bridge, model
from tracer.model.failures import as_tracer_errors

CPU = torch.device("cpu")
CUDA_OOM = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB"


def fail_with(error: Exception) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError(CUDA_OOM),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB, max allowed: 9 GB)"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
        MemoryError(),
    ],
    ids=["cuda", "mps", "cpu", "cublas", "python"],
)
def test_any_way_to_run_out_of_memory_is_a_memory_limit_error(error: Exception) -> None:
    with (
        pytest.raises(
            MemoryLimitError, match=r"\([\d.]+ \wB of [\d.]+ GB are free\): wait$"
        ) as raised,
        as_tracer_errors("tracing", CPU, "wait"),
    ):
        raise error
    assert str(raised.value).startswith("cpu ran out of memory while tracing (")
    assert str(raised.value).endswith("are free): wait")


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: device-side assert triggered",
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: unspecified launch failure",
    ],
)
def test_a_sticky_cuda_error_asks_for_a_restart(text: str) -> None:
    """Every later CUDA call of the process fails in the same way, so no later job can succeed."""
    with (
        pytest.raises(
            DeviceLostError, match=f"cpu stopped working while tracing .*{text[12:]}.*rest"
        ),
        as_tracer_errors("tracing", CPU),
    ):
        raise RuntimeError(f"{text}\nCUDA kernel errors might be asynchronously reported")


def test_other_errors_pass_unchanged() -> None:
    for error in (RuntimeError("shapes differ"), ModelError("no such layer"), KeyError("x")):
        with pytest.raises(type(error)) as raised, as_tracer_errors("tracing", CPU):
            raise error
        assert raised.value is error


def test_keeping_the_error_keeps_no_tensor() -> None:
    """PyTorch's own exception keeps the frames of the failed work, and all that they hold."""
    references: list[weakref.ref[torch.Tensor]] = []

    @as_tracer_errors("tracing", CPU)
    def work() -> None:
        activations = torch.zeros(1000)
        references.append(weakref.ref(activations))
        try:
            raise KeyError("an earlier failure, kept as the context of the next")
        except KeyError:
            inner(activations)

    def inner(activations: torch.Tensor) -> None:
        raise torch.OutOfMemoryError(CUDA_OOM)

    with pytest.raises(MemoryLimitError) as kept:
        work()
    gc.collect()
    assert kept.value is not None and references[0]() is None


def test_opening_a_model_that_does_not_fit_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = (bridge.TransformerBridge, "boot_transformers"), (model, "load_transcoders")
    for owner, name in steps:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fail_with(torch.OutOfMemoryError(CUDA_OOM)))
            with pytest.raises(MemoryLimitError, match=r"while opening atlas .*dtype='bfloat16'"):
                tracer.load("atlas")


def test_a_trace_that_does_not_fit_is_one_sentence(
    open_tiny: Callable[..., tracer.Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_tiny()
    with monkeypatch.context() as patch:
        patch.setattr(opened.bridge, "run_batch", fail_with(torch.OutOfMemoryError(CUDA_OOM)))
        with pytest.raises(MemoryLimitError, match="out of memory while tracing 6 tokens"):
            tracer.trace(opened, tiny.PROMPT)
        patch.setattr(opened.bridge, "run_batch", fail_with(RuntimeError("device-side assert")))
        with pytest.raises(DeviceLostError, match="while tracing 6 tokens"):
            tracer.trace(opened, tiny.PROMPT)
    assert tracer.trace(opened, tiny.PROMPT).n_edges


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda model, folder: tracer.run_scenarios(model, tiny.PROMPT, [off_everywhere()]),
            "running 1 scenarios? of 6 tokens",
        ),
        (
            lambda model, folder: tracer.intervene(model, tiny.PROMPT, [first_feature_off()]),
            "running 1 scenarios? of 6 tokens",
        ),
        (lambda model, folder: build_index(model, corpus(folder), folder / "features"), "indexing"),
    ],
    ids=["run_scenarios", "intervene", "build_index"],
)
def test_no_other_entry_point_lets_a_device_error_through(
    open_tiny: Callable[..., tracer.Model],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    call: Callable[[tracer.Model, Path], object],
    text: str,
) -> None:
    opened = open_tiny()
    for error, expected in (
        (torch.OutOfMemoryError(CUDA_OOM), MemoryLimitError),
        (RuntimeError("device-side assert"), DeviceLostError),
    ):
        with monkeypatch.context() as patch:
            for name in ("run_batch", "capture", "run_with_hooks"):
                if hasattr(opened.bridge, name):
                    patch.setattr(opened.bridge, name, fail_with(error))
            with pytest.raises(expected, match=f"while {text}"):
                call(opened, tmp_path)


def off_everywhere() -> tracer.Scenario:
    return tracer.Scenario("off", (tracer.Edit(tracer.FeatureId(0, 2), 2, 3, "set", 0.0),))


def first_feature_off() -> tracer.Intervention:
    return tracer.Intervention(0, 2, 3, 0.0)


def corpus(folder: Path) -> Path:
    path = folder / "corpus.txt"
    path.write_text(tiny.PROMPT)
    return path
