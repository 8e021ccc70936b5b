"""What the pages rely on: requests in, jobs out, nothing computed twice."""

from __future__ import annotations

import dataclasses
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes import BATCHES, FakeEngine, FakeFolders, make_graph

from cache import (
    Backend,
    InterveneRequest,
    Job,
    ModelChoice,
    ScenarioRequest,
    StoreError,
    TraceRequest,
    open_backend,
)
from cache.request import graph_key
from cache.store import Store
from tracer.catalog.resolve import resolve
from tracer.errors import Cancelled, EmptyPromptError, ModelError, TargetError
from tracer.interventions.scenario import Edit, Scenario
from tracer.types import FeatureId, Intervention, NodeId

DALLAS = TraceRequest("The capital of the state containing Dallas is")
OFF = InterveneRequest(DALLAS.prompt, (Intervention(layer=0, position=-1, feature=5, value=0.0),))
Restart = Callable[[], Backend]


def test_a_trace_is_computed_by_the_worker(backend: Backend, engine: FakeEngine) -> None:
    job = backend.trace(DALLAS)
    graph = job.result(10)
    assert graph.prompt == DALLAS.prompt
    assert (job.state, job.from_cache, job.title) == ("done", False, DALLAS.prompt)
    assert backend.device == "cpu"
    assert engine.traced == [DALLAS.prompt]


def test_progress_is_that_of_the_engine(backend: Backend, engine: FakeEngine) -> None:
    gate = engine.hold()
    job = backend.trace(DALLAS)
    gate.wait_until_reached()
    assert job.state == "running"
    assert job.progress == (0, BATCHES, "tracing")
    gate.open()
    job.result(10)
    assert job.progress == (BATCHES - 1, BATCHES, "tracing")


def test_the_same_request_from_two_sessions_runs_once(backend: Backend, engine: FakeEngine) -> None:
    gate = engine.hold()
    first = backend.trace(DALLAS, session="anna")
    gate.wait_until_reached()
    second = backend.trace(DALLAS, session="ben")
    gate.open()
    assert second.result(10) is first.result(10)
    assert engine.traced == [DALLAS.prompt]


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


def test_after_a_restart_the_store_answers_and_no_model_is_opened(
    open_again: Restart, engine: FakeEngine
) -> None:
    graph = open_again().trace(DALLAS).result(10)
    job = open_again().trace(DALLAS)
    assert (job.state, job.from_cache) == ("done", True)
    assert job.result().to_bytes() == graph.to_bytes()
    assert engine.loads == ["atlas"]


