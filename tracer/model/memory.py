"""How much memory a device has free."""

from __future__ import annotations

from typing import Final

import psutil
import torch

USABLE: Final = 0.8
"""Share of the free memory that work may plan with when no limit is given."""


def available_bytes(device: torch.device) -> int:
    """Free memory of the device; for the CPU, and for Apple's shared memory, of the machine."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    return int(psutil.virtual_memory().available)
