"""Weights stored in bfloat16, a forward pass in float32: each part upcasts its own while it runs.

This takes half the memory of a float32 model and has none of the rounding of a bfloat16 forward
pass. bfloat16 converts to float32 without loss, so the pass is exactly that of the same weights in
float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn


class Upcast:
    """Makes the parts of a model compute in float32 while it is ``enabled``.

    A part is what is upcast at once: a block or an embedding, not the complete model. Parts without
    bfloat16 weights are left alone.
    """

    def __init__(self, blocks: Iterable[nn.Module], others: Iterable[nn.Module]) -> None:
        self.enabled = True
        # Only one block runs at a time, and blocks have the same shapes: one buffer serves them
        # all. Allocating it anew for every block would take longer than filling it.
        buffers: dict[str, Tensor] = {}
        for parts, shared in ((blocks, buffers), (others, None)):
            for part in parts:
                if any(weight.dtype == torch.bfloat16 for _, weight in _weights(part)):
                    _UpcastPart(self, part, shared)


class _UpcastPart:
    """The two hooks of one part: weights in float32 before it runs, as they were after it."""

    def __init__(self, owner: Upcast, part: nn.Module, buffers: dict[str, Tensor] | None) -> None:
        self._owner, self._buffers = owner, buffers
        self._stored: list[tuple[Tensor, Tensor]] = []
        part.register_forward_pre_hook(self._upcast)
        part.register_forward_hook(self._restore, always_call=True)

    def _upcast(self, part: nn.Module, inputs: Any) -> None:
        if not self._owner.enabled:
            return
        for name, weight in _weights(part):
            if weight.dtype == torch.bfloat16:
                self._stored.append((weight, weight.data))
                weight.data = self._in_float32(name, weight.data)

    def _in_float32(self, name: str, stored: Tensor) -> Tensor:
        if self._buffers is None:
            return stored.float()
        buffer = self._buffers.get(name)
        if buffer is None or buffer.shape != stored.shape or buffer.device != stored.device:
            buffer = self._buffers[name] = torch.empty_like(stored, dtype=torch.float32)
        return buffer.copy_(stored)

    def _restore(self, part: nn.Module, inputs: Any, output: Any) -> None:
        for weight, stored in self._stored:
            weight.data = stored
        self._stored.clear()


def _weights(part: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from part.named_parameters()
    yield from part.named_buffers()
