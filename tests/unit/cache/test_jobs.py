"""The life of a job, as its watchers and its worker see it."""

from __future__ import annotations

import threading
import weakref

import pytest

from cache import Job
from tracer.errors import Cancelled, ModelError, TracerError


def test_a_job_goes_from_queued_through_running_to_done() -> None:
    job = Job[int]("k", "a prompt")
    assert (job.state, job.seconds, job.wait(0)) == ("queued", None, False)
    assert job.begin()
    job.report(1, 3, "tracing")
    assert (job.state, job.progress) == ("running", (1, 3, "tracing"))
    job.succeed(5)
    assert (job.state, job.wait(0), job.result()) == ("done", True, 5)


def test_its_time_stops_when_it_ends() -> None:
    job = Job[int]("k")
    job.begin()
    running = job.seconds
    job.succeed(1)
    ended = job.seconds
    assert running is not None and ended is not None
    assert 0 <= running <= ended == job.seconds


def test_its_age_counts_from_its_end() -> None:
    job = Job[int]("k")
    assert job.age is None
    job.begin()
    assert job.age is None
    job.succeed(1)
    first, second = job.age, job.age
    assert first is not None and second is not None and 0 <= first <= second


def test_a_result_can_be_waited_for() -> None:
    job = Job[int]("k", "a prompt")
    with pytest.raises(TimeoutError, match="a prompt"):
        job.result(timeout=0)
    job.begin()
    threading.Timer(0.01, job.succeed, (7,)).start()
    assert job.result(timeout=10) == 7


def test_a_failure_is_raised_to_every_watcher() -> None:
    job = Job[int]("k")
    job.begin()
    job.fail(ModelError("no model"))
    assert job.state == "failed"
    raised = []
    for _ in range(2):
        with pytest.raises(ModelError, match="no model") as caught:
            job.result()
        raised.append(caught.value)
    assert raised[0] is not raised[1]


class Tensor:
    """Something large on the stack of failed work."""


def test_a_kept_error_keeps_no_frames_alive() -> None:
    job = Job[int]("k")
    job.begin()
    tensors: list[weakref.ref[Tensor]] = []

    def compute() -> None:
        tensor = Tensor()
        tensors.append(weakref.ref(tensor))
        try:
            raise ValueError(tensor)
        except ValueError as error:
            raise TracerError("it failed") from error

    try:
        compute()
    except TracerError as error:
        job.fail(error)
    assert tensors[0]() is None
    with pytest.raises(TracerError, match="it failed"):
        job.result()


def test_a_queued_job_is_cancelled_at_once() -> None:
    job = Job[int]("k")
    job.join()
    job.cancel()
    assert job.state == "cancelled"
    assert not job.begin()
    with pytest.raises(Cancelled):
        job.result()


def test_a_running_job_stops_at_its_next_report() -> None:
    job = Job[int]("k")
    job.join()
    job.begin()
    job.cancel()
    assert job.state == "running"
    with pytest.raises(Cancelled) as caught:
        job.report(1, 2, "tracing")
    job.fail(caught.value)
    assert job.state == "cancelled"


def test_a_cancelled_job_stays_cancelled_even_if_its_work_finishes() -> None:
    job = Job[int]("k")
    job.begin()
    job.cancel()
    job.succeed(1)
    assert job.state == "cancelled"


def test_a_job_is_cancelled_when_every_session_has_cancelled() -> None:
    job = Job[int]("k")
    assert job.join("anna") and job.join("ben") and job.join("ben")
    job.cancel("anna")
    job.cancel("anna")
    assert job.state == "queued"
    job.cancel("ben")
    assert job.state == "cancelled"


def test_an_ended_or_cancelled_job_cannot_be_joined() -> None:
    stopping = Job[int]("k")
    stopping.begin()
    stopping.cancel()
    assert not stopping.join("anna")
    assert not Job.found("k", 1).join("anna")


def test_cancelling_a_finished_job_changes_nothing() -> None:
    job = Job.found("k", 1)
    job.cancel()
    assert (job.state, job.result(), job.from_cache) == ("done", 1, True)


@pytest.mark.parametrize("running", [False, True])
def test_an_abandoned_job_stops_for_every_session(running: bool) -> None:
    job = Job[int]("k")
    assert job.join("anna") and job.join("ben")
    if running:
        job.begin()
    job.abandon()
    assert not job.join("anna")
    if running:
        with pytest.raises(Cancelled):
            job.report(1, 2, "tracing")
        job.succeed(1)
    assert job.state == "cancelled"


def test_abandoning_a_finished_job_changes_nothing() -> None:
    job = Job.found("k", 1)
    job.abandon()
    assert (job.state, job.result()) == ("done", 1)
