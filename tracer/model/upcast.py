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
    """The two hooks of one part: parameters in float32 before it runs, as they were after.

    ``wide`` is memory that parts of one shape share, since only one of them runs at a time; fresh
    memory for every block would take longer to get than to fill.
    """

    def __init__(self, part: nn.Module, wide: dict[str, Tensor] | None) -> None:
        self._narrow: list[tuple[Tensor, Tensor]] = []
        self._wide = wide
        part.register_forward_pre_hook(self._widen)
        part.register_forward_hook(self._restore, always_call=True)

    def _widen(self, part: nn.Module, inputs: Any) -> None:
        for name, held in _held(part):
            if held.dtype == torch.bfloat16:
                self._narrow.append((held, held.data))
                held.data = self._widened(name, held.data)

    def _widened(self, name: str, narrow: Tensor) -> Tensor:
        if self._wide is None:
            return narrow.float()
        wide = self._wide.get(name)
        if wide is None or wide.shape != narrow.shape or wide.device != narrow.device:
            wide = self._wide[name] = torch.empty_like(narrow, dtype=torch.float32)
        return wide.copy_(narrow)

    def _restore(self, part: nn.Module, inputs: Any, output: Any) -> None:
        for held, narrow in self._narrow:
            held.data = narrow
        self._narrow.clear()


def _held(part: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from part.named_parameters()
    yield from part.named_buffers()


def widen_while_running(blocks: Iterable[nn.Module], others: Iterable[nn.Module]) -> None:
    """Make every part of a model compute in float32 when its parameters are bfloat16.

    A part is as much as is widened at once: a block or an embedding, not the whole model.
    """
    shared: dict[str, Tensor] = {}
    for parts, wide in ((blocks, shared), (others, None)):
        for part in parts:
            if any(held.dtype == torch.bfloat16 for _, held in _held(part)):
                _Widened(part, wide)
