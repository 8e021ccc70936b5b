"""Tests on the accelerators of this machine; skipped if it has none.

Run them alone with ``pytest -m gpu``.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

# cuBLAS is only deterministic with a fixed workspace, which it reads when CUDA starts.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(params=["cuda", "mps"])
def accelerator(request: pytest.FixtureRequest) -> str:
    """The name of a device; the test is skipped if this machine does not have it."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available[request.param]:
        pytest.skip(f"{request.param} is not available")
    return str(request.param)
