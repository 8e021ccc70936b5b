"""What breaks in one job ends only that job, unless the device itself is lost."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from fakes import FakeEngine, FakeModel, until
from worker_asks import ask, raising

from cache import Backend, Job, ModelChoice, TraceRequest
from cache.engine import TracerEngine
from cache.worker import Worker
from tracer.errors import MemoryLimitError, ModelError, TracerError


@pytest.fixture
def worker(engine: FakeEngine) -> Iterator[Worker[FakeModel]]:
    worker = Worker(engine)
    yield worker
    worker.close(10)


@pytest.mark.parametrize("error", [ValueError("shape (3, 4)"), SystemExit(1), KeyError("x")])
def test_an_unexpected_error_becomes_one_sentence_and_a_traceback_in_the_log(
    worker: Worker[FakeModel], error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    failed, following = ask(worker, "bad", raising(error)), ask(worker, "good")
    with pytest.raises(TracerError) as caught:
        failed.result(10)
    assert type(error).__name__ in str(caught.value)
    assert "\n" not in str(caught.value) and "worker_asks" not in str(caught.value)
    assert following.result(10) == "good"
    assert "Traceback" in caplog.text


def test_a_deliberate_error_arrives_unchanged_and_is_not_logged(
    worker: Worker[FakeModel], caplog: pytest.LogCaptureFixture
) -> None:
    ask(worker, "first").result(10)  # logs the device
    caplog.clear()
    with caplog.at_level(logging.DEBUG), pytest.raises(ModelError, match=r"^no such layer$"):
        ask(worker, "bad", raising(ModelError("no such layer"))).result(10)
    assert [record for record in caplog.records if record.name != "cache.requests"] == []


# Out of memory

OUT_OF_MEMORY = [
    MemoryError(),
    RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_running_out_of_memory_fails_one_job_and_the_next_succeeds(
    worker: Worker[FakeModel],
    engine: FakeEngine,
    error: Exception,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ask(worker, "before").result(10)
    failed, following = ask(worker, "too long", raising(error)), ask(worker, "after")
    with pytest.raises(MemoryLimitError, match="cpu ran out of memory on 'too long'"):
        failed.result(10)
    assert following.result(10) == "after"
    assert engine.loads == ["atlas", "atlas"], "the model was dropped and opened again"
    assert engine.freed == 1
    assert "Traceback" in caplog.text


@pytest.mark.parametrize("cause", OUT_OF_MEMORY)
def test_a_sentence_of_the_library_about_memory_frees_the_memory_too(
    worker: Worker[FakeModel], engine: FakeEngine, cause: Exception
) -> None:
    failed = ask(worker, "too long", raising(MemoryLimitError("too many tokens"), cause))
    with pytest.raises(MemoryLimitError, match=r"^too many tokens$"):
        failed.result(10)
    ask(worker, "after").result(10)
    assert (engine.loads, engine.freed) == (["atlas", "atlas"], 1)


def test_a_refusal_before_the_work_began_drops_no_model(
    worker: Worker[FakeModel], engine: FakeEngine
) -> None:
    ask(worker, "too long", raising(MemoryLimitError("it would not fit"))).wait(10)
    ask(worker, "after").result(10)
    assert (engine.loads, engine.freed) == (["atlas"], 0)


@pytest.mark.parametrize("error", [MemoryError(), ValueError("shape")])
def test_memory_is_freed_when_the_failed_work_is_no_longer_referenced(
    worker: Worker[FakeModel], engine: FakeEngine, error: Exception
) -> None:
    class Tensor:
        """Something large on the stack of the failed work."""

    alive: list[bool] = []
    gone = threading.Event()
    free = engine.free_memory
    engine.free_memory = lambda: (alive.append(not gone.is_set()), free())  # type: ignore[method-assign]

    def work(model: FakeModel, job: Job) -> None:
        import weakref

        tensor = Tensor()
        weakref.finalize(tensor, gone.set)
        raise error

    logging.disable()  # a log record keeps the traceback
    try:
        ask(worker, "a", work).wait(10)
    finally:
        logging.disable(logging.NOTSET)
    assert alive == [False]


@pytest.mark.parametrize("available", [{"cuda"}, {"mps"}, {"cuda", "mps"}, set()])
def test_freeing_memory_empties_the_cache_of_every_accelerator(
    available: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    emptied: list[str] = []

    def accelerator(name: str) -> SimpleNamespace:
        return SimpleNamespace(
            is_available=lambda: name in available, empty_cache=lambda: emptied.append(name)
        )

    torch = SimpleNamespace(
        cuda=accelerator("cuda"),
        mps=accelerator("mps"),
        backends=SimpleNamespace(mps=accelerator("mps")),
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    TracerEngine().free_memory()
    assert set(emptied) == available


# A lost device

LOST = [
    "CUDA error: device-side assert triggered\nCUDA kernel errors might be reported later",
    "CUDA error: an illegal memory access was encountered",
    "CUDA error: unspecified launch failure",
]


@pytest.mark.parametrize("text", LOST)
@pytest.mark.parametrize("wrapped", [False, True])
def test_after_a_sticky_cuda_error_every_job_says_to_restart_the_server(
    worker: Worker[FakeModel],
    engine: FakeEngine,
    text: str,
    wrapped: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ask(worker, "before").result(10)
    started, released = threading.Event(), threading.Event()
    error: Exception = RuntimeError(text)

    def fail(model: FakeModel, job: Job) -> None:
        started.set()
        released.wait(10)
        if wrapped:
            raise ModelError("the model failed") from error
        raise error

    failed = ask(worker, "fails", fail)
    assert started.wait(10)
    waiting = ask(worker, "waits", choice=ModelChoice("other", "x"))
    released.set()
    reason = text.splitlines()[0]
    sentence = f"cpu stopped working and no model can run until the server is restarted ({reason})"
    assert waiting.wait(10)
    for job in (failed, waiting, ask(worker, "later")):
        assert job.state == "failed"
        with pytest.raises(TracerError) as caught:
            job.result()
        assert str(caught.value) == sentence
    assert worker.opened == () and worker.lost == sentence
    assert engine.loads == ["atlas"], "nothing is opened on a lost device"
    assert engine.freed == 0, "freeing memory would call the device"
    assert "restarted" in caplog.text


def test_the_librarys_own_error_about_a_lost_device_counts(
    worker: Worker[FakeModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    class DeviceLostError(TracerError):
        """The device is lost."""

    monkeypatch.setattr("cache.worker._LostError", DeviceLostError)
    ask(worker, "fails", raising(DeviceLostError("cuda:0 is lost"))).wait(10)
    assert "cuda:0 is lost" in worker.lost
    with pytest.raises(TracerError, match="server is restarted"):
        ask(worker, "later").result(10)


def test_known_answers_are_still_given_without_the_device(
    backend: Backend, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = TraceRequest("known")
    graph = backend.trace(known).result(10)

    def fail(prompt: str, batch: int) -> None:
        raise RuntimeError(LOST[0])

    engine.on_batch = fail
    assert backend.trace(TraceRequest("unknown")).wait(10)
    assert backend.trace(known).result() is graph
    assert backend.trace(TraceRequest("another")).state == "failed", "at once"
    looked = engine.look
    engine.look = lambda: pytest.fail("a lost device was measured")
    assert backend.library.machine().memory > 0
    engine.look = looked


def test_another_error_does_not_lose_the_device(worker: Worker[FakeModel]) -> None:
    ask(worker, "a", raising(RuntimeError("CUDA error: invalid argument"))).wait(10)
    ask(worker, "b", raising(ModelError("device-side assert"))).wait(10)
    assert worker.lost == ""
    until(lambda: worker.queue == ())
    assert ask(worker, "c").result(10) == "c"
