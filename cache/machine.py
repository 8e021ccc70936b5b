"""What this machine has to hold models with. No torch here."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

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
    description: str
    """What it is, e.g. its product name; of ``auto``, the device it chooses."""
    reason: str = ""
    """Of ``auto``: why it chooses that device."""


@dataclass(frozen=True)
class Machine:
    """Sizes in bytes."""

    memory: int
    free_memory: int
    free_disk: int
    """Where downloads go."""
    device: str = ""
    """Where models are opened; empty while nobody has looked."""
    gpu: Gpu | None = None

    @property
    def room(self) -> int:
        """What a model may take: the accelerator's free memory, or this machine's."""
        return self.gpu.free if self.gpu is not None else self.free_memory


def looked_at() -> Machine:
    """Memory and disk as they are now; the accelerator is not asked after."""
    memory = psutil.virtual_memory()
    folder = cache_folder()
    while not folder.exists():
        folder = folder.parent
    return Machine(int(memory.total), int(memory.available), shutil.disk_usage(folder).free)
