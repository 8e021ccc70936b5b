"""Read the free and total memory of a device, and return what is no longer used."""

from __future__ import annotations

import gc
from typing import Final

import psutil
import torch

USABLE: Final = 0.8
"""Share of the free memory that work may plan with when no limit is given."""


def available_bytes(device: torch.device) -> int:
    """Return the free memory of ``device`` in bytes; of the machine, for the CPU."""
    return free_and_total_bytes(device)[0]


def free_and_total_bytes(device: torch.device) -> tuple[int, int]:
    """Return the free and the total memory of ``device`` in bytes.

    For CUDA, memory that PyTorch has reserved and not handed out counts as free. MPS shares the
    machine's memory, of which it may use a part.
    """
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + unused, total
    machine = psutil.virtual_memory()
    if device.type == "mps":
        total = torch.mps.recommended_max_memory()
        unused = max(0, total - torch.mps.current_allocated_memory())
        return min(int(machine.available), unused), total
    return int(machine.available), int(machine.total)


def release_cached_memory(device: torch.device) -> None:
    """Collect garbage, and return the memory that PyTorch keeps in reserve to ``device``."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
