"""The memory, disk and accelerator of this machine. Imports no torch."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil

from tracer.hub import cache_folder


@dataclass(frozen=True)
class Gpu:
    """An accelerator; sizes in bytes."""

    name: str
    memory: int
    free: int


@dataclass(frozen=True)
class Device:
    """A device that models can run on."""

    name: str
    """``auto``, ``cpu``, ``cuda:0`` …, ``mps``."""
    description: str = ""
    """What it is, e.g. its product name; for ``auto``, the device it chooses."""
    reason: str = ""
    """For ``auto``: why it chooses that device."""


@dataclass(frozen=True)
class Machine:
    """What this machine has to hold models; sizes in bytes."""

    memory: int
    free_memory: int
    free_disk: int
    """On the disk that downloads go to; 0 when that cannot be read."""
    device: str = ""
    """The device that models are opened on; empty before it has been determined."""
    gpu: Gpu | None = None

    @property
    def room(self) -> int:
        """How much a model may take: the accelerator's free memory, or this machine's."""
        return self.gpu.free if self.gpu is not None else self.free_memory


def measured() -> Machine:
    """Measure memory and disk, but not the accelerator."""
    memory = psutil.virtual_memory()
    return Machine(int(memory.total), int(memory.available), _free_disk(cache_folder()))


def _free_disk(folder: Path) -> int:
    """Return the free bytes on the disk of a folder that may not exist yet or be readable."""
    for place in (folder, *folder.parents):
        try:
            return shutil.disk_usage(place).free
        except OSError:
            continue
    return 0
