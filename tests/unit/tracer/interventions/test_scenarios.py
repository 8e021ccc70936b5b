"""Many what-ifs in one batch say what each says alone."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import pytest
import tiny
import torch

import tracer
from tracer.errors import InterventionError, TracerError
from tracer.interventions.run import Outcome, run_scenarios
from tracer.interventions.scenario import Edit, Scenario, edit_all
from tracer.model.model import Model
from tracer.types import FeatureId, NodeId

KINDS = ("transcoder_set", "cross_layer_transcoder")


def features(model: Model) -> list[NodeId]:
    graph = tracer.trace(model, tiny.IDS)
    return [graph.index.node(row) for row in range(graph.index.n_features)]


def several(model: Model) -> list[Scenario]:
    """Different edits under different constraints."""
    first, *_, last = features(model)
    some = features(model)[2:6]
    every = tuple(range(model.n_layers))
    return [
        Scenario("off", edit_all(some, "set", 0.0)),
        Scenario("free", edit_all(some, "scale", -3.0), freeze_attention=False),
        Scenario("held", edit_all([first, *some], "scale", 4.0), constrained_layers=every),
        Scenario("partly held", edit_all(some, "add", 2.0), constrained_layers=(1, 2)),
        Scenario("nothing", ()),
        Scenario("everywhere", (Edit(last.feature, 1, None, "set", 5.0),)),
    ]


def outcomes(run: tracer.ScenarioRun) -> list[Outcome]:
    assert all(isinstance(outcome, Outcome) for outcome in run.outcomes)
    return [outcome for outcome in run.outcomes if isinstance(outcome, Outcome)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ["llama", "gemma2", "neox"])
def test_a_batch_of_mixed_scenarios_is_each_of_them_alone(
    open_tiny: Callable[..., Model], architecture: str, kind: str
) -> None:
    model = open_tiny(architecture, kind=kind, skip=True)
    scenarios, watch = several(model), features(model)[::3]
    together = run_scenarios(model, tiny.PROMPT, scenarios, watch=watch, generate=4)
    for scenario, outcome in zip(scenarios, outcomes(together), strict=True):
        [alone] = outcomes(run_scenarios(model, tiny.PROMPT, [scenario], watch=watch, generate=4))
        assert outcome.name == scenario.name
        assert outcome.logits == pytest.approx(alone.logits, abs=1e-5)
        assert outcome.kl == pytest.approx(alone.kl, abs=1e-6)
        assert outcome.activations == pytest.approx(alone.activations, abs=1e-5)
        assert outcome.continuation == alone.continuation
    small = run_scenarios(model, tiny.PROMPT, scenarios, batch_size=2)
    for outcome, other in zip(outcomes(together), outcomes(small), strict=True):
        assert outcome.logits == pytest.approx(other.logits, abs=1e-5)
    nothing = outcomes(together)[4]
    assert nothing.kl < 1e-9 and nothing.differs_at is None
    assert nothing.continuation == together.baseline.continuation


def test_scale_and_add_count_from_the_unedited_activation(model: Model) -> None:
    graph = tracer.trace(model, tiny.PROMPT)
    node = graph.index.node(3)
    activation = float(graph.activations[3])
    below = [Edit.at(other, "scale", 3.0) for other in features(model)[:2]]
    scenarios = [
        Scenario("set", (*below, Edit.at(node, "set", 2.5 * activation))),
        Scenario("scale", (*below, Edit.at(node, "scale", 2.5))),
        Scenario("add", (*below, Edit.at(node, "add", 1.5 * activation))),
    ]
    found = outcomes(run_scenarios(model, tiny.PROMPT, scenarios))
    for other in found[1:]:
        assert other.logits == pytest.approx(found[0].logits, abs=1e-4)
    assert found[0].kl > 1e-4


def test_a_range_is_every_position_in_it_and_the_later_edit_wins(model: Model) -> None:
    feature = FeatureId(1, 5)
    n_pos = len(model.encode(tiny.PROMPT))
    one_by_one = tuple(Edit(feature, p, p + 1, "set", 3.0) for p in range(2, n_pos))
    scenarios = [
        Scenario("each", one_by_one),
        Scenario("range", (Edit(feature, 2, n_pos, "set", 3.0),)),
        Scenario("from the end", (Edit(feature, 2 - n_pos, None, "set", 3.0),)),
        Scenario("twice", (Edit(feature, 1, 3, "set", 9.0), *one_by_one)),
        Scenario("and before", (Edit(feature, 1, 2, "set", 9.0), *one_by_one)),
    ]
    each, *same, twice, before = outcomes(run_scenarios(model, tiny.PROMPT, scenarios))
    for other in same:
        assert other.logits == pytest.approx(each.logits, abs=1e-5)
    assert twice.logits == pytest.approx(before.logits, abs=1e-5)
    assert abs(twice.logits - each.logits).max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_generating_from_the_cache_says_what_running_it_all_again_says(
    open_tiny: Callable[..., Model], architecture: str, kind: str
) -> None:
    """Edits at the prompt stay in the cache; open-ended ones act on every new token."""
    model = open_tiny(architecture, kind=kind)
    node = features(model)[1]
    open_ended = Edit(FeatureId(2, 4), 2, None, "set", 25.0)
    scenarios = [
        Scenario("prompt", (Edit.at(node, "set", -4.0),)),
        Scenario("free", (Edit.at(node, "set", -4.0), open_ended), freeze_attention=False),
        Scenario("frozen", (Edit.at(node, "set", -4.0), open_ended)),
        Scenario("held", (Edit.at(node, "set", -4.0), open_ended), constrained_layers=(0, 1, 2)),
        Scenario("held below", (open_ended,), constrained_layers=(0, 1)),
    ]
    ids = list(model.encode(tiny.IDS))
    run = run_scenarios(model, ids, scenarios, generate=5)
    for scenario, outcome in zip(scenarios, outcomes(run), strict=True):
        said: list[int] = []
        for _ in outcome.continuation:
            text = [*ids, *said]
            said.append(_next_token_of(model, ids, text, scenario))
        assert outcome.continuation == tuple(said)
    # With nothing held, the text so far is a prompt like any other: an edit from a position on
    # acts on every token of it.
    free = outcomes(run)[1]
    for place, token in enumerate(free.continuation):
        text = [*ids, *free.continuation[:place]]
        [again] = outcomes(run_scenarios(model, text, [scenarios[1]]))
        assert int(again.logits.argmax()) == token
    plain = [int(model.bridge.run(torch.tensor(ids))[-1].argmax())]
    assert run.baseline.continuation[:1] == tuple(plain)


def _next_token_of(model: Model, prompt: list[int], text: list[int], scenario: Scenario) -> int:
    """Without a cache: the whole text again, the prompt's patterns held where they are frozen."""
    from tracer.interventions.edit_hooks import EditedRun, check_row, names_to_capture

    row = check_row(model, scenario, len(prompt))
    _, seen = model.bridge.capture(torch.tensor(prompt), names_to_capture(model, [row]))
    logits = EditedRun(model, [row], seen)(torch.tensor(text))
    return int(logits[0, -1].argmax())


