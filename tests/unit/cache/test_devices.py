"""The device that models are opened on: how it is chosen, and what a change does."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from fakes import FakeEngine, until

from cache import Backend, Device, Machine, ModelChoice, TraceRequest, open_backend
from cache.engine import TracerEngine, usable_cores
from cache.machine import Gpu
from tracer.errors import ModelError

DALLAS = TraceRequest("The capital of the state containing Dallas is")
ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def no_device_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CIRCUIT_DEVICE", raising=False)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make torch report two CUDA devices."""
    import torch

    sizes = [80 * 10**9, 24 * 10**9]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)

    def properties(device: int | torch.device) -> SimpleNamespace:
        number = device if isinstance(device, int) else device.index
        return SimpleNamespace(name=f"Fast {number}", total_memory=sizes[number])

    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: f"Fast {number}")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3, 8))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 0)


# What this machine has


def test_the_engine_lists_every_device(two_gpus: None) -> None:
    devices = TracerEngine().devices()
    assert devices[:4] == (
        Device("auto", "cuda:0", "auto: CUDA is available, most free memory of 2 GPUs"),
        Device("cpu", f"{usable_cores()} cores"),
        Device("cuda:0", "Fast 0, 80.0 GB"),
        Device("cuda:1", "Fast 1, 24.0 GB"),
    )


def test_a_wrong_environment_still_lists_the_devices(
    two_gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIRCUIT_DEVICE", "abacus")
    auto, *others = TracerEngine().devices()
    assert auto.name == "auto" and "abacus" in auto.reason
    assert [device.name for device in others[:3]] == ["cpu", "cuda:0", "cuda:1"]


def test_the_engine_measures_the_device_it_was_given(two_gpus: None) -> None:
    engine = TracerEngine("cuda:1")
    machine = engine.machine()
    assert (machine.device, machine.gpu) == ("cuda:1", Gpu("Fast 1", memory=8, free=3))
    assert machine.room == 3
    engine.use_device("cpu")
    machine = engine.machine()
    assert (machine.device, machine.gpu) == ("cpu", None)
    assert 0 < machine.room == machine.free_memory <= machine.memory


@pytest.mark.parametrize("device", [None, "auto", "cpu"])
def test_a_real_model_is_opened_on_the_device_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str | None
) -> None:
    monkeypatch.setenv("CIRCUIT_DEVICE", "abacus" if device == "cpu" else "cpu")
    backend = open_backend(tmp_path, device)
    assert backend.device_name == (device or "auto")
    assert backend.warm(ModelChoice()).result(120) == "cpu"
    backend.close(10)


def test_a_missing_device_fails_the_job_with_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIRCUIT_DEVICE", "abacus")
    backend = open_backend(tmp_path)
    with pytest.raises(ModelError, match="abacus"):
        backend.warm(ModelChoice()).result(120)
    backend.close(10)


# The log


def device_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno == logging.INFO and record.getMessage().startswith("device: ")
    ]


