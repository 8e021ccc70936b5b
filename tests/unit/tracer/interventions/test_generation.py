"""Generation from the cache, sampling, progress and cancelling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from example_scenarios import KINDS, active_features, succeeded

import tracer
from tracer.errors import Cancelled
from tracer.interventions.edit_hooks import LAST_LOGITS, EditedRun, names_to_capture
from tracer.interventions.edit_rows import check_row
from tracer.interventions.generation import Continuation
from tracer.interventions.run import Outcome, run_scenarios
from tracer.interventions.scenario import Edit, Scenario
from tracer.model.bridge import Bridge
from tracer.model.model import Model
from tracer.types import FeatureId

EVERYWHERE = Edit(FeatureId(2, 4), 2, None, "set", 25.0)


def next_tokens(
    model: Model, prompt: list[int], text: list[int], scenario: Scenario
) -> tuple[int, ...]:
    """Run the complete text again, without a cache, with the prompt's frozen values.

    Return the likeliest token after the prompt, and after each further token of the text.
    """
    row = check_row(model, scenario, len(prompt))
    _, captured = model.bridge.capture(torch.tensor(prompt), names_to_capture(model, [row]))
    run = EditedRun(model, [row], captured)
    run.hooks.remove(LAST_LOGITS)
    return tuple(run(torch.tensor(text))[0, len(prompt) - 1 :].argmax(-1).tolist())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_generating_from_the_cache_is_running_the_complete_text_again(
    open_tiny: Callable[..., Model], architecture: str, kind: str
) -> None:
    """Edits of the prompt stay in the cache; open-ended ones act on every new token."""
    model = open_tiny(architecture, kind=kind)
    edit = Edit.at(active_features(model)[1], "set", -4.0)
    scenarios = [
        Scenario("prompt", (edit,)),
        Scenario("free", (edit, EVERYWHERE), freeze_attention=False),
        Scenario("frozen", (edit, EVERYWHERE)),
        Scenario("all frozen", (edit, EVERYWHERE), constrained_layers=(0, 1, 2)),
        Scenario("frozen below", (EVERYWHERE,), constrained_layers=(0, 1)),
    ]
    ids = list(model.encode(tiny.IDS))
    run = run_scenarios(model, ids, scenarios, generate=5)
    for scenario, outcome in zip(scenarios, succeeded(run), strict=True):
        text = [*ids, *outcome.continuation[:-1]]
        assert outcome.continuation == next_tokens(model, ids, text, scenario)
    # With nothing frozen the text so far is a prompt like any other, and an open-ended edit acts on
    # every token of it.
    free = succeeded(run)[1]
    *before, last = free.continuation
    [again] = succeeded(run_scenarios(model, [*ids, *before], [scenarios[1]]))
    assert int(again.logits.argmax()) == last


def test_without_edits_the_continuation_is_the_greedy_one(model: Model) -> None:
    result = tracer.intervene(model, tiny.PROMPT, [], generate=3)
    ids = list(model.encode(tiny.PROMPT))
    words = []
    for _ in range(3):
        ids.append(int(model.bridge.run(torch.tensor(ids))[-1].argmax()))
        words.append(model.token_string(ids[-1]))
    assert result.baseline_continuation == "".join(words) == result.edited_continuation


def test_generation_ends_after_an_end_of_text(model: Model) -> None:
    folders = str(model.source.model_folder), str(model.source.transcoder_folder)
    model = tracer.load(*folders, device="cpu")  # a separate one, to change its end of text
    scenarios = [Scenario("pushed", (EVERYWHERE,)), Scenario("nothing", ())]
    free = succeeded(run_scenarios(model, tiny.PROMPT, scenarios, generate=6))
    end = free[1].continuation[2]
    model.bridge.tokenizer.eos_token = model.token_string(end)
    run = run_scenarios(model, tiny.PROMPT, scenarios, generate=6)
    for outcome, endless in zip(succeeded(run), free, strict=True):
        tokens = endless.continuation
        stop = tokens.index(end) + 1 if end in tokens else len(tokens)
        assert outcome.continuation == tokens[:stop]
    assert len(run.baseline.continuation) <= 3


def test_sampling_uses_the_same_random_numbers_in_all_scenarios(model: Model) -> None:
    node = active_features(model)[1]
    scenarios = [Scenario("nothing", ()), Scenario("pushed", (Edit.at(node, "set", 20.0),))]

    def sampled(seed: int, temperature: float = 1.0) -> list[tuple[int, ...]]:
        run = run_scenarios(
            model, tiny.PROMPT, scenarios, generate=8, temperature=temperature, seed=seed
        )
        nothing, pushed = succeeded(run)
        assert nothing.continuation == run.baseline.continuation
        return [nothing.continuation, pushed.continuation]

    assert sampled(1) == sampled(1)
    assert len({tuple(sampled(seed)) for seed in range(4)}) > 1
    assert sampled(3, temperature=1e-4) == sampled(0, temperature=0.0)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_sampled_as_often_as_they_are_likely(model: Model, temperature: float) -> None:
    """The sampler alone, on the model's own logits: 5,000 draws of one token."""
    count = 5000
    sampler = Continuation(model, count, temperature, seed=7)
    logits = torch.tensor(tracer.intervene(model, tiny.PROMPT, []).baseline_logits)
    rows = logits.expand(2, -1)
    drawn = torch.stack([sampler._choose(rows, number) for number in sampler._random])
    assert (drawn[:, 0] == drawn[:, 1]).all()
    expected = (logits.double() / temperature).softmax(0).numpy()
    observed = np.bincount(drawn[:, 0].numpy(), minlength=len(expected)) / count
    deviation = np.sqrt(expected * (1 - expected) / count)
    assert (np.abs(observed - expected) < 4.5 * deviation + 1 / count).all()
    assert np.abs(observed[expected.argmax()] - expected.max()) < 4 * deviation.max()


