"""What the worker runs: `tracer`, or a stand-in in tests.

`TracerEngine` imports torch inside its methods, so that a process that finds all its answers in
the store never pays for it.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from cache.machine import Device, Gpu, Machine, measured
from cache.request import (
    TRACE_OPTIONS,
    InterveneRequest,
    ModelChoice,
    ScenarioRequest,
    TraceRequest,
)
from tracer.catalog.resolve import ModelSource
from tracer.errors import ModelError
from tracer.files import format_bytes
from tracer.graph.graph import AttributionGraph
from tracer.types import Progress

if TYPE_CHECKING:
    from tracer.interventions.run import InterventionResult, ScenarioRun
    from tracer.model.model import Model

AUTO: Final = "auto"

# OpenMP reads this once, when torch is imported. By default its threads spin while they wait for
# each other. When the machine is busy with anything else, a thread that has no core is waited for
# by one that burns its own, and a question that takes 50 ms takes seconds.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


class OpenModel(Protocol):
    """The part of an open model that the backend itself uses."""

    @property
    def source(self) -> ModelSource: ...

    @property
    def device(self) -> object: ...

    def encode(self, prompt: str) -> tuple[int, ...]: ...

    def token_id(self, text: str) -> int: ...


M = TypeVar("M", bound=OpenModel)


class Engine(Protocol[M]):
    """Opens models and runs them, one call at a time, always from the worker's thread.

    Only the methods of the last group may be called from any thread.
    """

    def start(self) -> None:
        """Prepare the calling thread, once."""

    def use_device(self, name: str) -> None:
        """Open models on this device from now on."""

    def describe_device(self, dtype: str) -> str:
        """Return what models run on and why; raises ``ModelError`` if the device is missing."""

    def load(self, choice: ModelChoice, progress: Progress) -> M:
        """Open a model; raises ``ModelError`` or ``TranscoderError``."""

    def trace(self, model: M, request: TraceRequest, progress: Progress) -> AttributionGraph:
        """Trace a prompt, calling ``progress`` at least once a batch."""

    def intervene(
        self, model: M, request: InterveneRequest, progress: Progress
    ) -> InterventionResult:
        """Run a prompt with and without the edits."""

    def scenarios(self, model: M, request: ScenarioRequest, progress: Progress) -> ScenarioRun:
        """Run a prompt under several scenarios; each may fail alone."""

    def free_memory(self) -> None:
        """Give back the memory of dropped models and failed work."""

    # From any thread

    @property
    def device_name(self) -> str:
        """The device as it was asked for: ``auto``, ``cpu``, ``cuda:1`` …"""

    def check_device(self, name: str) -> None:
        """Raise ``ModelError`` if this machine does not have the device."""

    def devices(self) -> tuple[Device, ...]:
        """Return the devices of this machine, ``auto`` first."""

    def machine(self) -> Machine:
        """Measure this machine."""


class TracerEngine:
    """The real engine, on the device called ``device`` (see
    :func:`tracer.model.device.choose_device`).

    ``threads`` is how many CPU cores it uses; None for all that it may use. Another number can
    change the last bits of a graph.
    """

    def __init__(self, device: str | None = None, threads: int | None = None) -> None:
        self._device_name = device or AUTO
        self._threads = threads

    @property
    def device_name(self) -> str:
        return self._device_name

    def start(self) -> None:
        """Import torch and set its thread count, which applies to the calling thread."""
        import torch

        torch.set_num_threads(self._threads or usable_cores())

    def use_device(self, name: str) -> None:
        self._device_name = name

    def describe_device(self, dtype: str) -> str:
        from tracer.model.device import choose_device
        from tracer.model.model import DTYPES

        return choose_device(self._device_name).describe(DTYPES[dtype])

    def load(self, choice: ModelChoice, progress: Progress) -> Model:
        import tracer

        model = tracer.load(
            choice.model, choice.transcoders, self._device_name, choice.dtype, progress=progress
        )
        collect_once()
        return model

    def trace(self, model: Model, request: TraceRequest, progress: Progress) -> AttributionGraph:
        import tracer

        with checked_forward(lambda: progress(0, 0, "running the model")):
            return tracer.trace(
                model,
                request.prompt,
                targets=request.targets,
                max_features=request.max_features,
                force=request.force,
                progress=progress,
                **{**TRACE_OPTIONS, "logit_mass": request.logit_mass},
            )

    def intervene(
        self, model: Model, request: InterveneRequest, progress: Progress
    ) -> InterventionResult:
        import tracer

        with checked_forward(lambda: progress(0, 1, "running the model")):
            return tracer.intervene(
                model,
                request.prompt,
                list(request.interventions),
                freeze_attention=request.freeze_attention,
                progress=progress,
            )

    def scenarios(self, model: Model, request: ScenarioRequest, progress: Progress) -> ScenarioRun:
        import tracer

        last = (0, 0, "scenarios")

        def report(done: int, total: int, what: str) -> None:
            nonlocal last
            last = (done, total, what)
            progress(done, total, what)

        with checked_forward(lambda: progress(*last)):
            return tracer.run_scenarios(
                model,
                request.prompt,
                request.scenarios,
                generate=request.generate,
                watch=request.watch,
                temperature=request.temperature,
                seed=request.seed,
                progress=report,
            )

    def free_memory(self) -> None:
        collect_once(again=True)
        torch = sys.modules.get("torch")
        if torch is None:
            return
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if torch.backends.mps.is_available():
            torch.mps.empty_cache()

    def check_device(self, name: str) -> None:
        from tracer.model.device import choose_device

        choose_device(name)

    def devices(self) -> tuple[Device, ...]:
        import torch

        from tracer.model.device import choose_device

        try:
            choice = choose_device(AUTO)
            devices = [Device(AUTO, str(choice.device), choice.reason)]
        except ModelError as error:  # CIRCUIT_DEVICE names a device that is not here
            devices = [Device(AUTO, reason=str(error))]
        devices.append(Device("cpu", f"{usable_cores()} cores"))
        for number in range(torch.cuda.device_count()):
            size = format_bytes(int(torch.cuda.get_device_properties(number).total_memory))
            name = torch.cuda.get_device_name(number)
            devices.append(Device(f"cuda:{number}", f"{name}, {size}"))
        if torch.backends.mps.is_available():
            devices.append(Device("mps", "Apple GPU"))
        return tuple(devices)

    def machine(self) -> Machine:
        import torch

        from tracer.model.device import choose_device

        choice = choose_device(self._device_name)
        machine = replace(measured(), device=str(choice.device))
        if choice.device.type != "cuda":
            return machine
        free, total = torch.cuda.mem_get_info(choice.device)
        return replace(machine, gpu=Gpu(choice.name, total, free))


def collect_once(again: bool = False) -> None:
    """Collect garbage, and exempt what is alive from later collections.

    Streamlit collects after every run of a script. With torch imported and a model open that is
    most of the time of a click, and no other thread runs meanwhile. Reference counts free exempted
    objects as before; those in cycles wait for a call with ``again``, which looks at all objects
    and follows every dropped model.
    """
    if again:
        gc.unfreeze()
    gc.collect()
    gc.freeze()


@contextmanager
def checked_forward(check: Callable[[], None]) -> Iterator[None]:
    """Call ``check`` before every part of a model that this thread runs.

    If it raises, the forward pass ends there: a cancel takes effect between two layers.
    """
    from torch.nn.modules.module import register_module_forward_pre_hook

    thread = threading.get_ident()

    def before(module: object, inputs: object) -> None:
        if threading.get_ident() == thread:
            check()

    handle = register_module_forward_pre_hook(before)
    try:
        yield
    finally:
        handle.remove()


def usable_cores() -> int:
    """Return how many cores this process may use; `taskset` and cpusets make that fewer."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
