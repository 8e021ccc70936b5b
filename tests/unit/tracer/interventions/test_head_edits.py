"""Heads are switched off, frozen, or lose pairs of sources: what the model does is as predicted."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from attention_sets import SETS

import tracer
from tracer import Edit, FeatureId, HeadEdit, Scenario
from tracer.__main__ import main
from tracer.attention.results import AttentionExplanation
from tracer.errors import InterventionError
from tracer.interventions.edit_hooks import EditedRun, capture_unedited, names_to_capture
from tracer.interventions.edit_rows import check_row
from tracer.interventions.head_hooks import check_heads, pattern_hook
from tracer.interventions.script import python_script
from tracer.model.model import Model

LAYER, HEAD, QUERY, KEY = 2, 3, 5, 3
FLAGSHIP = "The capital of the state containing Dallas is"


def patterns(model: Model, scenario: Scenario, layers: list[int]) -> dict[int, np.ndarray]:
    """Return the attention patterns that a scenario ends up with, by layer."""
    ids = torch.tensor(tiny.IDS)
    row = check_row(model, scenario, len(ids))
    check_heads(model, row)
    _, unedited = capture_unedited(model, ids, names_to_capture(model, [row]))
    run = EditedRun(model, [row], unedited)
    seen: dict[int, np.ndarray] = {}

    def keep(layer: int) -> Callable[..., None]:
        def hook(value: Any, hook: Any) -> None:
            seen[layer] = value[0].numpy().copy()

        return hook

    run.hooks += [(pattern_hook(layer), keep(layer)) for layer in layers]
    run(ids)
    return seen


def explained(model: Model) -> AttentionExplanation:
    return tracer.explain_attention(model, tiny.IDS, LAYER, HEAD, QUERY, KEY)


@pytest.mark.parametrize("freeze_attention", [True, False])
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_without_pairs_the_pattern_is_what_the_softmax_says(
    open_tiny: Callable[..., Model], architecture: str, freeze_attention: bool
) -> None:
    model = open_tiny(architecture, **SETS["per-layer"])
    why = explained(model)
    edit = tracer.without_pairs(why, why.pairs(4))
    scenario = Scenario("without", (), freeze_attention, head_edits=(edit,))
    before = patterns(model, Scenario("as it was", (), False), [LAYER])[LAYER]
    after = patterns(model, scenario, [LAYER])[LAYER]
    sink = 1 - why.pattern.sum()
    grown = why.pattern * np.exp(np.where(np.arange(len(why.pattern)) == KEY, edit.value, 0))
    expected = grown / (grown.sum() + max(0.0, sink))
    assert abs(edit.value) > 1e-3
    assert np.allclose(after[HEAD, QUERY], expected, atol=1e-5)
    untouched = np.ones(after.shape[:2], bool)
    untouched[HEAD, QUERY] = False
    assert np.allclose(after[untouched], before[untouched], atol=1e-6)


@pytest.mark.parametrize("transcoders", SETS)
@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2", "qwen3", "olmo2"])
def test_the_prediction_is_the_measured_change_with_everything_else_frozen(
    open_tiny: Callable[..., Model], architecture: str, transcoders: str
) -> None:
    model = open_tiny(architecture, **SETS[transcoders])
    check = tracer.check_pairs(model, tiny.IDS, explained(model), pairs=4, n_random=3)
    assert check.predicted == pytest.approx(check.direct, abs=2e-5 + 2e-3 * abs(check.direct))
    print("SIZE", check.predicted, check.direct)
    assert abs(check.direct) > 1e-6
    assert len(check.random_pairs) == 3 and len(check.other_heads) == 3


def test_an_earlier_query_counts_through_the_attention_above_it(
    open_tiny: Callable[..., Model],
) -> None:
    model = open_tiny("llama", **SETS["per-layer"])
    why = tracer.explain_attention(model, tiny.IDS, 0, 1, query=3, key=2)
    check = tracer.check_pairs(model, tiny.IDS, why, pairs=6, n_random=1)
    assert check.direct != 0
    assert check.predicted == pytest.approx(check.direct, rel=0.02, abs=1e-5)


@pytest.mark.parametrize("freeze_attention", [True, False])
def test_a_head_that_is_off_writes_nothing(
    open_tiny: Callable[..., Model], freeze_attention: bool
) -> None:
    model = open_tiny("llama", **SETS["per-layer"])
    off = Scenario("off", (), freeze_attention, head_edits=(HeadEdit(LAYER, HEAD, "off"),))
    seen = patterns(model, off, [LAYER])[LAYER]
    assert not seen[HEAD].any() and seen[HEAD - 1].any()
    zeroed = [
        (pattern_hook(LAYER), lambda value, hook: value * (torch.arange(4) != HEAD)[:, None, None])
    ]
    expected = model.bridge.run_batch(torch.tensor(tiny.IDS)[None], zeroed)[0, -1].numpy()
    run = tracer.run_scenarios(model, tiny.IDS, [Scenario("off", (), False,
                                                          head_edits=off.head_edits)])  # fmt: skip
    outcome = run.outcomes[0]
    assert not isinstance(outcome, InterventionError)
    assert np.allclose(outcome.logits, expected, atol=1e-5)
    assert outcome.kl > 0


def test_a_head_stays_off_in_generated_tokens(open_tiny: Callable[..., Model]) -> None:
    model = open_tiny("llama", **SETS["per-layer"])
    off = tuple(HeadEdit(layer, head, "off") for layer in range(2) for head in range(4))
    scenarios = [Scenario("off", (), False, head_edits=off)]
    run = tracer.run_scenarios(model, tiny.IDS, scenarios, generate=3)
    outcome = run.outcomes[0]
    assert not isinstance(outcome, InterventionError)
    text = (*tiny.IDS, *outcome.continuation[:2])
    longer = tracer.run_scenarios(model, text, scenarios).outcomes[0]
    assert not isinstance(longer, InterventionError)
    assert outcome.continuation[2] == longer.next_tokens[0].token_id


def test_one_frozen_head_keeps_its_pattern_while_the_others_move(
    open_tiny: Callable[..., Model],
) -> None:
    model = open_tiny("llama", **SETS["per-layer"])
    push = (Edit(FeatureId(0, 3), 3, 4, "set", 8.0),)
    frozen = Scenario("frozen", push, False, head_edits=(HeadEdit(LAYER, HEAD, "freeze"),))
    before = patterns(model, Scenario("as it was", (), False), [LAYER])[LAYER]
    after = patterns(model, frozen, [LAYER])[LAYER]
    assert np.array_equal(after[HEAD], before[HEAD])
    assert np.abs(after[HEAD - 1] - before[HEAD - 1]).max() > 1e-4


def test_rows_of_one_batch_do_not_disturb_each_other(open_tiny: Callable[..., Model]) -> None:
    model = open_tiny("llama", **SETS["per-layer"])
    edits = [
        HeadEdit(LAYER, HEAD, "off"),
        HeadEdit(LAYER, 0, "score", -1, 2, 3.0),
        HeadEdit(LAYER, HEAD, "freeze"),
    ]
    scenarios = [
        Scenario(edit.label, (), freeze, head_edits=(edit,))
        for edit in edits
        for freeze in (True, False)
    ]
    together = tracer.run_scenarios(model, tiny.IDS, scenarios).outcomes
    for scenario, outcome in zip(scenarios, together, strict=True):
        alone = tracer.run_scenarios(model, tiny.IDS, [scenario]).outcomes[0]
        assert not isinstance(alone, InterventionError)
        assert not isinstance(outcome, InterventionError)
        assert np.allclose(alone.logits, outcome.logits, atol=1e-5), scenario.name


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (HeadEdit(9, 0, "off"), "layer 9 does not exist"),
        (HeadEdit(0, 4, "off"), "head 4 does not exist: layer 0"),
        (HeadEdit(0, 0, "score", 99, 1, 1.0), "query position 99 does not exist"),
        (HeadEdit(0, 0, "score", 1, 3, 1.0), "key position 3 comes after query position 1"),
    ],
)
def test_an_edit_of_what_does_not_exist_fails_alone(
    open_tiny: Callable[..., Model], edit: HeadEdit, message: str
) -> None:
    model = open_tiny("llama", **SETS["per-layer"])
    scenarios = [Scenario("bad", (), head_edits=(edit,)), Scenario("good", ())]
    bad, good = tracer.run_scenarios(model, tiny.IDS, scenarios).outcomes
    assert isinstance(bad, InterventionError) and message in str(bad)
    assert not isinstance(good, InterventionError)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0, "remove"), "unknown operation 'remove' for a head"),
        ((0, 0, "score"), "give query and key"),
        ((0, 0, "score", 1, 0, float("nan")), "give a finite number"),
    ],
)
def test_a_meaningless_edit_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InterventionError, match=message):
        HeadEdit(*arguments)


def test_a_difference_of_scores_has_no_pairs_to_take_out(open_tiny: Callable[..., Model]) -> None:
    model = open_tiny("llama", **SETS["per-layer"])
    why = tracer.explain_attention(model, tiny.IDS, LAYER, HEAD, QUERY, KEY, versus="rest")
    with pytest.raises(InterventionError, match="difference from rest"):
        tracer.without_pairs(why, why.pairs(1))
    with pytest.raises(InterventionError, match="not of this prompt"):
        tracer.check_pairs(model, tiny.IDS[:-1], explained(model))


def test_scenarios_with_heads_are_stored_moved_scaled_and_exported() -> None:
    edits = (HeadEdit(4, 0, "off"), HeadEdit(4, 1, "score", 8, 7, -0.5))
    scenario = Scenario("heads", (), False, head_edits=edits)
    assert Scenario.from_dict(json.loads(json.dumps(scenario.to_dict()))) == scenario
    assert "head_edits" not in Scenario("none", ()).to_dict()
    moved = scenario.moved(2).head_edits[1]
    assert (moved.query, moved.key) == (10, 9)
    assert scenario.scaled(2).head_edits[1].value == -1.0
    with pytest.raises(InterventionError, match="before the beginning"):
        scenario.moved(-8)
    with pytest.raises(InterventionError, match="not a stored scenario"):
        Scenario.from_dict({**scenario.to_dict(), "head_edits": [4]})
    script = python_script("atlas", "per-layer", FLAGSHIP, [scenario])
    assert "HeadEdit(layer=4, head=0, operation='off'" in script
    compile(script, "script.py", "exec")


def test_the_command_line_switches_heads_off(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["intervene", "--json", FLAGSHIP, "--head-off", "4:0", "--free-attention"]
    assert main(command) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["heads"] == ["L4 H0 off"] and report["kl"] > 0
    assert main(["intervene", FLAGSHIP, "--head-score", "4:0:-1:7=-30"]) == 0
    assert "Austin" in capsys.readouterr().out
    for bad, message in (
        ([], "nothing is edited"),
        (["--head-off", "4"], "LAYER:HEAD"),
        (["--head-score", "4:0=1"], "LAYER:HEAD:QUERY:KEY=VALUE"),
        (["--head-frozen", "4:9"], "head 9 does not exist"),
    ):
        assert main(["intervene", FLAGSHIP, *bad]) != 0
        assert message in capsys.readouterr().err


def test_the_command_line_takes_pairs_out(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["attention", FLAGSHIP, "--head", "4:0", "--remove", "3"]
    assert main([*command, "--json"]) == 0
    removed = json.loads(capsys.readouterr().out)["removed"]
    assert removed["predicted"] == pytest.approx(removed["direct"], abs=1e-4)
    assert removed["attention_after"] < removed["attention_before"] - 0.1
    assert max(map(abs, removed["random_pairs"])) < abs(removed["free"]) / 10
    assert main(command) == 0
    assert "without the 3 strongest pairs its attention falls" in capsys.readouterr().out
