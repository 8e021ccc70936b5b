"""A machine that fails is one line on stderr, not a traceback."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import tracer
from tracer.__main__ import main
from tracer.cli.failures import failure_message

CUDA = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.64 GiB."
CPU = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you "
    "tried to allocate 4000000000000 bytes. Error code 12 (Cannot allocate memory)"
)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError(CUDA), "out of memory (CUDA out of memory. Tried to allocate"),
        (RuntimeError(CPU), "out of memory ([enforce fail at alloc_cpu.cpp:127]"),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), "out of memory (MPS"),
        (MemoryError(), "out of memory (MemoryError)"),
        (RuntimeError("CUDA error: device-side assert triggered\nCompile with …"), "the device"),
        (torch.AcceleratorError("CUDA error: an illegal memory access"), "the device failed"),
    ],
)
@pytest.mark.parametrize("command", [["trace", "x"], ["intervene", "x", "--set", "0:1:2=3"]])
def test_a_failure_of_the_machine_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: list[str],
    error: Exception,
    message: str,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(tracer, "load", fail)
    assert main(command) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {message}") and captured.err.count("\n") == 1
    assert "--device cpu" in captured.err and not captured.out


def test_a_real_allocation_that_fails_is_recognised() -> None:
    with pytest.raises(RuntimeError) as failed:
        torch.empty(2**50, dtype=torch.float32)
    message = failure_message(failed.value)
    assert message is not None and message.startswith("out of memory")


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(tracer, "load", fail)
    with pytest.raises(RuntimeError, match="shapes cannot"):
        main(["trace", "x"])


def test_commands_that_need_no_model_do_not_import_torch() -> None:
    script = (
        "import sys; from tracer.__main__ import main\n"
        "assert main(['models', '--json']) == 0\n"
        "assert main(['prune', 'missing.safetensors']) == 2\n"
        "assert not {'torch', 'transformers', 'sqlite3'} & sys.modules.keys()"
    )
    command = [sys.executable, "-c", script]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
