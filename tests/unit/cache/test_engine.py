"""The real engine on a small random model: `tracer` behaves as the fakes do."""

from __future__ import annotations

import dataclasses
import gc
import inspect
import os
import re
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny

import tracer
from cache import Backend, InterveneRequest, ModelChoice, TraceRequest
from cache.engine import TracerEngine, collect_once
from cache.request import TRACE_OPTIONS, identity
from cache.store import Store
from cache.worker import Worker
from tracer.catalog.resolve import resolve
from tracer.errors import (
    Cancelled,
    EmptyPromptError,
    PromptTooLongError,
    UnknownTokenError,
)
from tracer.model.model import Model
from tracer.types import Intervention, Progress


def silent(done: int, total: int, what: str) -> None:
    """Ignore progress."""


@pytest.fixture(scope="module")
def choice(tmp_path_factory: pytest.TempPathFactory) -> ModelChoice:
    folder = tmp_path_factory.mktemp("small")
    model = tiny.save_model(folder / "model")
    transcoders = tiny.save_transcoders(folder / "set")
    return ModelChoice(str(model), str(transcoders))


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    backend = Backend(Store(tmp_path_factory.mktemp("store")), TracerEngine("cpu"))
    yield backend
    backend.close(10)


def test_the_backend_returns_the_graph_that_tracer_computes(
    backend: Backend, choice: ModelChoice
) -> None:
    job = backend.trace(TraceRequest(tiny.PROMPT, choice))
    graph = job.result(120)
    direct = tracer.trace(tracer.load(choice.model, choice.transcoders, "cpu"), tiny.PROMPT)
    np.testing.assert_array_equal(graph.features, direct.features)
    np.testing.assert_allclose(graph.weights, direct.weights, atol=1e-5)
    assert graph.provenance == direct.provenance
    done, total, what = job.progress
    assert done == total == graph.n_active_features + len(graph.targets)
    assert what == "direct effects"


def test_the_store_returns_the_computed_graph(backend: Backend, choice: ModelChoice) -> None:
    graph = backend.trace(TraceRequest(tiny.PROMPT, choice)).result(120)
    (entry,) = backend.stored()
    stored = backend.store.load(entry.key)
    assert stored is not None and stored.to_bytes() == graph.to_bytes()


def test_targets_and_max_features_reach_tracer(backend: Backend, choice: ModelChoice) -> None:
    request = TraceRequest(tiny.PROMPT, choice, targets=("w3",), max_features=4)
    graph = backend.trace(request).result(120)
    assert [target.label.strip() for target in graph.targets] == ["w3"]
    assert len(graph.features) == 4 < graph.n_active_features


def test_the_backend_returns_the_intervention_that_tracer_computes(
    backend: Backend, choice: ModelChoice
) -> None:
    graph = backend.trace(TraceRequest(tiny.PROMPT, choice)).result(120)
    layer, position, feature = map(int, graph.features[-1])
    edit = Intervention(layer, position, feature, value=-4.0)
    model = tracer.load(choice.model, choice.transcoders, "cpu")
    results = {}
    for freeze in (True, False):
        request = InterveneRequest(tiny.PROMPT, (edit,), choice, freeze_attention=freeze)
        results[freeze] = backend.intervene(request).result(120)
        direct = tracer.intervene(model, tiny.PROMPT, [edit], freeze_attention=freeze)
        np.testing.assert_allclose(results[freeze].edited_logits, direct.edited_logits, atol=1e-5)
    assert results[True].kl > 0


START_UNTIL_OPENMP_IS_LOADED = """
import sys

class End:
    def find_spec(self, name, *_):
        if name == "torch.nn" and "torch._C" in sys.modules:
            sys.exit()

sys.meta_path.insert(0, End())
from cache.engine import TracerEngine
TracerEngine("cpu").start()
sys.exit("torch was not imported")
"""
"""Torch's libraries read their settings when they are loaded; its modules take seconds more."""


@pytest.mark.skipif(sys.platform != "linux", reason="asks the OpenMP of Linux")
@pytest.mark.parametrize(("chosen", "spins"), [(None, False), ("ACTIVE", True)])
def test_threads_do_not_spin_while_they_wait_unless_asked(chosen: str | None, spins: bool) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP", "GOMP"))}
    environment["OMP_DISPLAY_ENV"] = "VERBOSE"
    if chosen is not None:
        environment["OMP_WAIT_POLICY"] = chosen
    code = START_UNTIL_OPENMP_IS_LOADED
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    count = re.search(r"GOMP_SPINCOUNT = '(\w+)'", result.stderr)
    assert count is not None, result.stderr
    assert (count[1] != "0") == spins


