"""The models that a worker keeps open, and how it lets go of them."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator

import pytest
from fakes import FakeEngine, FakeModel, until
from worker_asks import ask, raising

from cache import Job, ModelChoice
from cache.worker import Worker

ONE, TWO, THREE = (ModelChoice(name, "x") for name in ("one", "two", "three"))


@pytest.fixture
def worker(engine: FakeEngine) -> Iterator[Worker[FakeModel]]:
    worker = Worker(engine)
    yield worker
    worker.close(10)


def opened_with(worker: Worker[FakeModel], *choices: ModelChoice) -> list[weakref.ref[FakeModel]]:
    """Open models and return weak references to them."""
    models: list[weakref.ref[FakeModel]] = []

    def look(model: FakeModel, job: Job) -> None:
        models.append(weakref.ref(model))

    for choice in choices:
        ask(worker, choice.model, look, choice).result(10)
    return models


def test_two_models_stay_open(worker: Worker[FakeModel], engine: FakeEngine) -> None:
    for choice in (ONE, TWO, ONE, TWO, ONE, THREE, ONE, TWO):
        ask(worker, "x", choice=choice).result(10)
    assert engine.loads == ["one", "two", "three", "two"]


def test_open_models_are_listed_with_the_most_recently_used_last(
    worker: Worker[FakeModel],
) -> None:
    assert worker.opened == ()
    for choice, expected in [
        (ONE, (ONE,)),
        (TWO, (ONE, TWO)),
        (ONE, (TWO, ONE)),
        (THREE, (ONE, THREE)),
    ]:
        ask(worker, "x", choice=choice).result(10)
        assert worker.opened == expected
    worker.close(10)
    assert worker.opened == ()


def test_a_replaced_model_leaves_memory(engine: FakeEngine) -> None:
    worker = Worker(engine, models_kept=1)
    (model,) = opened_with(worker, ONE)
    opened_with(worker, TWO)
    assert model() is None and worker.opened == (TWO,)
    worker.close(10)


def test_a_model_whose_job_ran_out_of_memory_is_dropped(worker: Worker[FakeModel]) -> None:
    opened_with(worker, ONE)
    ask(worker, "bad", raising(MemoryError()), ONE).wait(10)
    assert worker.opened == ()


def test_an_unloaded_model_leaves_memory_at_once_on_an_idle_worker(
    worker: Worker[FakeModel], engine: FakeEngine
) -> None:
    one, two = opened_with(worker, ONE, TWO)
    freed = engine.freed
    worker.unload(ONE)
    until(lambda: engine.freed > freed)
    assert (one(), two() is None) == (None, False)
    assert worker.opened == (TWO,)
    opened_with(worker, TWO, ONE)
    assert engine.loads == ["one", "two", "one"]


def test_a_model_is_unloaded_after_the_running_job_and_before_the_next(
    worker: Worker[FakeModel], engine: FakeEngine
) -> None:
    started, released = threading.Event(), threading.Event()

    def block(model: FakeModel, job: Job) -> bool:
        started.set()
        released.wait(10)
        return worker.opened == (ONE,)

    (model,) = opened_with(worker, ONE)
    running = ask(worker, "first", block, ONE)
    assert started.wait(10)
    worker.unload(ONE)
    after = ask(worker, "second", lambda _, job: model() is None, ONE)
    assert model() is not None and worker.opened == (ONE,)
    released.set()
    assert running.result(10), "it was open to the end"
    assert after.result(10), "the next job has a new model"
    assert engine.loads == ["one", "one"]


def test_unloading_a_model_that_is_not_open_does_nothing(
    worker: Worker[FakeModel], engine: FakeEngine
) -> None:
    worker.unload(TWO)
    opened_with(worker, ONE)
    freed = engine.freed
    worker.unload(TWO)
    worker.unload(ModelChoice("one", "x", "bfloat16"))
    opened_with(worker, TWO, ONE)
    assert worker.opened == (TWO, ONE)
    assert (engine.loads, engine.freed) == (["one", "two"], freed)
