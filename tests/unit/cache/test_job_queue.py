"""One thread, one queue: every job runs once, and closing ends all of them."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator

import pytest
from fakes import until

from cache import Job
from cache.job_queue import JobQueue
from tracer.errors import Cancelled, HubError, TracerError


@pytest.fixture
def queue() -> Iterator[JobQueue]:
    queue = JobQueue("test queue", keep=32)
    yield queue
    queue.close(10, cancel=True)


class Blocking:
    """Work that reports progress until the test releases it."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.times = self.reports = 0
        self._released = threading.Event()

    def __call__(self, job: Job[str]) -> str:
        self.times += 1
        self.begun.set()
        while not self._released.wait(0.005):
            job.report(1, 3, "blocking")
            self.reports += 1
        return "released"

    def wait_until_begun(self) -> None:
        assert self.begun.wait(10), "the work never began"

    def release(self) -> None:
        self._released.set()


@pytest.fixture
def blocking() -> Iterator[Blocking]:
    work = Blocking()
    yield work
    work.release()


def threads_named(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


def raising(error: BaseException) -> Callable[[Job[None]], None]:
    def work(job: Job[None]) -> None:
        raise error

    return work


def test_jobs_run_in_order_in_one_background_thread(queue: JobQueue) -> None:
    ran: list[tuple[int, int]] = []
    jobs = [
        queue.submit(f"{n}", f"{n}", lambda job, n=n: ran.append((n, threading.get_ident())))
        for n in range(20)
    ]
    for job in jobs:
        job.result(10)
    assert [n for n, _ in ran] == list(range(20))
    threads = {thread for _, thread in ran}
    assert len(threads) == 1 and threading.get_ident() not in threads


def test_the_thread_starts_with_the_first_job_and_is_a_daemon(queue: JobQueue) -> None:
    assert threads_named("test queue") == []
    assert (queue.jobs, queue.get("a")) == ((), None)
    assert queue.submit("a", "a", lambda job: 5).result(10) == 5
    (thread,) = threads_named("test queue")
    assert thread.daemon, "a running download must not keep a stopped server alive"


def test_progress_is_visible_while_a_job_runs(queue: JobQueue, blocking: Blocking) -> None:
    job = queue.submit("a", "the title", blocking)
    until(lambda: job.progress == (1, 3, "blocking"))
    assert (job.state, job.title) == ("running", "the title")
    blocking.release()
    assert job.result(10) == "released"


def test_the_queue_lists_the_running_job_then_the_waiting_ones(
    queue: JobQueue, blocking: Blocking
) -> None:
    queue.submit("third", "", lambda job: None).result(10)
    first = queue.submit("first", "", blocking)
    second, third = (queue.submit(key, "", lambda job: None) for key in ("second", "third"))
    blocking.wait_until_begun()
    assert queue.jobs == (first, second, third)
    second.cancel()
    assert queue.jobs == (first, third)
    blocking.release()
    third.result(10)
    assert queue.jobs == ()


def test_two_sessions_share_a_job_and_it_stops_when_both_cancel(
    queue: JobQueue, blocking: Blocking
) -> None:
    job = queue.submit("a", "", blocking, "anna")
    blocking.wait_until_begun()
    assert queue.submit("a", "", blocking, "ben") is job
    job.cancel("ben")
    before = blocking.reports
    until(lambda: blocking.reports > before + 1)
    assert (job.state, queue.jobs) == ("running", (job,))
    job.cancel("anna")
    with pytest.raises(Cancelled):
        job.result(10)
    assert blocking.times == 1


def test_a_finished_job_runs_again_when_it_is_submitted_again(queue: JobQueue) -> None:
    ran: list[int] = []
    first = queue.submit("a", "", lambda job: ran.append(1))
    first.result(10)
    second = queue.submit("a", "", lambda job: ran.append(2))
    second.result(10)
    assert queue.get("a") is second is not first
    assert ran == [1, 2]


def test_a_job_that_is_being_cancelled_starts_over_when_it_is_submitted_again(
    queue: JobQueue, blocking: Blocking
) -> None:
    stopped = queue.submit("a", "", blocking)
    blocking.wait_until_begun()
    stopped.cancel()
    assert queue.submit("a", "", lambda job: "again").result(10) == "again"
    assert stopped.state == "cancelled"


def test_a_job_cancelled_while_it_waits_never_runs(queue: JobQueue, blocking: Blocking) -> None:
    ran: list[str] = []
    queue.submit("first", "", blocking)
    second = queue.submit("second", "", lambda job: ran.append("second"))
    second.cancel()
    assert second.wait(0) and second.state == "cancelled"
    blocking.release()
    queue.submit("third", "", lambda job: ran.append("third")).result(10)
    assert ran == ["third"]


def test_only_the_latest_ended_jobs_are_kept_and_all_unfinished_ones(
    queue: JobQueue, blocking: Blocking
) -> None:
    running = queue.submit("running", "", blocking)
    waiting = queue.submit("waiting", "", lambda job: None)
    blocking.wait_until_begun()
    for number in range(40):
        queue.submit(f"{number}", "", lambda job: None).cancel()
    queue.submit("one more", "", lambda job: None)
    known = [number for number in range(40) if queue.get(f"{number}") is not None]
    assert known == list(range(8, 40)), "the latest 32"
    assert queue.get("running") is running and queue.get("waiting") is waiting


def test_a_queue_keeps_no_ended_job_unless_it_is_asked_to() -> None:
    queue = JobQueue("forgetful")
    gone = threading.Event()
    job = queue.submit("a", "", lambda job: "done")
    job.result(10)
    weakref.finalize(job, gone.set)
    del job
    assert gone.wait(10) and queue.get("a") is None
    queue.close(10)


def test_the_work_of_a_cancelled_job_is_let_go_before_its_turn(
    queue: JobQueue, blocking: Blocking
) -> None:
    class File:
        """An upload of many megabytes."""

    file, gone = File(), threading.Event()
    weakref.finalize(file, gone.set)
    queue.submit("running", "", blocking)
    job = queue.submit("import", "", lambda job, file=file: None)
    del file
    job.cancel()
    queue.submit("next", "", lambda job: None)
    assert gone.wait(10)


@pytest.mark.parametrize("error", [ValueError("shape (3, 4)"), MemoryError(), SystemExit(1)])
def test_an_unexpected_error_becomes_one_sentence_and_a_traceback_in_the_log(
    queue: JobQueue, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    failed = queue.submit("bad", "the title", raising(error))
    after = queue.submit("good", "", lambda job: "good")
    with pytest.raises(TracerError, match=f"'the title' failed.*{type(error).__name__}") as caught:
        failed.result(10)
    assert after.result(10) == "good"
    assert "\n" not in str(caught.value) and "Traceback" in caplog.text


def test_a_deliberate_error_arrives_unchanged_and_is_not_logged(
    queue: JobQueue, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(HubError, match=r"^no such thing$"):
        queue.submit("bad", "", raising(HubError("no such thing"))).result(10)
    assert "Traceback" not in caplog.text and all(r.levelno < 30 for r in caplog.records)


def test_an_action_runs_between_two_jobs(queue: JobQueue, blocking: Blocking) -> None:
    steps: list[str] = []
    first = queue.submit("first", "", blocking)
    second = queue.submit("second", "", lambda job: steps.append("second"))
    blocking.wait_until_begun()
    queue.soon(lambda: steps.append(f"action after {first.state}"))
    blocking.release()
    second.result(10)
    assert steps == ["action after done", "second"]


def test_a_failing_action_is_logged_and_ends_nothing(
    queue: JobQueue, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise SystemExit("no such device")

    queue.soon(fail)
    assert queue.submit("a", "", lambda job: "fine").result(10) == "fine"
    assert "no such device" in caplog.text


def test_closing_with_cancel_stops_every_job_for_every_session(blocking: Blocking) -> None:
    queue = JobQueue("closing")
    running = queue.submit("running", "", blocking, "anna")
    queue.submit("running", "", blocking, "ben")
    waiting = queue.submit("waiting", "", lambda job: "ran", "anna")
    blocking.wait_until_begun()
    queue.close(10, cancel=True)
    assert (running.state, waiting.state) == ("cancelled", "cancelled")
    assert threads_named("closing") == []
    with pytest.raises(RuntimeError, match="closed"):
        queue.submit("late", "", lambda job: None)


def test_closing_finishes_the_queue_and_then_runs_the_last_action() -> None:
    steps: list[str] = []
    queue = JobQueue("finishing", at_end=lambda: steps.append("end"))
    for name in ("first", "second"):
        queue.submit(name, "", lambda job, name=name: steps.append(name))
    queue.close(10)
    queue.soon(lambda: steps.append("too late"))
    assert steps == ["first", "second", "end"]
    assert threads_named("finishing") == []


def test_closing_an_unused_queue_starts_no_thread_and_returns_at_once() -> None:
    ended: list[str] = []
    queue = JobQueue("unused", at_end=lambda: ended.append("end"))
    start = time.monotonic()
    queue.close(60)
    assert time.monotonic() - start < 10
    assert threads_named("unused") == [] and ended == []


def test_an_idle_thread_keeps_nothing_of_the_last_job(queue: JobQueue) -> None:
    class Index:
        """Something large that the work refers to."""

    index, gone = Index(), threading.Event()
    weakref.finalize(index, gone.set)
    queue.submit("a", "", lambda job, index=index: None).result(10)
    del index
    assert gone.wait(10)
