"""Interventions on an accelerator give the numbers of the CPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import tiny

import tracer
from tracer.interventions.scenario import Operation
from tracer.model.model import Model
from tracer.types import FeatureId, NodeId

KINDS = ("transcoder_set", "cross_layer_transcoder")
WATCHED = [NodeId("feature", layer, 3, feature) for layer in range(3) for feature in range(8)]
OPERATIONS: tuple[tuple[Operation, float], ...] = (("set", 5.0), ("scale", -2.0), ("add", 3.0))


def scenarios() -> list[tracer.Scenario]:
    """Edits of every operation, at the prompt and on generated tokens, under every constraint."""
    edits = tuple(
        tracer.Edit(FeatureId(layer, 4 * layer + i), 2 + i, None if i == 1 else 3 + i, *operation)
        for layer in range(3)
        for i, operation in enumerate(OPERATIONS)
    )
    return [
        tracer.Scenario("nothing", ()),
        tracer.Scenario("free", edits, freeze_attention=False),
        tracer.Scenario("frozen attention", edits),
        tracer.Scenario("frozen norms", edits, freeze_norms=True),
        tracer.Scenario("some layers", edits, constrained_layers=(1, 2)),
        tracer.Scenario("every layer", edits, constrained_layers=(0, 1, 2)),
    ]


def assert_same(run: tracer.ScenarioRun, expected: tracer.ScenarioRun) -> None:
    for outcome, other in zip(
        (run.baseline, *run.outcomes), (expected.baseline, *expected.outcomes), strict=True
    ):
        assert isinstance(outcome, tracer.Outcome) and isinstance(other, tracer.Outcome)
        assert outcome.logits == pytest.approx(other.logits, abs=2e-4)
        assert outcome.kl == pytest.approx(other.kl, abs=1e-4)
        assert outcome.continuation == other.continuation
        assert outcome.activations == pytest.approx(other.activations, abs=2e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_scenarios_with_generation(
    open_pair: Callable[..., tuple[Model, Model]], kind: str, dtype: str
) -> None:
    expected, run = (
        tracer.run_scenarios(model, tiny.IDS, scenarios(), generate=4, watch=WATCHED)
        for model in open_pair(dtype=dtype, kind=kind)
    )
    assert_same(run, expected)


@pytest.mark.parametrize("activation", ["relu", "topk"])
def test_sampled_scenarios_in_small_batches(
    open_pair: Callable[..., tuple[Model, Model]], activation: str
) -> None:
    expected, run = (
        tracer.run_scenarios(
            model, tiny.IDS, scenarios(), generate=4, temperature=0.7, seed=3, batch_size=2
        )
        for model in open_pair("llama", activation=activation)
    )
    assert_same(run, expected)


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_intervene(open_pair: Callable[..., tuple[Model, Model]], architecture: str) -> None:
    edits = [tracer.Intervention(0, 2, 3, 4.0), tracer.Intervention(2, -1, 5, -2.0)]
    expected, result = (
        tracer.intervene(model, tiny.IDS, edits, generate=3, watch=WATCHED)
        for model in open_pair(architecture)
    )
    assert result.edited_logits == pytest.approx(expected.edited_logits, abs=2e-4)
    assert result.kl == pytest.approx(expected.kl, abs=1e-4) and result.kl > 0
    assert result.edited_continuation == expected.edited_continuation
    for node, values in expected.activations.items():
        assert result.activations[node] == pytest.approx(values, abs=2e-4)


def test_every_active_feature_is_watched(
    open_pair: Callable[..., tuple[Model, Model]],
) -> None:
    expected, run = (
        tracer.run_scenarios(model, tiny.IDS, scenarios(), watch="all") for model in open_pair()
    )
    for outcome, other in zip(run.outcomes, expected.outcomes, strict=True):
        assert isinstance(outcome, tracer.Outcome) and isinstance(other, tracer.Outcome)
        for node in outcome.activations.keys() | other.activations.keys():
            value = outcome.activations.get(node, 0.0)
            if node in outcome.activations and node in other.activations:
                assert value == pytest.approx(other.activations[node], abs=2e-4)
        missing = outcome.activations.keys() ^ other.activations.keys()
        assert len(missing) <= 2, "only features at their threshold can differ"
