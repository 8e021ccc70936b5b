"""Visitors take turns, short work comes first, and what nobody wants is withdrawn."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from fakes import BATCHES, FakeEngine, until

from cache import Backend, Job, ModelChoice, TraceRequest
from cache.departures import Departures
from cache.job_queue import JobQueue
from cache.worker import Worker
from tracer.errors import Cancelled, TracerError


class Slow:
    """Work that waits until it is let go, and notes the order."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.go = threading.Event()

    def __call__(self, job: Job[None]) -> None:
        self.order.append(job.title)
        while not self.go.wait(0.005):
            job.report(0, 0, "working")


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def queue(slow: Slow) -> Iterator[JobQueue]:
    queue = JobQueue("test", keep=100)
    yield queue
    slow.go.set()
    queue.close(10)


def ask(queue: JobQueue, slow: Slow, name: str, session: str, cost: float = 1.0) -> Job[None]:
    return queue.submit(name, name, slow, session, cost)


def started(slow: Slow, count: int = 1) -> None:
    until(lambda: len(slow.order) >= count)


def test_one_prompt_waits_for_at_most_one_job_of_a_visitor_with_thirty(
    queue: JobQueue, slow: Slow
) -> None:
    """It used to wait for all 30: 36 s for 0.8 s of work."""
    for number in range(30):
        ask(queue, slow, f"long {number}", "busy", 100)
    started(slow)
    job = ask(queue, slow, "short", "other", 1)
    assert job.place == 1 and job.progress[2] == "waiting for its turn: 1 job is before it"
    slow.go.set()
    job.result(10)
    until(lambda: len(slow.order) == 31)
    assert slow.order[:3] == ["long 0", "short", "long 1"]


def test_sessions_take_turns(queue: JobQueue, slow: Slow) -> None:
    ask(queue, slow, "first", "a")
    started(slow)
    for session in ("a", "b", "c"):
        for number in range(2):
            ask(queue, slow, f"{session}{number}", session)
    expected = ["b0", "c0", "a0", "b1", "c1", "a1"]
    assert [job.title for job in queue.jobs] == ["first", *expected]
    slow.go.set()
    until(lambda: len(slow.order) == 7)
    assert slow.order[1:] == expected


def test_short_work_of_a_session_comes_before_its_long_work(queue: JobQueue, slow: Slow) -> None:
    ask(queue, slow, "first", "a")
    started(slow)
    ask(queue, slow, "long", "a", 100)
    ask(queue, slow, "short", "a", 1)
    slow.go.set()
    until(lambda: len(slow.order) == 3)
    assert slow.order == ["first", "short", "long"]


def test_long_work_is_not_passed_over_forever(queue: JobQueue, slow: Slow) -> None:
    ask(queue, slow, "first", "a")
    started(slow)
    ask(queue, slow, "long", "a", 100)
    for number in range(20):
        ask(queue, slow, f"short {number}", "a", 1)
    slow.go.set()
    until(lambda: len(slow.order) == 22)
    assert slow.order.index("long") == 9


def test_the_place_in_the_queue_moves_up(queue: JobQueue, slow: Slow) -> None:
    first = ask(queue, slow, "first", "a")
    jobs = [ask(queue, slow, f"{number}", "a") for number in range(3)]
    started(slow)
    assert [job.place for job in jobs] == [1, 2, 3]
    first.cancel("a")
    started(slow, 2)
    assert [job.place for job in jobs[1:]] == [1, 2]


def test_withdrawing_leaves_what_others_want(queue: JobQueue, slow: Slow) -> None:
    running = ask(queue, slow, "running", "a")
    started(slow)
    mine, kept = ask(queue, slow, "mine", "a"), ask(queue, slow, "kept", "a")
    shared = ask(queue, slow, "shared", "a")
    assert queue.submit("shared", "shared", slow, "b") is shared
    assert queue.withdraw("a", keep=["kept"]) == 3
    assert (mine.state, kept.state, shared.state) == ("cancelled", "queued", "queued")
    running.wait(10)
    assert running.state == "cancelled" and shared.sessions == {"b"}
    assert queue.sessions() == {"a", "b"}