@pytest.mark.parametrize(
    ("prompt", "error"),
    [
        ("", EmptyPromptError),
        ("w1 <script>", UnknownTokenError),
        ("w1 🙂", UnknownTokenError),
        ("w1 " * 40, PromptTooLongError),
    ],
)
def test_a_bad_prompt_fails_its_job_and_the_next_one_works(
    backend: Backend, choice: ModelChoice, prompt: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        backend.trace(TraceRequest(prompt, choice)).result(120)
    assert backend.trace(TraceRequest("w1 w2", choice)).result(120).prompt == "w1 w2"


def test_tracer_stops_within_a_batch_of_a_cancel(choice: ModelChoice) -> None:
    engine = TracerEngine("cpu")
    reports = []

    def stop_at_the_second(done: int, total: int, what: str) -> None:
        reports.append(done)
        if len(reports) == 2:
            raise Cancelled("enough")

    with pytest.raises(Cancelled, match="enough"):
        engine.trace(
            engine.load(choice, silent), TraceRequest(tiny.PROMPT, choice), stop_at_the_second
        )
    assert len(reports) == 2


def test_opening_a_model_reports_progress(choice: ModelChoice) -> None:
    reports: list[tuple[int, int, str]] = []
    TracerEngine("cpu").load(choice, lambda *step: reports.append(step))
    assert reports[0] == (0, 0, "reading the model")
    layers = [(done, tiny.N_LAYERS, "reading the transcoders") for done in range(tiny.N_LAYERS)]
    assert reports[1:] == layers


def test_opening_a_model_can_be_cancelled(
    choice: ModelChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, reports = TracerEngine("cpu"), []
    load = engine.load

    def cancelled_early(asked: ModelChoice, progress: Progress) -> Model:
        def report(done: int, total: int, what: str) -> None:
            progress(done, total, what)
            if done == 1:
                (job,) = worker.queue
                reports.append(job.progress)
                job.cancel()

        return load(asked, report)

    monkeypatch.setattr(engine, "load", cancelled_early)
    worker = Worker(engine)
    source = resolve(choice.model, choice.transcoders)
    job = worker.submit("a", "a", choice, identity(source, choice), lambda model, job: None)
    assert job.wait(120) and job.state == "cancelled" and worker.opened == ()
    assert reports == [(1, tiny.N_LAYERS, f"opening {choice.model}: reading the transcoders")]
    worker.close(10)


def test_the_data_type_of_a_choice_reaches_the_weights_and_the_graph(
    backend: Backend, choice: ModelChoice
) -> None:
    import torch

    narrow = dataclasses.replace(choice, dtype="bfloat16")
    engine = TracerEngine("cpu")
    assert engine.load(choice, silent).bridge.dtype == torch.float32
    assert engine.load(narrow, silent).bridge.dtype == torch.bfloat16
    graphs = [
        backend.trace(TraceRequest(tiny.PROMPT, asked)).result(120)
        for asked in (choice, narrow, choice)
    ]
    dtypes = [graph.provenance["dtype"] for graph in graphs]
    assert dtypes == ["float32", "bfloat16", "float32"]
    assert graphs[0] is graphs[2] and graphs[0].to_bytes() != graphs[1].to_bytes()
    assert backend.library.opened == (choice, narrow)


def test_an_unloaded_model_leaves_memory(choice: ModelChoice, tmp_path: Path) -> None:
    engine, gone = TracerEngine("cpu"), threading.Event()
    load = engine.load

    def watched(asked: ModelChoice, progress: Progress) -> Model:
        model = load(asked, progress)
        weakref.finalize(model, gone.set)
        return model

    engine.load = watched
    backend = Backend(Store(tmp_path), engine)
    backend.trace(TraceRequest(tiny.PROMPT, choice)).result(120)
    assert backend.library.opened == (choice,) and not gone.is_set()
    backend.library.unload(choice)
    assert gone.wait(30)
    assert backend.library.opened == ()
    backend.close(10)


def test_what_is_alive_is_exempt_from_collections_and_leaves_memory_when_dropped() -> None:
    """Streamlit collects after every click; over torch and a model that took 0.25 s."""

    class Node:
        """One of two objects that refer to each other, which only a collection can free."""

        def __init__(self) -> None:
            self.other: object = None

    first, second = Node(), Node()
    first.other, second.other = second, first
    gone = weakref.ref(first)
    collect_once()
    try:
        assert gc.get_freeze_count() > 100_000
        del first, second
        gc.collect()
        collect_once()  # as after opening another model: only what is new is looked at
        assert gone() is not None
        TracerEngine("cpu").free_memory()
        assert gone() is None
    finally:
        gc.unfreeze()


@pytest.mark.parametrize("cores", [1, 2])
def test_the_worker_uses_all_usable_cores(
    choice: ModelChoice, monkeypatch: pytest.MonkeyPatch, cores: int
) -> None:
    import torch

    monkeypatch.setattr("cache.engine.usable_cores", lambda: cores)
    before = torch.get_num_threads()
    worker = Worker(TracerEngine("cpu"))
    fingerprint = resolve(choice.model, choice.transcoders).fingerprint
    count = worker.submit("n", "n", choice, fingerprint, lambda m, job: torch.get_num_threads())
    try:
        assert count.result(120) == cores
    finally:
        worker.close(10)
        torch.set_num_threads(before)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux pins processes")
def test_usable_cores_are_those_of_this_process() -> None:
    code = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
    code += f"import sys; sys.path.insert(0, {str(Path(__file__).parents[3])!r})\n"
    code += "from cache.engine import usable_cores; print(usable_cores())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


def test_every_option_of_a_trace_is_in_its_key_or_changes_no_number() -> None:
    """An option added to `tracer.trace` must enter the request before it can be used."""
    options = set(inspect.signature(tracer.trace).parameters)
    in_the_key = {"prompt", "targets", "max_features", *TRACE_OPTIONS}
    only_how = {"model", "batch_size", "progress", "memory_limit", "offload", "force"}
    assert options - in_the_key == only_how
