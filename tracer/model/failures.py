"""Turn failures of a device into errors of this library, without keeping its memory.

PyTorch reports an exhausted or broken device as a ``RuntimeError`` whose traceback holds every
frame of the failed computation, and with them its tensors. The entry points of the library, and
whoever else runs models, wrap their work in :class:`as_tracer_errors`.
"""

from __future__ import annotations

import traceback
from contextlib import ContextDecorator
from types import TracebackType
from typing import Final

import torch
from torch import Tensor

from tracer.errors import DeviceLostError, MemoryLimitError, TracerError, one_line
from tracer.files import format_bytes
from tracer.model.memory import free_and_total_bytes, release_cached_memory

_HOST_OUT_OF_MEMORY: Final = ("can't allocate memory", "not enough memory")
"""Phrases of the CPU's allocator, the second on Windows."""
_OUT_OF_MEMORY: Final = ("out of memory", "alloc_failed", *_HOST_OUT_OF_MEMORY)
"""Phrases of CUDA and MPS, of cuBLAS, and of the CPU."""
_LOST: Final = (
    "device-side assert",
    "illegal memory access",
    "unspecified launch failure",
    "illegal instruction",
    "misaligned address",
    "uncorrectable ecc error",
    "launch timed out",
)
"""Phrases of CUDA errors after which every later call of the process fails as well."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory could not be allocated, on any device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and _says(error, _OUT_OF_MEMORY)


def is_device_lost(error: BaseException) -> bool:
    """Whether ``error`` is one after which CUDA refuses all further work of this process."""
    return isinstance(error, RuntimeError) and _says(error, _LOST)


def _says(error: BaseException, phrases: tuple[str, ...]) -> bool:
    text = str(error).lower()
    return any(phrase in text for phrase in phrases)


class as_tracer_errors(ContextDecorator):
    """A context manager, or decorator, that names what failed when a device fails.

    An allocation that fails becomes a :class:`MemoryLimitError` with the device, ``what`` was being
    done, the free and total memory, and ``advice``. A CUDA error that outlives the call becomes a
    :class:`DeviceLostError`. All other exceptions pass unchanged.

    The memory of the failed work is released: the frames of the original exception are cleared, so
    keeping the new one keeps no tensor.

    >>> with as_tracer_errors("tracing 9 tokens", torch.device("cpu")):
    ...     raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")
    Traceback (most recent call last):
    tracer.errors.MemoryLimitError: cpu ran out of memory while tracing 9 tokens (...
    """

    def __init__(
        self,
        what: str,
        device: torch.device,
        advice: str = "use a smaller model or data type, or close other programs that use it",
    ) -> None:
        self._what, self._device, self._advice = what, device, advice

    def __enter__(self) -> None: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None or isinstance(error, TracerError):
            return
        if is_device_lost(error):
            failure: TracerError = DeviceLostError(
                f"{self._device} stopped working while {self._what} ({one_line(error)}): restart "
                "the process, no later work on this device can succeed"
            )
        elif is_out_of_memory(error):
            # The host can run out of memory, too, while it works for an accelerator.
            on_host = isinstance(error, MemoryError) or _says(error, _HOST_OUT_OF_MEMORY)
            device = torch.device("cpu") if on_host else self._device
            failure = MemoryLimitError(
                f"{device} ran out of memory while {self._what}{_numbers(device)}: {self._advice}"
            )
        else:
            return
        forget_frames(error)
        del error, trace
        if not isinstance(failure, DeviceLostError):
            release_cached_memory(self._device)
        raise failure from None


def _numbers(device: torch.device) -> str:
    try:
        free, total = free_and_total_bytes(device)
    except RuntimeError:  # the failure that is being reported is the one that matters
        return ""
    return f" ({format_bytes(free)} of {format_bytes(total)} are free)"


def forget_frames(error: BaseException) -> None:
    """Clear the frames that ``error``, and those it came from, keep alive with their tensors."""
    pending: list[BaseException | None] = [error]
    while pending:
        cause = pending.pop()
        if cause is not None and cause.__traceback__ is not None:
            traceback.clear_frames(cause.__traceback__)
            cause.__traceback__ = None
            pending += [cause.__cause__, cause.__context__]


def to_device(data: Tensor, device: torch.device) -> Tensor:
    """Return offloaded weights on their device again.

    Raises :class:`MemoryLimitError` if they do not fit, even after unused memory is released.
    """
    for _ in range(2):
        try:
            return data.to(device)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        release_cached_memory(device)
    raise MemoryLimitError(
        f"the offloaded weights no longer fit on {device} "
        f"({format_bytes(data.nbytes)} could not be allocated) and remain on the CPU: close "
        "other programs that use the device, then try again"
    )
