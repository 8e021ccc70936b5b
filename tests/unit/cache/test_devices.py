"""The device that models are opened on, and the choice of another one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cache import Backend, ModelChoice, open_backend
from tracer.errors import ModelError


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[Backend]:
    backend = open_backend(tmp_path)
    yield backend
    backend.close()


def test_auto_comes_first_and_says_what_it_chooses_and_why(backend: Backend) -> None:
    auto, cpu, *_ = backend.devices()
    assert (auto.name, cpu.name) == ("auto", "cpu")
    assert auto.description in {device.name for device in backend.devices()} | {"cuda"}
    assert auto.reason
    assert "cores" in cpu.description


def test_another_device_unloads_what_is_open(backend: Backend) -> None:
    assert backend.device_name == "auto"
    backend.warm(ModelChoice()).result(60)
    backend.set_device("auto")
    assert backend.library.opened == (ModelChoice(),)
    backend.set_device("cpu")
    assert backend.device_name == "cpu"
    backend.warm(ModelChoice("atlas", "cross-layer")).result(60)
    assert backend.library.opened == (ModelChoice("atlas", "cross-layer"),)
    assert backend.device == "cpu"


def test_a_device_that_is_not_here_changes_nothing(backend: Backend) -> None:
    with pytest.raises(ModelError, match="cuda:99"):
        backend.set_device("cuda:99")
    assert backend.device_name == "auto"