def test_a_run_uses_the_sampler_on_the_edited_logits(model: Model) -> None:
    """A seeded token is where the cumulative distribution passes the seed's random number."""
    scenario = Scenario("pushed", (EVERYWHERE,))
    for seed in range(5):
        run = run_scenarios(model, tiny.PROMPT, [scenario], generate=1, temperature=1.0, seed=seed)
        [number] = Continuation(model, 1, 1.0, seed)._random
        for outcome in (run.baseline, *succeeded(run)):
            reached = torch.tensor(outcome.logits).softmax(0).cumsum(0)
            expected = int((reached <= number * reached[-1]).sum())
            assert outcome.continuation == (expected,)


Reports = list[tuple[int, int, str]]


def test_progress_counts_batches_and_generated_tokens(model: Model) -> None:
    reports: Reports = []
    scenarios = [Scenario(f"{number}", (EVERYWHERE,)) for number in range(3)]
    run_scenarios(
        model,
        tiny.PROMPT,
        scenarios,
        generate=2,
        batch_size=2,
        progress=lambda *report: reports.append(report),
    )
    assert reports == [
        (0, 3, "scenarios"),
        (1, 6, "generating"),  # the baseline
        (2, 6, "generating"),
        (0, 3, "scenarios"),
        (3, 6, "generating"),
        (4, 6, "generating"),
        (2, 3, "scenarios"),
        (5, 6, "generating"),
        (6, 6, "generating"),
        (3, 3, "scenarios"),
    ]


def test_intervene_reports_progress(model: Model) -> None:
    reports: Reports = []
    tracer.intervene(
        model, tiny.PROMPT, [], generate=1, progress=lambda *report: reports.append(report)
    )
    assert reports == [
        (0, 1, "scenarios"),
        (1, 2, "generating"),
        (0, 1, "scenarios"),
        (2, 2, "generating"),
        (1, 1, "scenarios"),
    ]


@pytest.mark.parametrize("stop_at", [1, 3, 5])
def test_a_cancelled_run_stops_within_one_token(
    model: Model, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    """Only the tokens before the cancellation have been computed."""
    lengths: list[int] = []
    step = Bridge.step

    def counting(bridge: Bridge, token_ids: torch.Tensor, *given: Any) -> Any:
        lengths.append(token_ids.shape[1])
        return step(bridge, token_ids, *given)

    def stop(done: int, total: int, what: str) -> None:
        if what == "generating" and done == stop_at:
            raise Cancelled("enough")

    monkeypatch.setattr(Bridge, "step", counting)
    with pytest.raises(Cancelled):
        run_scenarios(
            model, tiny.PROMPT, [Scenario("pushed", (EVERYWHERE,))], generate=4, progress=stop
        )
    # The first token of the baseline, and of the batch, comes from a pass over the prompt.
    assert lengths == [6, 1, 1, 1, 6, 1, 1, 1][:stop_at]


def test_a_cancelled_intervention_stops_before_it_starts(model: Model) -> None:
    def stop(*report: object) -> None:
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        tracer.intervene(model, tiny.PROMPT, [], progress=stop)


def test_outcomes_name_the_first_token_that_differs(model: Model) -> None:
    scenarios = [Scenario("pushed", (EVERYWHERE,)), Scenario("nothing", ())]
    run = run_scenarios(model, tiny.PROMPT, scenarios, generate=5)
    pushed, nothing = succeeded(run)
    assert isinstance(pushed, Outcome) and pushed.differs_at is not None
    place = pushed.differs_at
    assert pushed.continuation[:place] == run.baseline.continuation[:place]
    assert pushed.continuation[place] != run.baseline.continuation[place]
    assert nothing.differs_at is None
