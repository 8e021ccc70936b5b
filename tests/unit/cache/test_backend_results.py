"""Interventions, scenarios and tokens: run once, and again when anything about them changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from fakes import FakeEngine, FakeFolders

from cache import (
    Backend,
    InterveneRequest,
    Job,
    ModelChoice,
    ScenarioRequest,
    TraceRequest,
)
from tracer.errors import TargetError
from tracer.interventions.scenario import Edit, Scenario
from tracer.types import FeatureId, Intervention, NodeId

DALLAS = TraceRequest("The capital of the state containing Dallas is")
OFF = InterveneRequest(DALLAS.prompt, (Intervention(layer=0, position=-1, feature=5, value=0.0),))
Restart = Callable[[], Backend]


def test_an_intervention_runs_once_and_is_remembered(backend: Backend, engine: FakeEngine) -> None:
    first = backend.intervene(OFF)
    result = first.result(10)
    again = backend.intervene(OFF)
    assert again.result() is result
    assert (first.from_cache, again.from_cache) == (False, True)
    assert engine.intervened == [OFF.prompt]


def test_results_beyond_the_memory_for_them_are_computed_again(
    open_again: Restart, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cache.backend.RESULT_BYTES", 1)
    backend = open_again()
    for _ in range(2):
        assert not backend.intervene(OFF).from_cache
        backend.intervene(OFF).result(10)
    assert len(engine.intervened) >= 2


SCALED = Scenario("off", (Edit(FeatureId(0, 5), 1, 2, "scale", 0.0),))
FREE = dataclasses.replace(SCALED, freeze_attention=False)


@pytest.mark.parametrize(
    "change",
    [
        {"scenarios": (FREE,)},
        {"scenarios": (SCALED, FREE)},
        {"scenarios": (SCALED.scaled(2), dataclasses.replace(SCALED, name="x"))},
        {"generate": 3},
        {"prompt": "a c"},
        {"watch": (NodeId("feature", 0, 1, 5),)},
        {"temperature": 0.5},
        {"temperature": 0.5, "seed": 3},
    ],
)
def test_scenarios_run_once_and_again_when_anything_about_them_changes(
    backend: Backend, engine: FakeEngine, change: dict
) -> None:
    request = ScenarioRequest("a b", (SCALED,))
    result = backend.scenarios(request).result(10)
    assert backend.scenarios(request).result() is result
    job = backend.scenarios(dataclasses.replace(request, **change))
    job.result(10)
    assert not job.from_cache
    assert len(engine.ran) == 2


def test_scenarios_of_a_retrained_model_run_again(backend: Backend, folders: FakeFolders) -> None:
    request = ScenarioRequest("a b", (SCALED,))
    backend.scenarios(request).result(10)
    folders.fingerprints["atlas"] = "retrained"
    assert not backend.scenarios(request).from_cache


def test_a_text_is_looked_up_as_one_token_or_refused(backend: Backend) -> None:
    austin = backend.token(ModelChoice(), " Austin").result(10)
    assert austin == backend.token(ModelChoice(), " Austin").result(10)
    assert austin != backend.token(ModelChoice(), " Dallas").result(10)
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
