"""Turn failures of the machine, which the library does not raise itself, into one line.

Light commands do not import torch, so its exceptions are recognised by name and message.
"""

from __future__ import annotations

from typing import Final

from tracer.errors import one_line

_OUT_OF_MEMORY: Final = ("out of memory", "can't allocate memory", "not enough memory")
"""How CUDA and MPS, and the CPU allocator on Linux and Windows, report that memory ran out."""
_DEVICE_FAILED: Final = ("cuda error", "cublas", "cudnn", "hip error", "mps backend", "nvrtc")


def failure_message(error: MemoryError | RuntimeError) -> str | None:
    """Return what happened and what to do; None for an error that is a bug of ours.

    >>> failure_message(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."))[:51]
    'out of memory (CUDA out of memory. Tried to allocat'
    >>> failure_message(RuntimeError("shapes differ")) is None
    True
    """
    text = str(error).lower()
    name = type(error).__name__
    if (
        isinstance(error, MemoryError)
        or name == "OutOfMemoryError"
        or _contains(text, _OUT_OF_MEMORY)
    ):
        return (
            f"out of memory ({one_line(error) or name}): use --dtype bfloat16, a shorter prompt, "
            "fewer features or a smaller model, or --device cpu"
        )
    if name == "AcceleratorError" or _contains(text, _DEVICE_FAILED):
        return f"the device failed ({one_line(error)}): run the command again, or use --device cpu"
    return None


def _contains(text: str, phrases: tuple[str, ...]) -> bool:
    return any(phrase in text for phrase in phrases)
