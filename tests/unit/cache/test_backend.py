"""What the pages rely on: requests in, jobs out, nothing traced twice."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes import BATCHES, FakeEngine, FakeFolders
from small_graphs import make_graph, same

from cache import (
    Backend,
    InterveneRequest,
    Job,
    ModelChoice,
    ScenarioRequest,
    TraceRequest,
)
from cache.request import graph_key
from tracer.errors import EmptyPromptError, ModelError
from tracer.types import Intervention

DALLAS = TraceRequest("The capital of the state containing Dallas is")
OFF = InterveneRequest(DALLAS.prompt, (Intervention(layer=0, position=-1, feature=5, value=0.0),))
Restart = Callable[[], Backend]


def test_the_worker_computes_a_trace(backend: Backend, engine: FakeEngine) -> None:
    job = backend.trace(DALLAS)
    graph = job.result(10)
    assert graph.prompt == DALLAS.prompt
    assert (job.state, job.from_cache, job.title) == ("done", False, DALLAS.prompt)
    assert backend.device == "cpu"
    assert engine.traced == [DALLAS.prompt]


def test_a_job_reports_the_progress_of_the_engine(backend: Backend, engine: FakeEngine) -> None:
    gate = engine.hold()
    job = backend.trace(DALLAS)
    gate.wait_until_reached()
    assert job.state == "running"
    assert job.progress == (0, BATCHES, "tracing")
    gate.open()
    job.result(10)
    assert job.progress == (BATCHES - 1, BATCHES, "tracing")


def test_a_repeated_request_is_answered_from_memory_within_a_millisecond(
    backend: Backend, engine: FakeEngine
) -> None:
    graph = backend.trace(DALLAS).result(10)
    seconds = []
    for _ in range(50):
        start = time.perf_counter()
        job = backend.trace(DALLAS)
        seconds.append(time.perf_counter() - start)
        assert (job.state, job.from_cache) == ("done", True)
        assert job.result() is graph
    assert min(seconds) < 1e-3
    assert engine.traced == [DALLAS.prompt]


def test_after_a_restart_the_store_answers_without_opening_a_model(
    open_again: Restart, engine: FakeEngine
) -> None:
    graph = open_again().trace(DALLAS).result(10)
    job = open_again().trace(DALLAS)
    assert (job.state, job.from_cache) == ("done", True)
    assert same(job.result(), graph)
    assert engine.loads == ["atlas"]


def test_a_graph_evicted_from_memory_is_read_from_disk(
    open_again: Restart, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cache.backend.GRAPH_BYTES", 1)
    backend = open_again()
    graph = backend.trace(DALLAS).result(10)
    again = backend.trace(DALLAS)
    assert again.from_cache and again.result() is not graph
    assert same(again.result(), make_graph(DALLAS.prompt, graph.token_ids))


def test_another_text_with_the_same_tokens_is_the_same_graph(
    backend: Backend, engine: FakeEngine
) -> None:
    graph = backend.trace(TraceRequest("Dallas is")).result(10)
    job = backend.trace(TraceRequest("Dallas  is"))
    assert job.result(10) is graph
    assert job.from_cache
    assert engine.traced == ["Dallas is"]


@pytest.mark.parametrize(
    "other",
    [
        TraceRequest("something else"),
        TraceRequest(DALLAS.prompt, targets=(" Austin",)),
        TraceRequest(DALLAS.prompt, max_features=10),
        TraceRequest(DALLAS.prompt, ModelChoice("atlas", "cross-layer")),
    ],
)
def test_a_different_request_is_traced(
    backend: Backend, engine: FakeEngine, other: TraceRequest
) -> None:
    backend.trace(DALLAS).result(10)
    job = backend.trace(other)
    job.result(10)
    assert not job.from_cache
    assert len(engine.traced) == 2


def test_a_changed_fingerprint_misses(
    backend: Backend, engine: FakeEngine, folders: FakeFolders
) -> None:
    backend.trace(DALLAS).result(10)
    backend.intervene(OFF).result(10)
    folders.fingerprints["atlas"] = "retrained"
    again = [backend.trace(DALLAS), backend.intervene(OFF)]
    assert not any(job.from_cache for job in again)
    for job in again:
        job.result(10)
    assert len(engine.traced) == len(engine.intervened) == 2


def test_a_damaged_file_is_set_aside_and_the_graph_recomputed(
    open_again: Restart, engine: FakeEngine, tmp_path: Path
) -> None:
    graph = open_again().trace(DALLAS).result(10)
    (file,) = (tmp_path / "store" / "graphs").glob("*/*.safetensors")
    file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    backend = open_again()
    job = backend.trace(DALLAS)
    assert same(job.result(10), graph)
    assert not job.from_cache
    assert len(engine.traced) == 2
    assert len(backend.damaged()) == 1
    assert open_again().trace(DALLAS).from_cache, "the recomputed graph is kept again"


def test_a_graph_is_found_by_the_key_of_its_job_and_by_its_own(
    open_again: Restart, engine: FakeEngine
) -> None:
    backend, gate = open_again(), engine.hold()
    job = backend.trace(DALLAS)
    gate.wait_until_reached()
    assert backend.graph(job.key) is None, "it is still being traced"
    gate.open()
    graph = job.result(10)
    assert backend.graph(job.key) is graph
    later = open_again()
    (entry,) = later.stored()
    assert entry.key == graph_key("atlas/per-layer", graph.token_ids, DALLAS) != job.key
    for key in (job.key, entry.key):
        assert same(later.graph(key), graph)


@pytest.mark.parametrize("key", ["", "0" * 32, "../../etc/passwd", "' OR 1=1 --", "é" * 9])
def test_an_unknown_key_in_a_link_finds_nothing(backend: Backend, key: str) -> None:
    backend.trace(DALLAS).result(10)
    assert backend.graph(key) is None


@pytest.mark.parametrize("ask", ["trace", "intervene", "scenarios", "token", "warm"])
def test_a_missing_model_is_a_failed_job_not_an_exception(backend: Backend, ask: str) -> None:
    missing = ModelChoice("missing")
    job: Job = {
        "trace": lambda: backend.trace(TraceRequest("x", missing)),
        "intervene": lambda: backend.intervene(InterveneRequest("x", (), missing)),
        "scenarios": lambda: backend.scenarios(ScenarioRequest("x", (), missing)),
        "token": lambda: backend.token(missing, "x"),
        "warm": lambda: backend.warm(missing),
    }[ask]()
    assert job.state == "failed"
    with pytest.raises(ModelError, match="no model at 'missing'"):
        job.result()


def test_a_bad_prompt_fails_its_job_and_the_next_one_works(backend: Backend) -> None:
    with pytest.raises(EmptyPromptError):
        backend.trace(TraceRequest("  ")).result(10)
    assert backend.trace(DALLAS).result(10).prompt == DALLAS.prompt


def test_warming_opens_the_model_and_returns_the_device(
    backend: Backend, engine: FakeEngine
) -> None:
    assert backend.warm(ModelChoice()).result(10) == "cpu"
    backend.trace(DALLAS).result(10)
    assert engine.loads == ["atlas"]


def test_the_engine_is_called_from_one_thread_only(backend: Backend, engine: FakeEngine) -> None:
    jobs = [backend.warm(ModelChoice()), backend.trace(DALLAS), backend.intervene(OFF)]
    for job in jobs:
        job.result(10)
    assert len(engine.threads) == 1


def test_the_key_of_a_request_is_that_of_its_stored_graph(backend: Backend) -> None:
    assert backend.key_of(DALLAS) is None
    backend.trace(DALLAS).result(10)
    assert backend.key_of(DALLAS) == backend.stored()[0].key
    assert backend.key_of(TraceRequest(DALLAS.prompt, ModelChoice("missing"))) is None