def test_sampling_draws_the_same_numbers_for_all(model: Model) -> None:
    node = features(model)[1]
    scenarios = [Scenario("nothing", ()), Scenario("pushed", (Edit.at(node, "set", 20.0),))]

    def said(seed: int, temperature: float = 1.0) -> list[tuple[int, ...]]:
        run = run_scenarios(
            model, tiny.PROMPT, scenarios, generate=8, temperature=temperature, seed=seed
        )
        nothing, pushed = outcomes(run)
        assert nothing.continuation == run.baseline.continuation
        return [nothing.continuation, pushed.continuation]

    assert said(1) == said(1)
    assert len({tuple(said(seed)) for seed in range(6)}) > 1
    assert said(3, temperature=1e-4) == said(0, temperature=0.0)


def test_a_sampled_token_comes_as_often_as_it_is_likely(model: Model) -> None:
    likely = tracer.intervene(model, tiny.PROMPT, []).baseline[0]
    scenarios = [Scenario("nothing", ())]
    count = 300
    hits = sum(
        run_scenarios(
            model, tiny.PROMPT, scenarios, generate=1, temperature=1.0, seed=seed
        ).baseline.continuation[0]
        == likely.token_id
        for seed in range(count)
    )
    deviation = (likely.probability * (1 - likely.probability) / count) ** 0.5
    assert abs(hits / count - likely.probability) < 4 * deviation


