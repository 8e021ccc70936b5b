"""One thread, one queue: what happens when many ask and some cancel."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator

import pytest
from fakes import FakeEngine, FakeFolders, FakeModel, until
from worker_asks import ATLAS, ask, raising

from cache import Job, ModelChoice
from cache.worker import Worker
from tracer.errors import Cancelled, ModelError
from tracer.types import Progress


@pytest.fixture
def worker(engine: FakeEngine) -> Iterator[Worker[FakeModel]]:
    worker = Worker(engine)
    yield worker
    worker.close(10)


def test_nothing_runs_before_the_first_job(worker: Worker[FakeModel], engine: FakeEngine) -> None:
    assert (worker.device, worker.queue, engine.starts) == (None, (), 0)
    assert ask(worker, "a").result(10) == "a"
    assert (worker.device, engine.starts, engine.loads) == ("cpu", 1, ["atlas"])


def test_jobs_run_in_order_in_one_background_thread(worker: Worker[FakeModel]) -> None:
    ran: list[tuple[int, int]] = []
    jobs = [
        ask(worker, f"{n}", lambda model, job, n=n: ran.append((n, threading.get_ident())))
        for n in range(20)
    ]
    for job in jobs:
        job.result(10)
    assert [n for n, _ in ran] == list(range(20))
    threads = {thread for _, thread in ran}
    assert len(threads) == 1 and threading.get_ident() not in threads


def test_the_queue_lists_the_running_job_then_the_waiting_ones(worker: Worker[FakeModel]) -> None:
    started, released = threading.Event(), threading.Event()

    def block(model: FakeModel, job: Job) -> None:
        started.set()
        released.wait(10)

    first = ask(worker, "first", block)
    second, third = ask(worker, "second"), ask(worker, "third")
    assert started.wait(10)
    assert worker.queue == (first, second, third)
    second.cancel()
    assert worker.queue == (first, third)
    released.set()
    third.result(10)
    assert worker.queue == ()


def test_a_job_cancelled_while_it_waits_never_runs(worker: Worker[FakeModel]) -> None:
    released, ran = threading.Event(), threading.Event()
    ask(worker, "first", lambda model, job: released.wait(10))
    second = ask(worker, "second", lambda model, job: ran.set())
    second.cancel()
    assert second.wait(0) and second.state == "cancelled"
    released.set()
    ask(worker, "third").result(10)
    assert not ran.is_set()


def test_a_job_cancelled_while_the_model_opens_does_not_run(
    worker: Worker[FakeModel], engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening, released = threading.Event(), threading.Event()
    load = engine.load

    def slow_load(choice: ModelChoice, progress: Progress) -> FakeModel:
        opening.set()
        released.wait(10)
        return load(choice, progress)

    monkeypatch.setattr(engine, "load", slow_load)
    ran: list[str] = []
    job = ask(worker, "a", lambda model, job: (job.report(0, 1, "tracing"), ran.append("a")))
    assert opening.wait(10)
    assert job.progress == (0, 0, "opening atlas")
    job.cancel()
    released.set()
    with pytest.raises(Cancelled):
        job.result(10)
    assert ran == []
    assert ask(worker, "b").result(10) == "b"
    assert engine.loads == ["atlas"], "the opened model is kept"


def test_the_same_key_from_many_threads_at_once_runs_once(worker: Worker[FakeModel]) -> None:
    released, together, ran = threading.Event(), threading.Barrier(16), []
    ask(worker, "first", lambda model, job: released.wait(10))
    jobs: list[Job] = []

    def session() -> None:
        together.wait(10)
        jobs.append(ask(worker, "same", lambda model, job: ran.append(1)))

    sessions = [threading.Thread(target=session) for _ in range(16)]
    for thread in sessions:
        thread.start()
    for thread in sessions:
        thread.join(10)
    released.set()
    jobs[0].result(10)
    assert len(jobs) == 16 and len(set(map(id, jobs))) == 1
    assert ran == [1]


def test_an_idle_worker_keeps_nothing_of_the_last_job(worker: Worker[FakeModel]) -> None:
    class Large:
        """Something large that the work refers to."""

    large, gone = Large(), threading.Event()
    weakref.finalize(large, gone.set)
    ask(worker, "a", lambda model, job, large=large: None).result(10)
    del large
    assert gone.wait(10)


def test_a_closed_worker_finishes_its_queue_and_takes_no_more(engine: FakeEngine) -> None:
    worker = Worker(engine)
    jobs = [ask(worker, f"{n}") for n in range(5)]
    worker.close(10)
    assert [job.state for job in jobs] == ["done"] * 5
    with pytest.raises(RuntimeError, match="closed"):
        ask(worker, "late")


# A failure is remembered for a while, because a page asks again whenever it is drawn.


@pytest.fixture
def tries() -> list[int]:
    return []


def failing(tries: list[int]):
    def fail(model: FakeModel, job: Job) -> None:
        tries.append(1)
        raise ModelError("this takes a while to fail")

    return fail


def test_a_failed_request_returns_the_failed_job_for_a_while(
    worker: Worker[FakeModel], tries: list[int]
) -> None:
    first = ask(worker, "a", failing(tries))
    assert first.wait(10)
    assert ask(worker, "a", failing(tries)) is first and len(tries) == 1
    assert ask(worker, "b", failing(tries)).wait(10) and len(tries) == 2, "another request"


def test_a_failed_request_runs_again_after_the_pause(engine: FakeEngine, tries: list[int]) -> None:
    worker = Worker(engine, pause=0)
    first = ask(worker, "a", failing(tries))
    assert first.wait(10)
    until(lambda: ask(worker, "a", failing(tries)) is not first)
    worker.close(10)


def test_a_failed_request_runs_again_once_a_model_was_unloaded(
    worker: Worker[FakeModel], tries: list[int]
) -> None:
    first = ask(worker, "a", failing(tries))
    assert first.wait(10)
    worker.unload(ATLAS)  # what did not fit may fit now
    until(lambda: ask(worker, "a", failing(tries)) is not first)


def test_a_cancelled_request_runs_again_at_once(worker: Worker[FakeModel]) -> None:
    first = ask(worker, "a", raising(Cancelled("enough")))
    assert first.wait(10) and first.state == "cancelled"
    assert ask(worker, "a").result(10) == "a"


def test_files_that_change_while_a_model_opens_fail_the_job(
    worker: Worker[FakeModel], folders: FakeFolders
) -> None:
    folders.fingerprints["atlas"] = "newer files"
    with pytest.raises(ModelError, match="changed while it was being opened"):
        ask(worker, "a").result(10)
    current = worker.submit("a", "a", ATLAS, "newer files", lambda model, job: "right")
    assert current.result(10) == "right"
