"""Copies from an accelerator to the CPU that run while the accelerator continues to compute."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

import torch
from jaxtyping import Int
from torch import Tensor

_BUFFERS: Final = 2
"""One is filled while the other is emptied."""


class HostCopies:
    """Moves arrays of 32-bit words to the CPU through a few page-locked buffers.

    Page-locked memory is what a GPU can write to on its own. There is little of it, so an array is
    moved on to ordinary memory as soon as it has arrived.
    """

    def __init__(self) -> None:
        self._buffers: list[Tensor] = []
        self._pending: deque[tuple[Any, Tensor, int, Callable[[Tensor], None]]] = deque()

    def start(self, words: Int[Tensor, " words"], arrive: Callable[[Tensor], None]) -> None:
        """Begin to copy ``words``. ``arrive`` gets the copy before :meth:`finish` returns."""
        while len(self._pending) >= _BUFFERS:
            self._finish_one()
        buffer = self._buffers.pop() if self._buffers else page_locked(0)
        if len(buffer) < len(words):
            buffer = page_locked(len(words))
        buffer[: len(words)].copy_(words, non_blocking=True)
        self._pending.append((recorded_event(words.device), buffer, len(words), arrive))

    def finish(self) -> None:
        """Wait for all copies that were started."""
        while self._pending:
            self._finish_one()

    def _finish_one(self) -> None:
        event, buffer, length, arrive = self._pending.popleft()
        event.synchronize()
        self._buffers.append(buffer)
        arrive(buffer[:length].clone())


def page_locked(length: int) -> Int[Tensor, " length"]:
    """Allocate so many 32-bit words in page-locked memory."""
    return torch.empty(length, dtype=torch.int32, pin_memory=True)


def recorded_event(device: torch.device) -> Any:
    """Return an event that is reached when ``device`` has done all it was given so far.

    The device is often not the current one: the freest of several GPUs was chosen.
    """
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    return event