def test_a_wrong_scenario_fails_alone(model: Model) -> None:
    good = Scenario("good", edit_all(features(model)[:2], "set", 0.0))
    scenarios = [
        Scenario("layer", (Edit(FeatureId(7, 0), 1, 2, "set", 0.0),)),
        good,
        Scenario("feature", (Edit(FeatureId(0, 99), 1, 2, "set", 0.0),)),
        Scenario("position", (Edit(FeatureId(0, 3), 6, 7, "set", 0.0),)),
        Scenario("blows up", (Edit(FeatureId(0, 3), 1, 2, "set", 1e39),)),
        Scenario("constraint", (), constrained_layers=(5,)),
    ]
    run = run_scenarios(model, tiny.PROMPT, scenarios, generate=2)
    named = [str(o) if isinstance(o, TracerError) else o.name for o in run.outcomes]
    for text, expected in zip(
        named, ["layer 7", "good", "feature 99", "position 6", "not finite", "[5]"], strict=True
    ):
        assert expected in text
    [alone] = outcomes(run_scenarios(model, tiny.PROMPT, [good], generate=2))
    beside = run.outcomes[1]
    assert isinstance(beside, Outcome) and beside.continuation == alone.continuation
    assert beside.logits == pytest.approx(alone.logits, abs=1e-5)
    with pytest.raises(InterventionError, match="room for 10"):
        run_scenarios(model, tiny.PROMPT, [good], generate=11)
    with pytest.raises(InterventionError, match="temperature is -1"):
        run_scenarios(model, tiny.PROMPT, [good], generate=1, temperature=-1)


def test_scenarios_are_plain_values(model: Model) -> None:
    scenario = several(model)[3]
    stored = json.loads(json.dumps(scenario.to_dict()))
    assert Scenario.from_dict(stored) == scenario and hash(scenario) is not None
    assert [edit.value for edit in scenario.scaled(0.5).edits] == [1.0] * 4
    with pytest.raises(InterventionError, match="no stored scenario"):
        Scenario.from_dict({"name": "x"})
    with pytest.raises(InterventionError, match="'multiply' is no operation"):
        Edit(FeatureId(0, 0), 0, 1, "multiply", 1.0)  # type: ignore[arg-type]
    with pytest.raises(InterventionError, match="finite"):
        Edit(FeatureId(0, 0), 0, 1, "set", float("inf"))
    with pytest.raises(InterventionError, match="only features"):
        Edit.at(NodeId("error", 0, 1, -1), "set", 0.0)
    assert dataclasses.replace(scenario, name="other") != scenario


def test_a_recipe_moves_with_the_end_of_the_prompt(model: Model) -> None:
    feature = FeatureId(0, 3)
    recipe = Scenario(
        "recipe",
        (
            Edit(feature, 2, 3, "scale", 0.0),
            Edit(feature, 3, None, "set", 1.0),
            Edit(feature, -1, None, "add", 1.0),
            Edit(feature, 2, -1, "scale", 2.0),
        ),
    )
    assert [(edit.start, edit.stop) for edit in recipe.moved(2).edits] == [
        (4, 5),
        (5, None),
        (-1, None),
        (4, -1),
    ]
    assert recipe.moved(-1).edits[0].start == 1
    with pytest.raises(InterventionError, match="2 tokens before the beginning of this prompt"):
        recipe.moved(-2)  # there is no feature at the beginning of text