def test_other_text_with_the_same_tokens_is_the_same_graph(
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
def test_another_question_is_traced_anew(
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
    assert not backend.trace(DALLAS).from_cache
    assert not backend.intervene(OFF).from_cache
    backend.warm(DALLAS.choice).result(10)
    assert len(engine.traced) == len(engine.intervened) == 2


def test_a_damaged_file_is_set_aside_and_the_graph_recomputed(
    open_again: Restart, engine: FakeEngine, tmp_path: Path
) -> None:
    graph = open_again().trace(DALLAS).result(10)
    (file,) = (tmp_path / "store" / "graphs").glob("*/*.safetensors")
    file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    backend = open_again()
    job = backend.trace(DALLAS)
    assert job.result(10).to_bytes() == graph.to_bytes()
    assert not job.from_cache
    assert len(engine.traced) == 2
    assert len(backend.damaged()) == 1
    assert open_again().trace(DALLAS).from_cache, "the recomputed graph is kept again"


def test_cancelling_stops_within_a_batch(backend: Backend, engine: FakeEngine) -> None:
    gate = engine.hold()
    job = backend.trace(DALLAS)
    gate.wait_until_reached()
    job.cancel()
    gate.open()
    with pytest.raises(Cancelled):
        job.result(10)
    assert job.state == "cancelled"
    assert engine.batches == [(DALLAS.prompt, 0)]
    assert backend.graph(job.key) is None


def test_one_session_cannot_cancel_what_another_still_wants(
    backend: Backend, engine: FakeEngine
) -> None:
    gate = engine.hold()
    job = backend.trace(DALLAS, session="anna")
    backend.trace(DALLAS, session="ben")
    gate.wait_until_reached()
    job.cancel(session="anna")
    gate.open()
    assert job.result(10).prompt == DALLAS.prompt


def test_asking_again_after_a_cancel_starts_over(backend: Backend, engine: FakeEngine) -> None:
    gate = engine.hold()
    cancelled = backend.trace(DALLAS)
    gate.wait_until_reached()
    cancelled.cancel()
    again = backend.trace(DALLAS)
    assert again is not cancelled
    gate.open()
    assert again.result(10).prompt == DALLAS.prompt
    assert cancelled.state == "cancelled"


def test_a_graph_is_found_by_the_key_of_its_job_and_by_its_own(open_again: Restart) -> None:
    backend = open_again()
    job = backend.trace(DALLAS)
    assert backend.graph(job.key) is None or job.state == "done"
    graph = job.result(10)
    later = open_again()
    (entry,) = later.stored()
    assert entry.key == graph_key("atlas/per-layer", graph.token_ids, DALLAS)
    for key in (job.key, entry.key):
        found = later.graph(key)
        assert found is not None and found.to_bytes() == graph.to_bytes()


@pytest.mark.parametrize("key", ["", "0" * 32, "../../etc/passwd", "' OR 1=1 --", "é" * 9])
def test_an_unknown_key_in_a_link_finds_nothing(backend: Backend, key: str) -> None:
    backend.trace(DALLAS).result(10)
    assert backend.graph(key) is None


@pytest.mark.parametrize("ask", ["trace", "intervene", "scenarios", "warm"])
def test_a_missing_model_is_a_failed_job_not_an_exception(backend: Backend, ask: str) -> None:
    missing = ModelChoice("missing")
    job = {
        "trace": lambda: backend.trace(TraceRequest("x", missing)),
        "intervene": lambda: backend.intervene(InterveneRequest("x", (), missing)),
        "scenarios": lambda: backend.scenarios(ScenarioRequest("x", (), missing)),
        "warm": lambda: backend.warm(missing),
    }[ask]()
    assert job.state == "failed"
    with pytest.raises(ModelError, match="no model at 'missing'"):
        job.result()


def test_a_bad_prompt_fails_its_job_and_the_next_one_works(backend: Backend) -> None:
    with pytest.raises(EmptyPromptError):
        backend.trace(TraceRequest("  ")).result(10)
    assert backend.trace(DALLAS).result(10).prompt == DALLAS.prompt


def test_an_intervention_is_run_once_and_remembered(backend: Backend, engine: FakeEngine) -> None:
    first = backend.intervene(OFF)
    result = first.result(10)
    again = backend.intervene(OFF)
    assert again.result() is result
    assert (first.from_cache, again.from_cache) == (False, True)
    assert engine.intervened == [OFF.prompt]


def test_scenarios_are_run_once_and_anew_when_anything_about_them_changes(
    backend: Backend, engine: FakeEngine, folders: FakeFolders
) -> None:
    off = Scenario("off", (Edit(FeatureId(0, 5), 1, 2, "scale", 0.0),))
    asked = ScenarioRequest("a b", (off,))
    result = backend.scenarios(asked).result(10)
    assert backend.scenarios(asked).result() is result
    free = dataclasses.replace(off, freeze_attention=False)
    for other in (
        dataclasses.replace(asked, scenarios=(free,)),
        dataclasses.replace(asked, scenarios=(off, free)),
        dataclasses.replace(asked, scenarios=(off.scaled(2), dataclasses.replace(off, name="x"))),
        dataclasses.replace(asked, generate=3),
        dataclasses.replace(asked, prompt="a c"),
        dataclasses.replace(asked, watch=(NodeId("feature", 0, 1, 5),)),
        dataclasses.replace(asked, temperature=0.5),
        dataclasses.replace(asked, temperature=0.5, seed=3),
    ):
        job = backend.scenarios(other)
        job.result(10)
        assert not job.from_cache
    assert len(engine.ran) == 9
    folders.fingerprints["atlas"] = "retrained"
    assert not backend.scenarios(asked).from_cache


def test_a_text_is_looked_up_as_one_token_or_refused(backend: Backend) -> None:
    found = backend.token(ModelChoice(), " Austin").result(10)
    assert found == backend.token(ModelChoice(), " Austin").result(10)
    assert found != backend.token(ModelChoice(), " Dallas").result(10)
    with pytest.raises(TargetError, match="not one token"):
        backend.token(ModelChoice(), "two words").result(10)


def test_two_data_types_of_a_model_share_no_answer_and_no_open_model(
    open_again: Restart, engine: FakeEngine
) -> None:
    backend = open_again()
    plain, narrow = ModelChoice(), ModelChoice(dtype="bfloat16")

    def ask_all(choice: ModelChoice) -> list[Job]:
        scenarios = ScenarioRequest(DALLAS.prompt, (), choice)
        jobs = [
            backend.trace(dataclasses.replace(DALLAS, choice=choice)),
            backend.intervene(dataclasses.replace(OFF, choice=choice)),
            backend.scenarios(scenarios),
            backend.token(choice, " Austin"),
            backend.warm(choice),
        ]
        for job in jobs:
            job.result(10)
        return jobs

    first = ask_all(plain)
    second = ask_all(narrow)
    assert not {job.key for job in first} & {job.key for job in second}
    assert not any(job.from_cache for job in second)
    assert engine.choices == [plain, narrow]
    assert backend.library.opened == (plain, narrow)
    assert len(engine.traced) == len(engine.intervened) == len(engine.ran) == 2
    assert len(backend.stored()) == 2
    assert all(job.from_cache for job in ask_all(plain)[:3] + ask_all(narrow)[:3])
    again = open_again()
    for choice, job in ((plain, first[0]), (narrow, second[0])):
        request = dataclasses.replace(DALLAS, choice=choice)
        assert again.trace(request).key == job.key
        assert again.key_of(request) == again.store.key_of(job.key) is not None
    assert len(engine.traced) == 2


def test_two_data_types_that_wait_at_once_are_two_jobs(
    backend: Backend, engine: FakeEngine
) -> None:
    gate = engine.hold()
    plain = backend.trace(DALLAS)
    narrow = backend.trace(dataclasses.replace(DALLAS, choice=ModelChoice(dtype="bfloat16")))
    gate.open()
    assert narrow is not plain
    plain.result(10), narrow.result(10)
    assert engine.traced == [DALLAS.prompt] * 2


def test_warming_opens_the_model_and_tells_the_device(backend: Backend, engine: FakeEngine) -> None:
    assert backend.warm(ModelChoice()).result(10) == "cpu"
    backend.trace(DALLAS).result(10)
    assert engine.loads == ["atlas"]


def test_every_call_of_the_engine_comes_from_one_thread(
    backend: Backend, engine: FakeEngine
) -> None:
    jobs = [backend.warm(ModelChoice()), backend.trace(DALLAS), backend.intervene(OFF)]
    for job in jobs:
        job.result(10)
    assert len(engine.threads) == 1


def test_a_full_disk_costs_the_copy_not_the_graph(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(key: str, graph: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(backend.store, "save", full)
    with caplog.at_level(logging.WARNING):
        graph = backend.trace(DALLAS).result(10)
    assert "No space left" in caplog.text
    assert backend.trace(DALLAS).result(10) is graph


def test_an_annotated_graph_is_named_by_either_key(open_again: Restart) -> None:
    backend = open_again()
    job = backend.trace(DALLAS)
    job.result(10)
    backend.annotate(job.key, title="Dallas")
    backend.annotate(backend.stored()[0].key, notes="two hops")
    (entry,) = backend.stored()
    assert (entry.title, entry.notes) == ("Dallas", "two hops")


_ASK_AGAIN = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from cache import ModelChoice, TraceRequest, open_backend
backend = open_backend(Path(sys.argv[2]))
job = backend.trace(TraceRequest("Dallas is", ModelChoice(sys.argv[3], sys.argv[4])))
assert job.from_cache and job.result().prompt == "Dallas is"
heavy = {"torch", "transformers", "transformer_lens", "streamlit", "plotly", "pandas"}
print(sorted(heavy & set(sys.modules)))
"""


CONFIG = """
model_kind: transcoder_set
feature_input_hook: mlp.hook_in
feature_output_hook: mlp.hook_out
"""


def test_a_cached_request_needs_no_torch(tmp_path: Path, engine: FakeEngine) -> None:
    """Another process, with the real engine, finds what was traced here."""
    model, transcoders = tmp_path / "model", tmp_path / "set"
    for folder, name in ((model, "config.json"), (transcoders, "config.yaml")):
        folder.mkdir()
        (folder / name).write_text(CONFIG)
    engine.folders = resolve
    backend = Backend(Store(tmp_path / "store"), engine, resolve)
    request = TraceRequest("Dallas is", ModelChoice(str(model), str(transcoders)))
    backend.trace(request).result(10)
    backend.close(10)
    root = Path(__file__).parents[3]
    arguments = [root, tmp_path / "store", model, transcoders]
    done = subprocess.run(
        [sys.executable, "-c", _ASK_AGAIN, *map(str, arguments)],
        capture_output=True,
        check=False,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_the_store_is_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIRCUIT_STORE", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("CIRCUIT_STORE_GB", "0.5")
    backend = open_backend()
    assert backend.store.root == tmp_path / "elsewhere"
    assert backend.store.quota_bytes == 500_000_000
    backend.close()


@pytest.mark.parametrize("size", ["much", "-1", "0", "nan", "inf"])
def test_a_store_size_that_is_no_size_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: str
) -> None:
    monkeypatch.setenv("CIRCUIT_STORE_GB", size)
    with pytest.raises(StoreError, match="expected a positive number"):
        open_backend(tmp_path)


def test_a_graph_that_was_evicted_from_memory_is_read_from_disk(
    open_again: Restart, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cache.backend.GRAPH_BYTES", 1)
    backend = open_again()
    graph = backend.trace(DALLAS).result(10)
    again = backend.trace(DALLAS)
    assert again.from_cache and again.result() is not graph
    assert again.result().to_bytes() == make_graph(DALLAS.prompt, graph.token_ids).to_bytes()
