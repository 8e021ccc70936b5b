"""The data type of matrix products."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Final

import torch

_SIZE: Final = 512
_REPEATS: Final = 3


def chosen_dtype(requested: str, device: torch.device) -> torch.dtype:
    """Return bfloat16 if it is requested and the device is fast with it, else float32.

    A processor without bfloat16 units emulates them, up to 50 times slower than float32, so on a
    CPU both are timed, once.

    >>> chosen_dtype("float32", torch.device("cpu"))
    torch.float32
    """
    if requested != "bfloat16":
        return torch.float32
    fast = bfloat16_is_faster() if device.type == "cpu" else True
    return torch.bfloat16 if fast else torch.float32


@lru_cache(maxsize=1)
def bfloat16_is_faster() -> bool:
    """Return whether this processor multiplies bfloat16 matrices faster than float32 ones."""
    return _seconds(torch.bfloat16) < _seconds(torch.float32)


def _seconds(dtype: torch.dtype) -> float:
    """Return the shortest time of a few products of two small matrices."""
    matrix = torch.ones(_SIZE, _SIZE, dtype=dtype)
    times = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        torch.mm(matrix, matrix)
        times.append(time.perf_counter() - started)
    return min(times)
