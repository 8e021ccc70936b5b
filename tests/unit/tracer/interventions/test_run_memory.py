"""A run of scenarios plans its memory, keeps to the plan, and never builds all logits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from counting import PeakMemory
from example_scenarios import mixed_scenarios, succeeded
from transformers import AutoModelForCausalLM

import tracer
from tracer.errors import MemoryLimitError
from tracer.interventions.edit_rows import check_row
from tracer.interventions.memory import RunPlan, plan_run
from tracer.interventions.run import run_scenarios
from tracer.interventions.scenario import Edit, Scenario
from tracer.model.bridge import Bridge
from tracer.model.model import Model
from tracer.types import FeatureId

LARGE_VOCABULARY = 20_000
SCENARIOS = [Scenario(f"{n}", (Edit(FeatureId(n % 3, n), 1, None, "set", 3.0),)) for n in range(8)]


def planned(
    model: Model,
    scenarios: list[Scenario],
    generate: int = 0,
    watch_all: bool = False,
    batch_size: int = 16,
    limit: int | None = None,
) -> RunPlan:
    n_pos = len(tiny.IDS)
    rows = [check_row(model, scenario, n_pos) for scenario in scenarios]
    return plan_run(model, rows, n_pos, generate, watch_all, batch_size, limit)


@pytest.fixture(scope="module")
def with_large_vocabulary(
    open_tiny: Callable[..., Model], tmp_path_factory: pytest.TempPathFactory
) -> Model:
    source = open_tiny().source
    folder = tiny.save_model(tmp_path_factory.mktemp("large-vocabulary"))
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(LARGE_VOCABULARY, mean_resizing=False)
    model.save_pretrained(folder)
    return tracer.load(str(folder), str(source.transcoder_folder), device="cpu")


def test_only_the_logits_of_the_last_position_are_computed(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = []
    run_batch, step = Bridge.run_batch, Bridge.step

    def note(value: torch.Tensor, hook: Any) -> None:
        shapes.append(tuple(value.shape))

    def noting_batch(bridge: Bridge, token_ids: Any, hooks: Any = ()) -> Any:
        return run_batch(bridge, token_ids, [*hooks, ("unembed.hook_out", note)])

    def noting_step(bridge: Bridge, token_ids: Any, hooks: Any, cache: Any) -> Any:
        return step(bridge, token_ids, [*hooks, ("unembed.hook_out", note)], cache)

    monkeypatch.setattr(Bridge, "run_batch", noting_batch)
    monkeypatch.setattr(Bridge, "step", noting_step)
    run_scenarios(model, tiny.IDS, SCENARIOS, generate=2)
    vocabulary = model.vocab_size
    assert set(shapes) == {(1, 1, vocabulary), (8, 1, vocabulary)}
    assert len(shapes) == 5  # captured; baseline and batch: prompt and one token each


@pytest.mark.parametrize("generate", [0, 4])
def test_the_logits_of_all_positions_are_never_in_memory(
    with_large_vocabulary: Model, generate: int
) -> None:
    model = with_large_vocabulary
    every_logit = 4 * len(SCENARIOS) * len(tiny.IDS) * model.vocab_size
    with PeakMemory() as memory:
        run_scenarios(model, tiny.IDS, SCENARIOS, generate=generate)
    plan = planned(model, SCENARIOS, generate)
    assert memory.peak < 0.7 * every_logit
    assert memory.peak < plan.total


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
@pytest.mark.parametrize("kind", ["transcoder_set", "cross_layer_transcoder"])
def test_a_run_takes_no_more_than_planned(
    open_tiny: Callable[..., Model], architecture: str, kind: str
) -> None:
    model = open_tiny(architecture, kind=kind, skip=True)
    scenarios = mixed_scenarios(model)
    for generate, watch in ((0, ()), (0, "all"), (2, ())):
        plan = planned(model, scenarios, generate, watch == "all")
        with PeakMemory() as memory:
            run_scenarios(model, tiny.IDS, scenarios, generate=generate, watch=watch)
        assert plan.total / 10 < memory.peak < plan.total


def test_bfloat16_weights_are_counted_in_float32(model: Model) -> None:
    folders = str(model.source.model_folder), str(model.source.transcoder_folder)
    narrow = tracer.load(*folders, device="cpu", dtype="bfloat16")
    plan = planned(narrow, SCENARIOS)
    assert plan.passing > planned(model, SCENARIOS).passing
    with PeakMemory() as memory:
        run_scenarios(narrow, tiny.IDS, SCENARIOS)
    assert memory.peak < plan.total


def test_captured_values_and_longer_texts_are_counted(model: Model) -> None:
    every_layer = tuple(range(model.n_layers))
    edit = SCENARIOS[0].edits[0]
    free, patterns, frozen = (
        planned(model, [Scenario("", (edit,), freeze, layers)])
        for freeze, layers in ((False, None), (True, None), (True, every_layer))
    )
    n_pos, n_heads = len(tiny.IDS), model.blocks[0].W_O.shape[0]
    assert patterns.kept - free.kept == 4 * model.n_layers * n_heads * n_pos**2
    assert frozen.kept > patterns.kept
    assert planned(model, SCENARIOS, 5).per_row > planned(model, SCENARIOS).per_row
    assert planned(model, SCENARIOS, watch_all=True).passing > planned(model, SCENARIOS).passing


def test_a_limit_lowers_the_batch_size_and_not_the_numbers(model: Model) -> None:
    plan = planned(model, SCENARIOS)
    assert plan.batch_size == 8
    limit = plan.kept + plan.passing + int(2.5 * plan.per_row)
    reports: list[int] = []
    small = run_scenarios(
        model,
        tiny.IDS,
        SCENARIOS,
        memory_limit=limit,
        progress=lambda done, total, what: reports.append(done),
    )
    assert reports == [0, 0, 2, 4, 6, 8]
    unlimited = run_scenarios(model, tiny.IDS, SCENARIOS)
    for outcome, other in zip(succeeded(small), succeeded(unlimited), strict=True):
        assert outcome.logits == pytest.approx(other.logits, abs=1e-5)


def test_a_limit_that_is_too_small_is_refused_with_numbers(model: Model) -> None:
    plan = planned(model, SCENARIOS)
    message = (
        r"one scenario of 6 tokens needs about [\d.]+ kB, in addition to [\d.]+ kB for the "
        r"unedited run and the edited features, but only 1\.0 kB may be used: shorten the prompt"
    )
    ran: list[object] = []
    with pytest.raises(MemoryLimitError, match=message):
        run_scenarios(
            model,
            tiny.IDS,
            SCENARIOS,
            memory_limit=1000,
            progress=lambda *report: ran.append(report),
        )
    assert not ran
    with pytest.raises(MemoryLimitError, match="one scenario of 6 tokens"):
        tracer.intervene(model, tiny.IDS, [], memory_limit=1000)
    least = plan.kept + plan.passing + plan.per_row
    assert planned(model, SCENARIOS, limit=least).batch_size == 1
    with pytest.raises(MemoryLimitError):
        planned(model, SCENARIOS, limit=least - 1)


def test_a_full_machine_is_refused_before_anything_runs(
    model: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tracer.interventions.memory.available_bytes", lambda device: 2000)
    with pytest.raises(MemoryLimitError, match=r"only 1\.6 kB may be used"):
        run_scenarios(model, tiny.IDS, SCENARIOS)