def test_the_worker_logs_the_device_once_and_again_after_a_change(
    backend: Backend, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        backend.warm(ModelChoice(dtype="bfloat16")).result(10)
        backend.warm(ModelChoice()).result(10)
        backend.set_device("cuda:1")
        backend.warm(ModelChoice()).result(10)
    assert device_lines(caplog) == [
        "device: auto; bfloat16 (because)",
        "device: cuda:1; float32 (because)",
    ]


# Changing it


@pytest.fixture
def waiting(backend: Backend, engine: FakeEngine) -> Iterator[Callable[[], None]]:
    """Have a trace run until the test releases it."""
    backend.warm(ModelChoice()).result(10)
    gate = engine.hold()
    backend.trace(DALLAS)
    gate.wait_until_reached()
    yield gate.open
    gate.open()


def test_a_change_unloads_every_model_and_later_ones_open_on_the_new_device(
    backend: Backend, engine: FakeEngine
) -> None:
    for transcoders in ("per-layer", "cross-layer"):
        backend.warm(ModelChoice("atlas", transcoders)).result(10)
    freed = engine.freed
    backend.set_device("cuda:1")
    assert backend.device_name == "cuda:1"
    until(lambda: backend.library.opened == ())
    until(lambda: engine.freed > freed)
    assert backend.device is None
    assert backend.warm(ModelChoice()).result(10) == "cuda:1"
    assert backend.device == "cuda:1"


def test_the_running_job_finishes_on_the_old_device_first(
    backend: Backend, engine: FakeEngine, waiting: Callable[[], None]
) -> None:
    (running,) = backend.queue
    backend.set_device("cuda:1")
    after = backend.warm(ModelChoice())
    assert backend.library.opened == (ModelChoice(),), "the running job still uses it"
    assert (engine.device_name, backend.device) == ("auto", "cpu")
    waiting()
    assert running.result(10).prompt == DALLAS.prompt
    assert after.result(10) == "cuda:1", "a job that waited runs on the new device"


def test_a_missing_device_changes_nothing(backend: Backend) -> None:
    backend.warm(ModelChoice()).result(10)
    with pytest.raises(ModelError, match="device 'cuda:7' does not exist"):
        backend.set_device("cuda:7")
    assert backend.device_name == "auto" and backend.library.opened == (ModelChoice(),)
    assert backend.warm(ModelChoice()).result(10) == "cpu"


def test_choosing_the_same_device_again_unloads_nothing(
    backend: Backend, engine: FakeEngine
) -> None:
    backend.warm(ModelChoice()).result(10)
    backend.set_device("auto")
    backend.trace(DALLAS).result(10)
    assert engine.loads == ["atlas"]


def test_a_failure_on_the_old_device_is_tried_again_on_the_new_one(
    backend: Backend, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.delattr(FakeEngine, "load")
        failed = backend.warm(ModelChoice())
        assert failed.wait(10) and failed.state == "failed"
    assert backend.warm(ModelChoice()) is failed, "it would fail again"
    backend.set_device("cuda:1")
    until(lambda: engine.device_name == "cuda:1")
    assert backend.warm(ModelChoice()).result(10) == "cuda:1"


def test_a_trace_is_the_same_graph_on_every_device(backend: Backend, engine: FakeEngine) -> None:
    graph = backend.trace(DALLAS).result(10)
    backend.set_device("cuda:1")
    again = backend.trace(DALLAS)
    assert again.from_cache and again.result() is graph


def test_the_machine_is_measured_again_after_a_change(backend: Backend, engine: FakeEngine) -> None:
    engine.look = lambda: Machine(1, 1, 1, engine.device_name)
    until(lambda: backend.library.machine().device == "auto")
    backend.set_device("cuda:1")
    until(lambda: backend.library.machine().device == "cuda:1")


# The list


def test_the_list_is_short_until_torch_is_imported_in_the_background(
    backend: Backend, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported, threads = threading.Event(), []
    devices = engine.devices

    def slowly() -> tuple[Device, ...]:
        threads.append(threading.current_thread())
        assert imported.wait(10)
        return devices()

    monkeypatch.setattr(engine, "devices", slowly)
    assert [device.name for device in backend.devices()] == ["auto", "cpu"]
    imported.set()
    until(lambda: [d.name for d in backend.devices()] == ["auto", "cpu", "cuda:1"])
    assert len(threads) == 1 and threading.current_thread() not in threads, "listed once"


_VISIT = """
import sys, threading
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from cache import open_backend
from tracer.errors import TracerError
importers = []
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            importers.append(threading.current_thread().name)
            raise ImportError("torch is not needed here")
sys.meta_path.insert(0, NoTorch())
backend = open_backend(Path(sys.argv[2]))
backend.devices(), backend.library.machine()
try:
    backend.set_device("cpu")
except TracerError as error:
    assert "torch is not needed here" in str(error)
print(*sorted(set(importers)))
"""


def test_a_visitors_thread_never_imports_torch(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _VISIT, str(ROOT), str(tmp_path)],
        capture_output=True,
        check=True,
        text=True,
    )
    assert done.stdout == "machine\n", "the name of the background thread"
