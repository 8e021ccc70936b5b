"""Two visitors and one backend: they share work, and one Cancel ends only one visitor's wish."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from fakes import FakeEngine, until

from cache import (
    Backend,
    InterveneRequest,
    Job,
    ModelChoice,
    ScenarioRequest,
    TraceRequest,
)
from cache.graph_files import ImportedGraph, read_import
from tracer.errors import Cancelled
from tracer.interventions.scenario import Edit, Scenario
from tracer.types import FeatureId, Intervention

DALLAS = TraceRequest("The capital of the state containing Dallas is")
BLOCKER = TraceRequest("the job that runs while the others wait")
OFF = Scenario("off", (Edit(FeatureId(0, 5), 1, 2, "scale", 0.0),))
Ask = Callable[[Backend, str], Job]

REQUESTS: dict[str, Ask] = {
    "trace": lambda backend, session: backend.trace(DALLAS, session),
    "intervene": lambda backend, session: backend.intervene(
        InterveneRequest(DALLAS.prompt, (Intervention(0, -1, 5, 0.0),)), session
    ),
    "scenarios": lambda backend, session: backend.scenarios(
        ScenarioRequest(DALLAS.prompt, (OFF,)), session
    ),
    "token": lambda backend, session: backend.token(ModelChoice(), " Austin", session),
    "warm": lambda backend, session: backend.warm(ModelChoice(), session),
}


def test_the_same_request_from_two_sessions_runs_once(backend: Backend, engine: FakeEngine) -> None:
    gate = engine.hold()
    first = backend.trace(DALLAS, session="anna")
    gate.wait_until_reached()
    second = backend.trace(DALLAS, session="ben")
    gate.open()
    assert second.result(10) is first.result(10)
    assert engine.traced == [DALLAS.prompt]


@pytest.mark.parametrize("name", REQUESTS)
def test_one_cancel_leaves_a_waiting_job_to_the_other_visitor(
    backend: Backend, engine: FakeEngine, name: str
) -> None:
    gate = engine.hold()
    backend.trace(BLOCKER, "carl")
    gate.wait_until_reached()
    job = REQUESTS[name](backend, "anna")
    assert REQUESTS[name](backend, "ben") is job
    job.cancel("anna")
    assert job.state == "queued" and job in backend.queue
    gate.open()
    job.result(10)
    assert job.state == "done"


@pytest.mark.parametrize("name", REQUESTS)
def test_a_waiting_job_that_both_visitors_cancel_never_runs(
    backend: Backend, engine: FakeEngine, name: str
) -> None:
    gate = engine.hold()
    blocker = backend.trace(BLOCKER, "carl")
    gate.wait_until_reached()
    job = REQUESTS[name](backend, "anna")
    REQUESTS[name](backend, "ben")
    for session in ("anna", "ben"):
        job.cancel(session)
    assert job.state == "cancelled" and backend.queue == (blocker,)
    gate.open()
    blocker.result(10)
    until(lambda: backend.queue == ())
    assert (engine.traced, engine.intervened, engine.ran) == ([BLOCKER.prompt], [], [])


def test_one_cancel_leaves_a_running_job_to_the_other_visitor(
    backend: Backend, engine: FakeEngine
) -> None:
    gate = engine.hold()
    job = backend.trace(DALLAS, session="anna")
    backend.trace(DALLAS, session="ben")
    gate.wait_until_reached()
    job.cancel(session="anna")
    gate.open()
    assert job.result(10).prompt == DALLAS.prompt


def test_a_running_job_stops_when_both_visitors_cancel(
    backend: Backend, engine: FakeEngine
) -> None:
    gate = engine.hold()
    job = backend.trace(DALLAS, session="anna")
    backend.trace(DALLAS, session="ben")
    gate.wait_until_reached()
    for session in ("anna", "ben"):
        job.cancel(session)
    gate.open()
    with pytest.raises(Cancelled):
        job.result(10)
    assert engine.batches == [(DALLAS.prompt, 0)]


def test_a_visitor_cannot_cancel_a_job_of_another(backend: Backend, engine: FakeEngine) -> None:
    gate = engine.hold()
    job = backend.trace(DALLAS, session="anna")
    gate.wait_until_reached()
    for stranger in ("ben", ""):
        job.cancel(stranger)
    gate.open()
    assert job.result(10).prompt == DALLAS.prompt


def test_a_visitor_who_cancelled_and_asks_again_joins_the_other(
    backend: Backend, engine: FakeEngine
) -> None:
    gate = engine.hold()
    job = backend.trace(DALLAS, session="anna")
    backend.trace(DALLAS, session="ben")
    gate.wait_until_reached()
    job.cancel("anna")
    assert backend.trace(DALLAS, session="anna") is job
    job.cancel("ben")
    gate.open()
    assert job.result(10).prompt == DALLAS.prompt, "anna wants it again"


def test_a_cancel_stops_the_trace_within_a_batch(backend: Backend, engine: FakeEngine) -> None:
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


def test_a_cancelled_import_leaves_the_import_of_another_visitor(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()

    def slowly(file: bytes, name: str, check: Callable[[], None]) -> ImportedGraph:
        assert gate.wait(60)
        return read_import(file, name)

    monkeypatch.setattr("cache.backend.read_upload", slowly)
    first = backend.import_graph(b"{", "dog.json", "anna")
    second = backend.import_graph(b"{", "dog.json", "ben")
    second.cancel("anna")
    assert backend.imports == (first, second)
    second.cancel("ben")
    assert backend.imports == (first,)
    gate.set()
    assert first.wait(60) and first.state == "failed", "it was read, and is not a graph"
