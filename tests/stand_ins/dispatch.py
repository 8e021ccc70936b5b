"""Watch every operation that PyTorch dispatches, to test what hardware at hand would not show."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Operations(TorchDispatchMode):
    """Calls :meth:`saw` with the name and the result of every operation in its block."""

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        result = function(*arguments, **(options or {}))
        self.saw(function._overloadpacket.__name__, result)
        return result

    def saw(self, name: str, result: Any) -> None:
        """To be overridden."""


class Float64Refused(Operations):
    """Fails at any operation that returns a float64 tensor, as Apple GPUs do."""

    def saw(self, name: str, result: Any) -> None:
        if isinstance(result, torch.Tensor) and result.dtype == torch.float64:
            raise TypeError(f"{name} returned a float64 tensor")


class Reads(Operations):
    """Counts the reads of single numbers, each of which waits for the device.

    They are behind ``float(x)``, ``int(x)``, ``bool(x)`` and comparisons of tensors.
    """

    count = 0

    def saw(self, name: str, result: Any) -> None:
        self.count += name in ("_local_scalar_dense", "is_nonzero", "equal")


class Shapes(Operations):
    """Collects the shapes of all results."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[int, ...]] = set()

    def saw(self, name: str, result: Any) -> None:
        if isinstance(result, torch.Tensor):
            self.seen.add(tuple(result.shape))
