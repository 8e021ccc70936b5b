"""Choose the device a model runs on, and say why it was chosen.

Nothing is allocated here. What a device has free is in :mod:`tracer.model.memory`.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import torch

from tracer.errors import ModelError
from tracer.files import format_bytes
from tracer.model.failures import as_tracer_errors
from tracer.model.memory import free_and_total_bytes

DEVICE_VARIABLE: Final = "CIRCUIT_DEVICE"
"""Environment variable that replaces the automatic choice."""


@dataclass(frozen=True)
class DeviceChoice:
    """A device with the reason it was chosen."""

    device: torch.device
    """With its index, except for the CPU and MPS."""
    reason: str
    """``requested``, ``CIRCUIT_DEVICE``, or ``auto: …``."""
    name: str
    """Product name of an accelerator; the number of threads of the CPU."""
    memory_bytes: int | None
    """Total memory of an accelerator; None for the CPU."""

    @property
    def label(self) -> str:
        """Device and product in one word group, for a graph's provenance."""
        return "cpu" if self.device.type == "cpu" else f"{self.device} {self.name}"

    def describe(self, dtype: torch.dtype) -> str:
        """Return device, product, memory, data type and reason in one line.

        >>> choice = DeviceChoice(torch.device("cpu"), "requested", "2 threads", None)
        >>> choice.describe(torch.float32)
        'cpu, 2 threads; float32 (requested)'
        """
        parts = [str(self.device), self.name]
        if self.memory_bytes is not None:
            parts.append(format_bytes(self.memory_bytes))
        return f"{', '.join(parts)}; {str(dtype).removeprefix('torch.')} ({self.reason})"


def choose_device(name: str | None = None) -> DeviceChoice:
    """Choose the device called ``name``: ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    None or ``auto`` takes the device named by the environment variable ``CIRCUIT_DEVICE``. If that
    is unset, it takes the CUDA device with the most free memory, else MPS, else the CPU.

    Raises :class:`ModelError` if this machine does not have the device.

    >>> choice = choose_device("cpu")
    >>> choice.device, choice.reason
    (device(type='cpu'), 'requested')
    """
    if name is not None and name != "auto":
        return _described(_device_named(name, f"device {name!r}"), "requested")
    variable = os.environ.get(DEVICE_VARIABLE, "").strip()
    if variable and variable != "auto":
        device = _device_named(variable, f"{DEVICE_VARIABLE} {variable!r}")
        return _described(device, DEVICE_VARIABLE)
    gpus = _usable_gpus()
    if gpus:
        freest = max(gpus, key=lambda index: (gpus[index], -index))
        detail = f", most free memory of {len(gpus)} GPUs" if len(gpus) > 1 else ""
        return _described(torch.device("cuda", freest), f"auto: CUDA is available{detail}")
    if torch.backends.mps.is_available():
        return _described(torch.device("mps"), "auto: MPS is available, CUDA is not")
    return _described(torch.device("cpu"), "auto: neither CUDA nor MPS is available")


def _usable_gpus() -> dict[int, int]:
    """Free bytes by index of the CUDA devices that answer.

    A GPU in exclusive use by another process does not; it must not keep the others from being
    used.
    """
    if not torch.cuda.is_available():
        return {}
    if torch.cuda.device_count() == 1:
        return {0: 0}  # nothing to compare, so no context has to be created here
    free = {}
    for index in range(torch.cuda.device_count()):
        device = torch.device("cuda", index)
        with suppress(RuntimeError), as_tracer_errors("its memory was read", device):
            free[index] = free_and_total_bytes(device)[0]
    return free


def _device_named(name: str, shown: str) -> torch.device:
    """Return the device of that name, with an explicit index for CUDA."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise _unavailable(shown) from None
    if device.type == "cuda" and torch.cuda.is_available():
        index = torch.cuda.current_device() if device.index is None else device.index
        if index < torch.cuda.device_count():
            return torch.device("cuda", index)
    if device.type == "mps" and not device.index and torch.backends.mps.is_available():
        return torch.device("mps")
    if device.type == "cpu" and not device.index:
        return torch.device("cpu")
    raise _unavailable(shown)


def _unavailable(shown: str) -> ModelError:
    present = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        present.append("mps")
    return ModelError(
        f"{shown} is not available on this machine: expected one of auto, {', '.join(present)}"
    )


def _described(device: torch.device, reason: str) -> DeviceChoice:
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return DeviceChoice(device, reason, str(properties.name), int(properties.total_memory))
    if device.type == "mps":
        total = torch.mps.recommended_max_memory()
        return DeviceChoice(device, reason, torch.backends.mps.get_name(), total)
    threads = torch.get_num_threads()
    count = "1 thread" if threads == 1 else f"{threads} threads"
    return DeviceChoice(device, reason, count, None)
