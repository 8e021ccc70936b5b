"""Which device a model runs on, and what is reported about the choice."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import tiny
import torch

import tracer
from tracer.errors import DeviceLostError, ModelError
from tracer.model.device import choose_device
from tracer.model.model import Model

GB = 10**9


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CIRCUIT_DEVICE", raising=False)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[int | Exception]:
    """Pretend that there are CUDA devices with so many free bytes, or that raise an error."""
    free: list[int | Exception] = [10 * GB, 30 * GB, 20 * GB]

    def mem_get_info(device: torch.device) -> tuple[int, int]:
        answer = free[device.index]
        if isinstance(answer, Exception):
            raise answer
        return answer, 80 * GB

    def properties(device: torch.device) -> SimpleNamespace:
        return SimpleNamespace(name=f"Card {device.index}", total_memory=80 * GB)

    for name, value in {
        "is_available": lambda: True,
        "device_count": lambda: len(free),
        "current_device": lambda: 0,
        "mem_get_info": mem_get_info,
        "memory_reserved": lambda device: 0,
        "memory_allocated": lambda device: 0,
        "get_device_properties": properties,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return free


@pytest.fixture
def mps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "get_name", lambda: "Apple M3")
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 24 * GB)


def test_the_gpu_with_the_most_free_memory_is_chosen(gpus: list[int | Exception]) -> None:
    choice = choose_device()
    assert choice.device == torch.device("cuda:1")
    assert choice.label == "cuda:1 Card 1"
    assert choice.describe(torch.bfloat16) == (
        "cuda:1, Card 1, 80.0 GB; bfloat16 (auto: CUDA is available, most free memory of 3 GPUs)"
    )


def test_a_gpu_that_does_not_answer_is_passed_over(gpus: list[int | Exception]) -> None:
    gpus[1] = RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable")
    assert choose_device("auto").device == torch.device("cuda:2")


def test_one_gpu_is_not_compared_with_anything(gpus: list[int | Exception]) -> None:
    gpus[:] = [RuntimeError("would create a context")]
    choice = choose_device()
    assert (choice.device, choice.reason) == (torch.device("cuda:0"), "auto: CUDA is available")


def test_a_lost_device_is_reported_not_passed_over(gpus: list[int | Exception]) -> None:
    gpus[0] = RuntimeError("CUDA error: device-side assert triggered")
    with pytest.raises(DeviceLostError, match="restart the process"):
        choose_device()


def test_mps_comes_before_the_cpu(mps: None) -> None:
    choice = choose_device()
    assert choice.describe(torch.float32) == (
        "mps, Apple M3, 24.0 GB; float32 (auto: MPS is available, CUDA is not)"
    )


def test_the_cpu_is_the_last_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    choice = choose_device()
    assert choice.label == "cpu" and choice.memory_bytes is None
    assert choice.describe(torch.float32) == (
        "cpu, 2 threads; float32 (auto: neither CUDA nor MPS is available)"
    )


@pytest.mark.parametrize("name", [None, "auto"])
def test_the_environment_variable_replaces_the_automatic_choice(
    gpus: list[int | Exception], monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    monkeypatch.setenv("CIRCUIT_DEVICE", "cpu")
    choice = choose_device(name)
    assert (choice.device, choice.reason) == (torch.device("cpu"), "CIRCUIT_DEVICE")


def test_an_argument_replaces_the_environment_variable(
    gpus: list[int | Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIRCUIT_DEVICE", "cpu")
    choice = choose_device("cuda")
    assert (choice.device, choice.reason) == (torch.device("cuda:0"), "requested")
    assert choose_device("cuda:2").label == "cuda:2 Card 2"


@pytest.mark.parametrize("device", ["abacus", "meta", "cuda:77", "mps:1", "cpu:3", ""])
def test_an_unknown_device_is_refused(device: str) -> None:
    with pytest.raises(ModelError) as refused:
        tracer.load(device=device)
    assert str(refused.value).startswith(
        f"device {device!r} is not available on this machine: expected one of auto, cpu"
    )


def test_an_unknown_device_in_the_environment_names_the_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CIRCUIT_DEVICE", "abacus")
    with pytest.raises(ModelError, match="CIRCUIT_DEVICE 'abacus' is not available"):
        tracer.load()


def test_a_model_remembers_why_its_device_was_chosen(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert model.device_choice.reason == "requested"
    monkeypatch.setenv("CIRCUIT_DEVICE", "cpu")
    assert tracer.load("atlas").device_choice.reason == "CIRCUIT_DEVICE"
    provenance = tracer.trace(model, tiny.PROMPT).provenance
    assert (provenance["device"], provenance["deterministic"]) == ("cpu", True)
