from __future__ import annotations

import shutil
from pathlib import Path

import psutil
import pytest

from cache.machine import Gpu, Machine, looked_at


def test_memory_and_disk_are_those_of_this_machine() -> None:
    found = looked_at()
    assert found.memory == psutil.virtual_memory().total
    assert 0 < found.free_memory <= found.memory
    assert found.free_disk > 0
    assert (found.device, found.gpu) == ("", None), "nobody has asked the accelerator"


@pytest.mark.parametrize("there", [True, False])
def test_the_disk_is_the_one_that_downloads_go_to_though_their_folder_is_not_made_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    folder = tmp_path / "hf" / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", str(folder))
    if there:
        folder.mkdir(parents=True)
    real, asked = shutil.disk_usage, []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(path) or real(path))
    looked_at()
    assert asked == [folder if there else tmp_path]


def test_room_for_a_model_is_where_it_will_be() -> None:
    gpu = Gpu("fast", memory=8, free=3)
    assert Machine(64, 32, 16).room == 32
    assert Machine(64, 32, 16, "cuda", gpu).room == 3
