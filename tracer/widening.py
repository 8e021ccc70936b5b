"""Weights held in bfloat16, a forward pass in float32: each part widens its own while it runs.

Half the memory of a float32 model, and none of the rounding of a bfloat16 forward pass: bfloat16
converts to float32 without loss, so the pass is exactly that of the same weights in float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn


class _Widened:
    """The two hooks of one part: parameters in float32 before it runs, as they were after."""

    def __init__(self, module: nn.Module) -> None:
        self._narrow: list[tuple[Tensor, Tensor]] = []
        module.register_forward_pre_hook(self._widen)
        module.register_forward_hook(self._restore, always_call=True)

    def _widen(self, module: nn.Module, inputs: Any) -> None:
        for held in _held(module):
            if held.dtype == torch.bfloat16:
                self._narrow.append((held, held.data))
                held.data = held.data.float()

    def _restore(self, module: nn.Module, inputs: Any, output: Any) -> None:
        for held, narrow in self._narrow:
            held.data = narrow
        self._narrow.clear()


def _held(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def widen_while_running(parts: Iterable[nn.Module]) -> None:
    """Make every part compute in float32 when its parameters are bfloat16.

    A part is as much as is widened at once: a block, not the whole model.
    """
    for part in parts:
        if any(held.dtype == torch.bfloat16 for held in _held(part)):
            _Widened(part)
