"""One thread, one queue: what happens when many ask, some cancel and something breaks."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Iterator

import pytest
from fakes import FakeEngine, FakeFolders, FakeModel, until

from cache import Job, ModelChoice
from cache.worker import Worker
from tracer.errors import Cancelled, MemoryLimitError, ModelError, TracerError
from tracer.types import Progress

ATLAS = ModelChoice("atlas", "x")


@pytest.fixture
def worker(engine: FakeEngine) -> Iterator[Worker[FakeModel]]:
    worker = Worker(engine)
    yield worker
    worker.close(10)


def ask(worker: Worker[FakeModel], key: str, work=None, choice: ModelChoice = ATLAS) -> Job:
    fingerprint = f"{choice.model}/{choice.transcoders}"
    return worker.submit(key, key, choice, fingerprint, work or (lambda model, job: key))


def test_a_failure_stands_for_a_while_so_that_a_page_that_asks_again_can_say_it(
    engine: FakeEngine,
) -> None:
    tries: list[float] = []

    def fail(model: FakeModel, job: Job) -> None:
        tries.append(1)
        raise ModelError("this takes a while to fail")

    patient = Worker(engine)
    first = ask(patient, "a", fail)
    assert first.wait(10)
    assert ask(patient, "a", fail) is first and len(tries) == 1
    assert ask(patient, "b", fail).wait(10) and len(tries) == 2  # another request is another matter
    patient.unload(ATLAS)  # what had no room may have some now
    until(lambda: patient.opened == ())
    until(lambda: ask(patient, "a", fail) is not first)
    patient.close(10)

    eager = Worker(engine, pause=0)
    again = ask(eager, "a", fail)
    assert again.wait(10)
    until(lambda: ask(eager, "a", fail) is not again)
    eager.close(10)


def test_nothing_runs_before_the_first_job(worker: Worker[FakeModel], engine: FakeEngine) -> None:
    assert (worker.device, worker.queue, engine.starts) == (None, (), 0)
    assert ask(worker, "a").result(10) == "a"
    assert (worker.device, engine.starts, engine.loads) == ("cpu", 1, ["atlas"])


def test_jobs_run_in_order_in_one_thread_that_is_not_the_callers(
    worker: Worker[FakeModel],
) -> None:
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


def test_the_queue_shows_what_runs_and_what_waits(worker: Worker[FakeModel]) -> None:
    started, go_on = threading.Event(), threading.Event()

    def hold(model: FakeModel, job: Job) -> None:
        started.set()
        go_on.wait(10)

    first = ask(worker, "first", hold)
    second, third = ask(worker, "second"), ask(worker, "third")
    assert started.wait(10)
    assert worker.queue == (first, second, third)
    second.cancel()
    assert worker.queue == (first, third)
    go_on.set()
    third.result(10)
    assert worker.queue == ()


def test_a_cancelled_queued_job_never_runs(worker: Worker[FakeModel]) -> None:
    go_on, ran = threading.Event(), threading.Event()
    ask(worker, "first", lambda model, job: go_on.wait(10))
    second = ask(worker, "second", lambda model, job: ran.set())
    second.cancel()
    assert second.wait(0) and second.state == "cancelled"
    go_on.set()
    ask(worker, "third").result(10)
    assert not ran.is_set()


def test_models_stay_open_up_to_a_bound(engine: FakeEngine) -> None:
    worker = Worker(engine, models_kept=2)
    for name in ("one", "two", "one", "two", "one", "three", "one", "two"):
        ask(worker, "x", choice=ModelChoice(name, "x")).result(10)
    worker.close(10)
    assert engine.loads == ["one", "two", "three", "two"]


def test_a_dropped_model_is_really_let_go(engine: FakeEngine) -> None:
    worker = Worker(engine, models_kept=1)
    seen: list[weakref.ref[FakeModel]] = []
    ask(worker, "a", lambda model, job: seen.append(weakref.ref(model))).result(10)
    ask(worker, "b", choice=ModelChoice("other", "x")).result(10)
    worker.close(10)
    assert seen[0]() is None


def test_an_idle_worker_holds_nothing_of_the_last_job(worker: Worker[FakeModel]) -> None:
    class Held:
        pass

    held = Held()
    gone = threading.Event()
    weakref.finalize(held, gone.set)
    job = ask(worker, "a", lambda model, job, held=held: None)
    job.result(10)
    del held
    assert gone.wait(10)


def opened_with(worker: Worker[FakeModel], *names: str) -> list[weakref.ref[FakeModel]]:
    """Opens models by name; returns what tells whether they are still there."""
    seen: list[weakref.ref[FakeModel]] = []

    def look(model: FakeModel, job: Job) -> None:
        seen.append(weakref.ref(model))

    for name in names:
        ask(worker, name, look, ModelChoice(name, "x")).result(10)
    return seen


def test_what_is_open_is_told_with_the_one_used_last_at_the_end(
    worker: Worker[FakeModel],
) -> None:
    one, two, three = (ModelChoice(name, "x") for name in ("one", "two", "three"))
    assert worker.opened == ()
    for choice, expected in [
        (one, (one,)),
        (two, (one, two)),
        (one, (two, one)),
        (three, (one, three)),
    ]:
        ask(worker, "x", choice=choice).result(10)
        assert worker.opened == expected
    worker.close(10)
    assert worker.opened == ()


def test_what_ran_out_of_memory_is_not_open_any_more(worker: Worker[FakeModel]) -> None:
    opened_with(worker, "one")
    ask(worker, "bad", _raiser(MemoryError()), ModelChoice("one", "x")).wait(10)
    assert worker.opened == ()


def test_an_unloaded_model_is_let_go_at_once_while_nothing_runs(
    worker: Worker[FakeModel], engine: FakeEngine
) -> None:
    one, two = opened_with(worker, "one", "two")
    freed = engine.freed
    worker.unload(ModelChoice("one", "x"))
    until(lambda: engine.freed > freed)
    assert (one(), two() is None) == (None, False)
    assert worker.opened == (ModelChoice("two", "x"),)
    opened_with(worker, "two", "one")
    assert engine.loads == ["one", "two", "one"]


def test_a_model_is_let_go_only_after_the_job_that_runs_and_before_the_next(
    worker: Worker[FakeModel], engine: FakeEngine
) -> None:
    started, go_on = threading.Event(), threading.Event()
    choice = ModelChoice("one", "x")

    def hold(model: FakeModel, job: Job) -> bool:
        started.set()
        go_on.wait(10)
        return worker.opened == (choice,)

    (seen,) = opened_with(worker, "one")
    running = ask(worker, "first", hold, choice)
    assert started.wait(10)
    worker.unload(choice)
    after = ask(worker, "second", lambda model, job: seen() is None, choice)
    assert seen() is not None and worker.opened == (choice,)
    go_on.set()
    assert running.result(10), "it was there to the end"
    assert after.result(10), "the next one has a model of its own"
    assert engine.loads == ["one", "one"]


def test_unloading_a_model_that_is_not_open_does_nothing_now_or_later(
    worker: Worker[FakeModel], engine: FakeEngine
) -> None:
    worker.unload(ModelChoice("two", "x"))
    opened_with(worker, "one")
    freed = engine.freed
    worker.unload(ModelChoice("two", "x"))
    worker.unload(ModelChoice("one", "x", "bfloat16"))
    opened_with(worker, "two", "one")
    assert worker.opened == (ModelChoice("two", "x"), ModelChoice("one", "x"))
    assert (engine.loads, engine.freed) == (["one", "two"], freed)


def _raiser(error: BaseException):
    def work(model: FakeModel, job: Job) -> None:
        raise error

    return work


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_running_out_of_memory_fails_one_job_and_the_next_succeeds(
    worker: Worker[FakeModel],
    engine: FakeEngine,
    error: Exception,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ask(worker, "before").result(10)
    failed, following = ask(worker, "too long", _raiser(error)), ask(worker, "after")
    with pytest.raises(MemoryLimitError, match="cpu ran out of memory on 'too long'"):
        failed.result(10)
    assert following.result(10) == "after"
    assert engine.loads == ["atlas", "atlas"], "the models were let go and opened again"
    assert "Traceback" in caplog.text


@pytest.mark.parametrize("error", [ValueError("shape (3, 4)"), SystemExit(1), KeyError("x")])
def test_an_unexpected_error_is_one_sentence_for_the_person_and_a_traceback_in_the_log(
    worker: Worker[FakeModel], error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    failed, following = ask(worker, "bad", _raiser(error)), ask(worker, "good")
    with pytest.raises(TracerError) as caught:
        failed.result(10)
    assert type(error).__name__ in str(caught.value)
    assert "\n" not in str(caught.value)
    assert following.result(10) == "good"
    assert "Traceback" in caplog.text and "_raiser" not in str(caught.value)


def test_an_error_raised_on_purpose_arrives_unchanged_and_is_not_logged(
    worker: Worker[FakeModel], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(ModelError, match=r"^no such layer$"):
        ask(worker, "bad", _raiser(ModelError("no such layer"))).result(10)
    assert caplog.text == ""


def test_a_job_cancelled_while_the_model_opens_does_not_run(
    worker: Worker[FakeModel], engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening, go_on = threading.Event(), threading.Event()
    load = engine.load

    def slow_load(choice: ModelChoice, progress: Progress) -> FakeModel:
        opening.set()
        go_on.wait(10)
        return load(choice, progress)

    monkeypatch.setattr(engine, "load", slow_load)
    ran: list[str] = []
    job = ask(worker, "a", lambda model, job: (job.report(0, 1, "tracing"), ran.append("a")))
    assert opening.wait(10)
    assert job.progress == (0, 0, "opening atlas")
    job.cancel()
    go_on.set()
    with pytest.raises(Cancelled):
        job.result(10)
    assert ran == []
    assert ask(worker, "b").result(10) == "b"
    assert engine.loads == ["atlas"], "the model that was opened in vain is kept"


def test_files_that_change_while_a_model_opens_are_noticed(
    worker: Worker[FakeModel], folders: FakeFolders
) -> None:
    folders.fingerprints["atlas"] = "newer files"
    with pytest.raises(ModelError, match="changed while it was being opened"):
        ask(worker, "a").result(10)
    current = worker.submit("a", "a", ATLAS, "newer files", lambda model, job: "right")
    assert current.result(10) == "right"


def test_the_same_key_from_many_threads_at_once_runs_once(worker: Worker[FakeModel]) -> None:
    go_on, together, ran = threading.Event(), threading.Barrier(16), []
    ask(worker, "first", lambda model, job: go_on.wait(10))
    jobs: list[Job] = []

    def session() -> None:
        together.wait(10)
        jobs.append(ask(worker, "same", lambda model, job: ran.append(1)))

    sessions = [threading.Thread(target=session) for _ in range(16)]
    for thread in sessions:
        thread.start()
    for thread in sessions:
        thread.join(10)
    go_on.set()
    jobs[0].result(10)
    assert len(jobs) == 16 and len(set(map(id, jobs))) == 1
    assert ran == [1]


def test_a_closed_worker_finishes_its_queue_and_takes_no_more(engine: FakeEngine) -> None:
    worker = Worker(engine)
    jobs = [ask(worker, f"{n}") for n in range(5)]
    worker.close(10)
    assert [job.state for job in jobs] == ["done"] * 5
    with pytest.raises(RuntimeError, match="closed"):
        ask(worker, "late")
