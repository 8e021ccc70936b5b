"""Work beside the models: one thread of its own, each errand once, and an end to all of it."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterator

import pytest
from fakes import until

from cache import Job
from cache.background import BackgroundQueue
from tracer.errors import Cancelled, HubError, TracerError


@pytest.fixture
def errands() -> Iterator[BackgroundQueue]:
    errands = BackgroundQueue("the errands of a test")
    yield errands
    errands.close(10)


class Held:
    """Work that goes on until it is let go, and reports whenever it is looked at."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.times = self.reports = 0
        self._go_on = threading.Event()

    def __call__(self, job: Job[str]) -> str:
        self.times += 1
        self.begun.set()
        while not self._go_on.wait(0.005):
            job.report(1, 3, "holding")
            self.reports += 1
        return "held"

    def wait_until_begun(self) -> None:
        assert self.begun.wait(10), "it never began"

    def let_go(self) -> None:
        self._go_on.set()


@pytest.fixture
def held() -> Iterator[Held]:
    work = Held()
    yield work
    work.let_go()


def threads_named(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


def test_errands_run_in_order_in_one_thread_that_is_not_the_callers(
    errands: BackgroundQueue,
) -> None:
    ran: list[tuple[int, int]] = []
    jobs = [
        errands.run(f"{n}", f"{n}", lambda job, n=n: ran.append((n, threading.get_ident())))
        for n in range(20)
    ]
    for job in jobs:
        job.result(10)
    assert [n for n, _ in ran] == list(range(20))
    threads = {thread for _, thread in ran}
    assert len(threads) == 1 and threading.get_ident() not in threads


def test_nothing_is_started_before_there_is_something_to_do(errands: BackgroundQueue) -> None:
    assert threads_named("the errands of a test") == []
    assert (errands.queue, errands.get("a")) == ((), None)
    assert errands.run("a", "a", lambda job: 5).result(10) == 5
    assert len(threads_named("the errands of a test")) == 1


def test_progress_is_seen_while_it_runs(errands: BackgroundQueue, held: Held) -> None:
    job = errands.run("a", "the title", held)
    until(lambda: job.progress == (1, 3, "holding"))
    assert (job.state, job.title) == ("running", "the title")
    held.let_go()
    assert job.result(10) == "held"


def test_the_queue_shows_what_runs_then_what_waits(errands: BackgroundQueue, held: Held) -> None:
    errands.run("third", "", lambda job: None).result(10)
    first = errands.run("first", "", held)
    second, third = (errands.run(key, "", lambda job: None) for key in ("second", "third"))
    held.wait_until_begun()
    assert errands.queue == (first, second, third)
    second.cancel()
    assert errands.queue == (first, third)
    held.let_go()
    third.result(10)
    assert errands.queue == ()


def test_the_same_errand_for_two_sessions_runs_once_and_stops_when_both_cancel(
    errands: BackgroundQueue, held: Held
) -> None:
    job = errands.run("a", "", held, "anna")
    held.wait_until_begun()
    assert errands.run("a", "", held, "ben") is job
    job.cancel("ben")
    before = held.reports
    until(lambda: held.reports > before + 1)
    assert (job.state, errands.queue) == ("running", (job,))
    job.cancel("anna")
    with pytest.raises(Cancelled):
        job.result(10)
    assert held.times == 1


def test_asked_for_again_after_its_end_an_errand_is_run_again(errands: BackgroundQueue) -> None:
    ran: list[int] = []
    first = errands.run("a", "", lambda job: ran.append(1))
    first.result(10)
    assert errands.get("a") is first
    second = errands.run("a", "", lambda job: ran.append(2))
    second.result(10)
    assert errands.get("a") is second is not first
    assert ran == [1, 2]


def test_asked_for_again_while_it_is_being_cancelled_it_starts_over(
    errands: BackgroundQueue, held: Held
) -> None:
    stopped = errands.run("a", "", held)
    held.wait_until_begun()
    stopped.cancel()
    assert errands.run("a", "", lambda job: "again").result(10) == "again"
    assert stopped.state == "cancelled"


def test_an_errand_that_was_cancelled_in_the_queue_never_runs(
    errands: BackgroundQueue, held: Held
) -> None:
    ran: list[str] = []
    errands.run("first", "", held)
    second = errands.run("second", "", lambda job: ran.append("second"))
    second.cancel()
    assert second.wait(0) and second.state == "cancelled"
    held.let_go()
    errands.run("third", "", lambda job: ran.append("third")).result(10)
    assert ran == ["third"]


def test_those_that_ended_are_forgotten_beyond_32_but_never_one_that_runs_or_waits(
    errands: BackgroundQueue, held: Held
) -> None:
    running = errands.run("running", "", held)
    waiting = errands.run("waiting", "", lambda job: None)
    held.wait_until_begun()
    for number in range(40):
        errands.run(f"{number}", "", lambda job: None).cancel()
    errands.run("one more", "", lambda job: None)
    known = [number for number in range(40) if errands.get(f"{number}") is not None]
    assert known == list(range(8, 40)), "the latest 32"
    assert errands.get("running") is running and errands.get("waiting") is waiting


def raiser(error: BaseException) -> Callable[[Job[None]], None]:
    def work(job: Job[None]) -> None:
        raise error

    return work


@pytest.mark.parametrize("error", [ValueError("shape (3, 4)"), MemoryError(), SystemExit(1)])
def test_what_breaks_unexpectedly_ends_alone_with_one_sentence_and_a_traceback_in_the_log(
    errands: BackgroundQueue, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    failed = errands.run("bad", "the title", raiser(error))
    after = errands.run("good", "", lambda job: "good")
    with pytest.raises(TracerError, match=f"'the title' failed.*{type(error).__name__}") as caught:
        failed.result(10)
    assert after.result(10) == "good"
    assert "\n" not in str(caught.value) and "Traceback" in caplog.text


def test_an_error_raised_on_purpose_arrives_unchanged_and_is_not_logged(
    errands: BackgroundQueue, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(HubError, match=r"^no such thing$"):
        errands.run("bad", "", raiser(HubError("no such thing"))).result(10)
    assert caplog.text == ""


def test_closing_cancels_what_runs_and_what_waits_for_everybody_and_ends_the_thread(
    held: Held,
) -> None:
    errands = BackgroundQueue("closing")
    running = errands.run("running", "", held, "anna")
    errands.run("running", "", held, "ben")
    waiting = errands.run("waiting", "", lambda job: "ran", "anna")
    held.wait_until_begun()
    errands.close(10)
    assert (running.state, waiting.state) == ("cancelled", "cancelled")
    assert threads_named("closing") == []
    with pytest.raises(RuntimeError, match="closed"):
        errands.run("late", "", lambda job: None)


def test_closing_what_never_ran_does_nothing() -> None:
    BackgroundQueue("unused").close()


def test_an_idle_thread_holds_nothing_of_the_last_errand(errands: BackgroundQueue) -> None:
    class Index:
        pass

    index = Index()
    gone = threading.Event()
    weakref.finalize(index, gone.set)
    errands.run("a", "", lambda job, index=index: None).result(10)
    del index
    assert gone.wait(10)
