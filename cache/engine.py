"""What the worker runs: `tracer`, or a stand-in in tests.

Every method is called from the worker's thread only. `TracerEngine` imports torch inside its
methods, so that a process that finds all its answers in the store never pays for it.
"""

from __future__ import annotations

import gc
import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, TypeVar

from cache.machine import Device, Gpu, Machine, looked_at
from cache.request import (
    TRACE_OPTIONS,
    InterveneRequest,
    ModelChoice,
    ScenarioRequest,
    TraceRequest,
)
from tracer.catalog.resolve import ModelSource
from tracer.files import format_bytes
from tracer.graph.graph import AttributionGraph
from tracer.types import Progress

if TYPE_CHECKING:
    from tracer.interventions.run import InterventionResult, ScenarioRun
    from tracer.model.model import Model


class OpenModel(Protocol):
    """The little that the backend itself needs of an open model."""

    @property
    def source(self) -> ModelSource: ...

    @property
    def device(self) -> object: ...

    def encode(self, prompt: str) -> tuple[int, ...]: ...

    def token_id(self, text: str) -> int: ...


M = TypeVar("M", bound=OpenModel)


class Engine(Protocol[M]):
    """Opens models and runs them, one call at a time, always from the same thread."""

    def start(self) -> None:
        """Prepare the calling thread, once."""

    def load(self, choice: ModelChoice, progress: Progress) -> M:
        """Open a model; raises ``ModelError`` or ``TranscoderError``."""

    def trace(self, model: M, request: TraceRequest, progress: Progress) -> AttributionGraph:
        """Trace a prompt, calling ``progress`` at least once a batch."""

    def intervene(self, model: M, request: InterveneRequest) -> InterventionResult:
        """Run a prompt with and without the edits."""

    def scenarios(self, model: M, request: ScenarioRequest, progress: Progress) -> ScenarioRun:
        """Run a prompt under several scenarios, each failing alone."""

    def free_memory(self) -> None:
        """Give back what dropped models and failed work held."""

    def machine(self) -> Machine:
        """What this machine has; may be called from any thread."""

    @property
    def device_name(self) -> str:
        """The device that models are opened on, or ``auto``."""

    def devices(self) -> tuple[Device, ...]:
        """Return the devices of this machine, ``auto`` first; may be called from any thread."""

    def set_device(self, name: str) -> None:
        """Open models on another device from now on; raises ``ModelError`` if it is not here."""


class TracerEngine:
    """The real engine, on the device that ``tracer.load`` calls ``device``."""

    def __init__(self, device: str = "auto") -> None:
        self._device = device

    def start(self) -> None:
        """Import torch, and set its thread count: that holds for the calling thread."""
        import torch

        torch.set_num_threads(usable_cores())

    def load(self, choice: ModelChoice, progress: Progress) -> Model:
        import tracer

        return tracer.load(
            choice.model, choice.transcoders, self._device, choice.dtype, progress=progress
        )

    def trace(self, model: Model, request: TraceRequest, progress: Progress) -> AttributionGraph:
        import tracer

        return tracer.trace(
            model,
            request.prompt,
            targets=request.targets,
            max_features=request.max_features,
            progress=progress,
            **TRACE_OPTIONS,
        )

    def intervene(self, model: Model, request: InterveneRequest) -> InterventionResult:
        import tracer

        return tracer.intervene(
            model,
            request.prompt,
            list(request.interventions),
            freeze_attention=request.freeze_attention,
        )

    def scenarios(self, model: Model, request: ScenarioRequest, progress: Progress) -> ScenarioRun:
        import tracer

        return tracer.run_scenarios(
            model,
            request.prompt,
            request.scenarios,
            generate=request.generate,
            watch=request.watch,
            temperature=request.temperature,
            seed=request.seed,
            progress=progress,
        )

    def machine(self) -> Machine:
        import torch

        from tracer.model.model import chosen_device

        device = chosen_device(self._device)
        found = looked_at()
        if device.type != "cuda":
            return replace(found, device=str(device))
        free, total = torch.cuda.mem_get_info(device)
        name = torch.cuda.get_device_name(device)
        return replace(found, device=str(device), gpu=Gpu(name, total, free))

    @property
    def device_name(self) -> str:
        return self._device

    def devices(self) -> tuple[Device, ...]:
        import torch

        from tracer.model.model import chosen_device

        chosen = chosen_device("auto")
        reasons = {
            "cuda": "CUDA is available",
            "mps": "MPS is available and CUDA is not",
            "cpu": "neither CUDA nor MPS is available",
        }
        found = [Device("auto", str(chosen), reasons[chosen.type])]
        found.append(Device("cpu", f"{usable_cores()} cores"))
        for number in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(number)
            size = format_bytes(int(properties.total_memory))
            found.append(Device(f"cuda:{number}", f"{properties.name}, {size}"))
        if torch.backends.mps.is_available():
            found.append(Device("mps", "Apple GPU"))
        return tuple(found)

    def set_device(self, name: str) -> None:
        from tracer.model.model import chosen_device

        chosen_device(name)
        self._device = name

    def free_memory(self) -> None:
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()


def usable_cores() -> int:
    """Cores this process may run on; fewer than the machine has under `taskset` or a cpuset."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
