from __future__ import annotations

import shutil
from pathlib import Path

import psutil
import pytest

from cache.machine import Gpu, Machine, measured


def test_memory_and_disk_are_those_of_this_machine() -> None:
    found = measured()
    assert found.memory == psutil.virtual_memory().total
    assert 0 < found.free_memory <= found.memory
    assert found.free_disk > 0
    assert (found.device, found.gpu) == ("", None), "the accelerator was not measured"


@pytest.mark.parametrize("exists", [True, False])
def test_free_disk_is_that_of_the_download_folder_even_before_it_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exists: bool
) -> None:
    folder = tmp_path / "hf" / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", str(folder))
    if exists:
        folder.mkdir(parents=True)
    real, asked = shutil.disk_usage, []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(path) or real(path))
    assert measured().free_disk > 0
    assert asked[-1] == (folder if exists else tmp_path)


def test_a_disk_that_cannot_be_read_has_no_known_space(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(shutil, "disk_usage", refuse)
    assert measured().free_disk == 0


def test_room_for_a_model_is_on_its_device() -> None:
    gpu = Gpu("fast", memory=8, free=3)
    assert Machine(64, 32, 16).room == 32
    assert Machine(64, 32, 16, "cuda", gpu).room == 3
