"""Every accelerator against the CPU, on tiny models. Skipped on machines without one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch

import tracer
from tracer.model.model import Model

# cuBLAS is only deterministic with a fixed workspace, which it reads when CUDA starts.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in this folder with ``gpu``."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(params=["cuda", "mps"])
def accelerator(request: pytest.FixtureRequest) -> str:
    """The name of an accelerator of this machine."""
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if not available[request.param]:
        pytest.skip(f"this machine has no {request.param} device")
    return str(request.param)


@pytest.fixture
def open_pair(accelerator: str, tmp_path: Path) -> Callable[..., tuple[Model, Model]]:
    """Opens the same tiny model on the CPU and on the accelerator."""

    def open_both(
        architecture: str = "gemma2", dtype: str = "float32", **options: str
    ) -> tuple[Model, Model]:
        folder = tiny.save_model(tmp_path / "model", architecture)
        transcoders = tiny.save_transcoders(tmp_path / "set", **options)
        on_cpu, on_accelerator = (
            tracer.load(str(folder), str(transcoders), device=device, dtype=dtype)
            for device in ("cpu", accelerator)
        )
        return on_cpu, on_accelerator

    return open_both
