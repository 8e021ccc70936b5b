"""Many scenarios in one batch give what each of them gives alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tiny
from example_scenarios import KINDS, active_features, mixed_scenarios, succeeded

import tracer
from tracer.errors import InterventionError, ModelError, TracerError
from tracer.interventions import feature_rows
from tracer.interventions.run import Outcome, run_scenarios
from tracer.interventions.scenario import Edit, Scenario, edit_all
from tracer.model.model import Model
from tracer.types import FeatureId, NodeId


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ["llama", "gemma2", "neox"])
def test_a_batch_of_mixed_scenarios_is_each_of_them_alone(
    open_tiny: Callable[..., Model], architecture: str, kind: str
) -> None:
    model = open_tiny(architecture, kind=kind, skip=True)
    scenarios, watch = mixed_scenarios(model), active_features(model)[::3]
    together = run_scenarios(model, tiny.PROMPT, scenarios, watch=watch, generate=4)
    for scenario, outcome in zip(scenarios, succeeded(together), strict=True):
        [alone] = succeeded(run_scenarios(model, tiny.PROMPT, [scenario], watch=watch, generate=4))
        assert outcome.name == scenario.name
        assert outcome.logits == pytest.approx(alone.logits, abs=1e-5)
        assert outcome.kl == pytest.approx(alone.kl, abs=1e-6)
        assert outcome.activations == pytest.approx(alone.activations, abs=1e-5)
        assert outcome.continuation == alone.continuation
    small = run_scenarios(model, tiny.PROMPT, scenarios, batch_size=2)
    for outcome, other in zip(succeeded(together), succeeded(small), strict=True):
        assert outcome.logits == pytest.approx(other.logits, abs=1e-5)
    nothing = succeeded(together)[4]
    assert nothing.kl < 1e-9 and nothing.differs_at is None
    assert nothing.continuation == together.baseline.continuation


@pytest.mark.parametrize("options", [{}, {"kind": KINDS[1]}, {"activation": "topk"}])
def test_edits_computed_a_few_at_a_time_give_the_same_numbers(
    open_tiny: Callable[..., Model], monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    model = open_tiny("gemma2", **options)
    scenarios = mixed_scenarios(model)

    def run() -> list[Outcome]:
        return succeeded(run_scenarios(model, tiny.PROMPT, scenarios, watch=active_features(model)))

    expected = run()
    monkeypatch.setattr(feature_rows, "GATHERED_BYTES", 4 * 32 * 3)  # three edits of width 32
    for outcome, other in zip(run(), expected, strict=True):
        assert outcome.logits == pytest.approx(other.logits, abs=1e-5)
        assert outcome.activations == pytest.approx(other.activations, abs=1e-5)


@pytest.mark.parametrize("options", [{}, {"activation": "topk"}])
def test_matrices_left_in_their_files_give_the_same_numbers(
    open_tiny: Callable[..., Model], options: dict[str, Any]
) -> None:
    model = open_tiny(**options)
    lazy = tracer.load(
        str(model.source.model_folder),
        str(model.source.transcoder_folder),
        device="cpu",
        lazy_decoders=True,
        lazy_encoders=True,
    )
    scenarios, watch = mixed_scenarios(model), active_features(model)[::3]
    expected, found = (
        succeeded(run_scenarios(opened, tiny.PROMPT, scenarios, generate=3, watch=watch))
        for opened in (model, lazy)
    )
    for outcome, other in zip(found, expected, strict=True):
        assert outcome.logits.tolist() == other.logits.tolist()
        assert outcome.continuation == other.continuation
        assert outcome.activations == other.activations


def test_scale_and_add_are_relative_to_the_unedited_activation(model: Model) -> None:
    graph = tracer.trace(model, tiny.PROMPT)
    node = graph.index.node(3)
    activation = float(graph.activations[3])
    below = [Edit.at(other, "scale", 3.0) for other in active_features(model)[:2]]
    scenarios = [
        Scenario("set", (*below, Edit.at(node, "set", 2.5 * activation))),
        Scenario("scale", (*below, Edit.at(node, "scale", 2.5))),
        Scenario("add", (*below, Edit.at(node, "add", 1.5 * activation))),
    ]
    first, *others = succeeded(run_scenarios(model, tiny.PROMPT, scenarios))
    for other in others:
        assert other.logits == pytest.approx(first.logits, abs=1e-4)
    assert first.kl > 1e-4


def test_a_range_covers_its_positions_and_the_later_edit_wins(model: Model) -> None:
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
    each, *same, twice, before = succeeded(run_scenarios(model, tiny.PROMPT, scenarios))
    for other in same:
        assert other.logits == pytest.approx(each.logits, abs=1e-5)
    assert twice.logits == pytest.approx(before.logits, abs=1e-5)
    assert abs(twice.logits - each.logits).max() > 1e-3


@pytest.mark.parametrize("options", [{}, {"activation": "topk"}])
def test_watching_all_features_finds_every_active_one(
    open_tiny: Callable[..., Model], options: dict[str, Any]
) -> None:
    model = open_tiny(**options)
    graph = tracer.trace(model, tiny.IDS)
    active = {graph.index.node(row): float(value) for row, value in enumerate(graph.activations)}
    edit = Edit.at(next(iter(active)), "scale", 2.0)
    scenarios = [Scenario("nothing", ()), Scenario("edited", (edit,))]
    every = run_scenarios(model, tiny.IDS, scenarios, watch="all")
    assert every.baseline.activations == pytest.approx(active, abs=1e-5)
    nothing, edited = succeeded(every)
    assert nothing.activations == pytest.approx(active, abs=1e-5)
    silent = NodeId("feature", 0, 0, 3)  # nothing is active at the beginning-of-text token
    watched = [*edited.activations, silent]
    chosen = succeeded(run_scenarios(model, tiny.IDS, scenarios, watch=watched))[1]
    assert chosen.activations == pytest.approx({**edited.activations, silent: 0.0}, abs=1e-5)


def test_a_scenario_that_cannot_run_fails_alone(model: Model) -> None:
    good = Scenario("good", edit_all(active_features(model)[:2], "set", 0.0))
    scenarios = [
        Scenario("layer", (Edit(FeatureId(7, 0), 1, 2, "set", 0.0),)),
        good,
        Scenario("feature", (Edit(FeatureId(0, 99), 1, 2, "set", 0.0),)),
        Scenario("position", (Edit(FeatureId(0, 3), 6, 7, "set", 0.0),)),
        Scenario("blows up", (Edit(FeatureId(0, 3), 1, 2, "set", 1e39),)),
        Scenario("constraint", (), constrained_layers=(5,)),
    ]
    run = run_scenarios(model, tiny.PROMPT, scenarios, generate=2)
    texts = [str(o) if isinstance(o, TracerError) else o.name for o in run.outcomes]
    expected = ("layer 7", "good", "no feature 99", "position 6", "blows up: the edited", "[5]")
    for text, part in zip(texts, expected, strict=True):
        assert part in text
    [alone] = succeeded(run_scenarios(model, tiny.PROMPT, [good], generate=2))
    among_others = run.outcomes[1]
    assert isinstance(among_others, Outcome)
    assert among_others.continuation == alone.continuation
    assert among_others.logits == pytest.approx(alone.logits, abs=1e-5)


def test_options_that_concern_all_scenarios_are_refused(model: Model) -> None:
    with pytest.raises(InterventionError, match="room for 10"):
        run_scenarios(model, tiny.PROMPT, [], generate=11)
    with pytest.raises(InterventionError, match="temperature is -1"):
        run_scenarios(model, tiny.PROMPT, [], generate=1, temperature=-1)
    with pytest.raises(InterventionError, match="batch_size is 0: it must be at least 1"):
        run_scenarios(model, tiny.PROMPT, [], batch_size=0)
    with pytest.raises(InterventionError, match="only features have activations"):
        run_scenarios(model, tiny.PROMPT, [], watch=[NodeId("token", -1, 1, 5)])
    with pytest.raises(InterventionError, match="position 6 does not exist"):
        run_scenarios(model, tiny.PROMPT, [], watch=[NodeId("feature", 0, 6, 5)])


def test_a_model_that_is_not_finite_itself_is_named(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_batch = model.bridge.run_batch
    monkeypatch.setattr(model.bridge, "run_batch", lambda *given: run_batch(*given) * float("nan"))
    with pytest.raises(ModelError, match="produces NaN or Inf logits before any edit"):
        run_scenarios(model, tiny.PROMPT, [])