def test_a_visitor_who_leaves_withdraws_the_request(backend: Backend, engine: FakeEngine) -> None:
    gate = engine.hold()
    gone: list[str] = []
    watch = Departures(lambda: gone, backend.withdraw, poll=0.01, grace=0.05)
    left = backend.trace(TraceRequest("left alone"), "leaver")
    stays = backend.trace(TraceRequest("still wanted"), "stayer")
    gate.wait_until_reached()
    gone.append("leaver")
    until(lambda: not left.sessions)
    gate.open()
    with pytest.raises(Cancelled):
        left.result(10)
    assert stays.result(10).prompt == "still wanted"
    watch.close()


def test_a_visitor_who_comes_back_at_once_loses_nothing() -> None:
    withdrawn: list[str] = []

    def withdraw(session: str) -> int:
        withdrawn.append(session)
        return 1

    gone = ["visitor"]
    watch = Departures(lambda: gone, withdraw, poll=3600, grace=3600)
    watch.look()
    gone.clear()
    watch.look()
    watch.close()
    assert withdrawn == []


def test_a_failed_job_stays_failed_while_its_page_is_redrawn(
    backend: Backend, engine: FakeEngine
) -> None:
    """It used to run again every 30 s."""
    worker: Worker = Worker(engine, pause=0.0)
    runs: list[str] = []

    def fail(model: object, job: Job[None]) -> None:
        runs.append(job.key)
        raise TracerError("it does not work")

    def submit(session: str) -> Job[None]:
        choice = ModelChoice()
        files = engine.folders(choice.model, choice.transcoders).fingerprint
        job = worker.submit("key", "title", choice, files, fail, session)
        job.wait(10)
        return job

    first = submit("a")
    assert first.state == "failed" and all(submit("a") is first for _ in range(5))
    assert len(runs) == 1
    assert submit("b") is not first, "another visitor may try"
    worker.retry("key")
    submit("a")
    assert len(runs) == 3
    worker.close(10)


def test_retrying_a_trace_runs_it_at_once(backend: Backend, engine: FakeEngine) -> None:
    def break_once(prompt: str, batch: int) -> None:
        engine.on_batch = lambda prompt, batch: None
        raise TracerError("the disk was busy")

    engine.on_batch = break_once
    request = TraceRequest("a b c")
    job = backend.trace(request, "a")
    job.wait(10)
    assert job.state == "failed" and backend.trace(request, "a") is job
    backend.retry(job)
    assert backend.trace(request, "a").result(10).prompt == "a b c"
    assert len(engine.batches) == BATCHES


def test_a_cancel_takes_effect_between_two_layers() -> None:
    """At 256 tokens it took up to 4.9 s, because only batches were looked at."""
    import torch

    import tracer
    from cache.engine import checked_forward

    model = tracer.load("atlas")
    calls: list[float] = []

    def progress(done: int, total: int, what: str) -> None:
        calls.append(time.perf_counter())

    with checked_forward(lambda: progress(0, 0, "")):
        tracer.trace(model, "The opposite of hot is", progress=progress)
    n_layers = model.n_layers
    assert len(calls) > 3 * n_layers, "forward, features and backward: every layer looks"
    before = len(calls)
    tracer.trace(model, "The opposite of hot is")
    torch.nn.Linear(1, 1)(torch.zeros(1))
    assert len(calls) == before, "nothing is left behind"


@pytest.mark.parametrize("call", [1, 3, 9])
def test_a_model_is_intact_after_a_cancel_in_its_forward_pass(call: int) -> None:
    import tracer
    from cache.engine import checked_forward

    model = tracer.load("atlas")
    expected = tracer.trace(model, "The opposite of hot is").to_bytes()
    count = 0

    def check() -> None:
        nonlocal count
        count += 1
        if count == call:
            raise Cancelled("enough")

    with pytest.raises(Cancelled), checked_forward(check):
        tracer.trace(model, "The opposite of hot is")
    assert tracer.trace(model, "The opposite of hot is").to_bytes() == expected
