"""Fake models and a fake engine, which answers at once or when a test lets it."""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from small_graphs import make_graph

from cache import Device, InterveneRequest, Machine, ModelChoice, ScenarioRequest, TraceRequest
from tracer.catalog.resolve import ModelSource
from tracer.errors import EmptyPromptError, ModelError, TargetError
from tracer.graph.graph import AttributionGraph
from tracer.interventions.run import Outcome, ScenarioRun
from tracer.interventions.scenario import Scenario
from tracer.types import Progress

BATCHES = 4


def until(condition: Callable[[], bool]) -> None:
    """Wait up to ten seconds for another thread."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it did not happen within 10 seconds"
        time.sleep(0.005)


@dataclass(frozen=True)
class FakeModel:
    source: ModelSource
    device: str = "cpu"

    def encode(self, prompt: str) -> tuple[int, ...]:
        words = prompt.split()
        if not words:
            raise EmptyPromptError("the prompt is empty: write a sentence")
        return (1, *(zlib.crc32(word.encode()) % 1000 for word in words))

    def token_id(self, text: str) -> int:
        if " " in text.strip():
            raise TargetError(f"{text!r} is not one token")
        return zlib.crc32(text.encode()) % 1000


@dataclass(frozen=True)
class FakeResult:
    """The part of an intervention's result that the backend uses."""

    request: InterveneRequest
    baseline_logits: np.ndarray = field(default_factory=lambda: np.zeros(3, np.float32))
    edited_logits: np.ndarray = field(default_factory=lambda: np.zeros(3, np.float32))


class FakeFolders:
    """Replaces `tracer.catalog.resolve.resolve`; a test may change a fingerprint."""

    def __init__(self) -> None:
        self.fingerprints: dict[str, str] = {}

    def __call__(self, model: str, transcoders: str | None = None) -> ModelSource:
        if model == "missing":
            raise ModelError("no model at 'missing': expected 'atlas' or a folder")
        fingerprint = self.fingerprints.get(model, f"{model}/{transcoders}")
        return ModelSource(model, transcoders or "", Path(model), Path(model), fingerprint)


class Gate:
    """Blocks the engine inside a batch until the test opens it."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._open = threading.Event()

    def stop_here(self, prompt: str, batch: int) -> None:
        self._reached.set()
        if not self._open.wait(10):
            raise TimeoutError("the test never opened the gate")

    def open(self) -> None:
        self._open.set()

    def wait_until_reached(self) -> None:
        assert self._reached.wait(10), "the engine never started a batch"


class FakeEngine:
    """Records every call and its thread; ``on_batch`` runs within each batch."""

    def __init__(self, folders: FakeFolders) -> None:
        self.folders = folders
        self.on_batch: Callable[[str, int], None] = lambda prompt, batch: None
        self.loads: list[str] = []
        self.choices: list[ModelChoice] = []
        self.freed = 0
        self.device_name = "auto"
        self.existing = {"auto", "cpu", "cuda:1"}
        self.look: Callable[[], Machine] = lambda: Machine(64, 32, 16, "fake")
        self.batches: list[tuple[str, int]] = []
        self.traced: list[str] = []
        self.intervened: list[str] = []
        self.ran: list[tuple[Scenario, ...]] = []
        self.threads: set[int] = set()
        self.starts = 0
        self._gates: list[Gate] = []

    def hold(self) -> Gate:
        """Block every batch until the test opens the gate."""
        gate = Gate()
        self._gates.append(gate)
        self.on_batch = gate.stop_here
        return gate

    def let_go(self) -> None:
        for gate in self._gates:
            gate.open()

    def start(self) -> None:
        self.starts += 1

    def use_device(self, name: str) -> None:
        self.device_name = name

    def describe_device(self, dtype: str) -> str:
        return f"{self.device_name}; {dtype} (because)"

    def check_device(self, name: str) -> None:
        if name not in self.existing:
            raise ModelError(f"device {name!r} does not exist")

    def devices(self) -> tuple[Device, ...]:
        return tuple(Device(name) for name in sorted(self.existing))

    def load(self, choice: ModelChoice, progress: Progress) -> FakeModel:
        self.threads.add(threading.get_ident())
        self.loads.append(choice.model)
        self.choices.append(choice)
        device = "cpu" if self.device_name == "auto" else self.device_name
        return FakeModel(self.folders(choice.model, choice.transcoders), device)

    def trace(
        self, model: FakeModel, request: TraceRequest, progress: Progress
    ) -> AttributionGraph:
        self.threads.add(threading.get_ident())
        self.traced.append(request.prompt)
        for batch in range(BATCHES):
            progress(batch, BATCHES, "tracing")
            self.on_batch(request.prompt, batch)
            self.batches.append((request.prompt, batch))
        return make_graph(request.prompt, model.encode(request.prompt))

    def intervene(
        self, model: FakeModel, request: InterveneRequest, progress: Progress
    ) -> FakeResult:
        self.threads.add(threading.get_ident())
        self.intervened.append(request.prompt)
        return FakeResult(request)

    def scenarios(
        self, model: FakeModel, request: ScenarioRequest, progress: Progress
    ) -> ScenarioRun:
        self.threads.add(threading.get_ident())
        self.ran.append(request.scenarios)
        tokens = model.encode(request.prompt)
        progress(0, 1, "scenarios")
        outcome = Outcome("baseline", (), np.zeros(3, np.float32))
        return ScenarioRun(request.prompt, tokens, outcome, (outcome,) * len(request.scenarios))

    def machine(self) -> Machine:
        return self.look()

    def free_memory(self) -> None:
        self.freed += 1
