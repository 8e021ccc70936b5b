"""What edges predict of an intervention, checked where the answer is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tiny
import torch

import tracer
from tracer.errors import InterventionError, TargetError
from tracer.interventions.faithfulness import (
    EffectCheck,
    check_groups,
    check_target,
    predicted_shares,
    switched_off,
)
from tracer.interventions.run import run_scenarios
from tracer.interventions.scenario import Edit, Scenario
from tracer.model.model import Model
from tracer.types import Contrast, Direction, FeatureId, NodeId

KINDS = ("transcoder_set", "cross_layer_transcoder")
ARCHITECTURES = ("gemma2", "gpt2", "llama", "neox", "olmo2", "gpt_oss")


def features(graph: tracer.AttributionGraph) -> list[NodeId]:
    return [graph.index.node(row) for row in range(graph.index.n_features)]


def alone(nodes: list[NodeId]) -> dict[str, list[NodeId]]:
    return {str(node): [node] for node in nodes}


@pytest.mark.parametrize("targets", [None, [Contrast(5, 9)]])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_features_of_the_last_layer_do_exactly_what_their_edges_say(
    open_tiny: Callable[..., Model], architecture: str, targets: list[Contrast] | None
) -> None:
    """With attention and norms held no MLP is left to answer; Gemma's logits are soft-capped."""
    model = open_tiny(architecture)
    graph = tracer.trace(model, tiny.IDS, targets=targets)
    last = [node for node in features(graph) if node.layer == model.n_layers - 1]
    groups = alone([node for node in last if node.position == len(tiny.IDS) - 1])
    run = run_scenarios(model, tiny.IDS, switched_off(groups))
    check = check_target(graph, groups, run, 0)
    assert len(check.names) > 3
    assert check.measured == pytest.approx(check.predicted, abs=2e-5)
    assert np.abs(check.measured).max() > 0.01
    assert check.correlation == pytest.approx(1, abs=1e-6)
    assert check.slope == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_lost_flows_on_along_all_paths_but_never_more_than_there_is(
    open_tiny: Callable[..., Model], kind: str
) -> None:
    """The layer-by-layer pass against the whole matrix, applied until nothing changes."""
    model = open_tiny(kind=kind, activation="relu")
    graph = tracer.trace(model, tiny.IDS)
    n = graph.index.n_features
    shares = graph.to_dense().numpy().astype(np.float64)[:n, :n] / graph.activations[:, None]
    held = moved = 0
    for node in features(graph)[::7]:
        row = graph.index.row(node)
        expected = np.zeros(n)
        for _ in range(model.n_layers + 1):
            expected = np.maximum(shares @ expected, -1.0)
            expected[row] = -1.0
        assert predicted_shares(graph, [node]) == pytest.approx(expected, abs=1e-5)
        moved += int((np.abs(expected) > 0.01).sum())
        held += int((expected == -1).sum()) - 1
    assert moved > 100 and held > 0


def test_features_that_feed_each_other_are_taken_away_once(model: Model) -> None:
    graph = tracer.trace(model, tiny.IDS)
    dense = graph.to_dense().numpy()
    n = graph.index.n_features
    target, source = np.unravel_index(np.abs(dense[:n, :n]).argmax(), (n, n))
    both = [graph.index.node(int(source)), graph.index.node(int(target))]
    change = predicted_shares(graph, both)
    assert change[[source, target]].tolist() == [-1, -1]
    alone = predicted_shares(graph, both[1:])
    assert alone[target] == -1 and alone[source] == 0  # nothing flows down


def test_with_everything_held_direct_effects_are_exact_and_norms_alone_can_be_held(
    model: Model,
) -> None:
    graph = tracer.trace(model, tiny.IDS)
    node = features(graph)[0]
    edit = Edit.at(node, "scale", 0.0)
    free = Scenario("free", (edit,))
    held = Scenario("held", (edit,), freeze_norms=True)
    assert Scenario.from_dict(held.to_dict()) == held
    old = {key: value for key, value in free.to_dict().items() if key != "freeze_norms"}
    assert Scenario.from_dict(old) == free
    run = run_scenarios(model, tiny.IDS, [free, held])
    first, second = run.outcomes
    assert not isinstance(first, InterventionError) and not isinstance(second, InterventionError)
    assert np.abs(first.logits - second.logits).max() > 1e-3


def test_groups_are_compared_by_what_is_left_of_their_activation(model: Model) -> None:
    graph = tracer.trace(model, tiny.IDS)
    nodes = features(graph)
    last = len(tiny.IDS) - 1
    groups = {
        "low": [n for n in nodes if n.layer == 0 and n.position == last],
        "high": [n for n in nodes if n.layer == 2 and n.position == last],
        "both": [n for n in nodes if n.layer in (0, 2) and n.position == last],
    }
    watch = [node for group in groups.values() for node in group]
    run = run_scenarios(model, tiny.IDS, switched_off(groups), watch=watch)
    predicted, measured = check_groups(graph, groups, run)
    assert np.isnan(predicted[0, 0]) and np.isnan(measured[2, 2])
    assert predicted[1, 0] == pytest.approx(1) == measured[1, 0]  # nothing flows down
    assert predicted[0, 2] == predicted[0, 1]  # of both, only the part that was not switched off
    change = predicted_shares(graph, groups["low"])
    rows = [graph.index.row(node) for node in groups["high"]]
    left = graph.activations[rows] * (1 + change[rows])
    assert predicted[0, 1] == pytest.approx(left.sum() / graph.activations[rows].sum())
    [outcome, *_] = run.outcomes
    assert not isinstance(outcome, InterventionError)
    seen = sum(outcome.activations[node] for node in groups["high"])
    assert measured[0, 1] == pytest.approx(seen / graph.activations[rows].sum())


def test_what_cannot_be_checked_says_so(model: Model) -> None:
    direction = Direction("up", tuple(torch.ones(model.bridge.d_model).tolist()))
    graph = tracer.trace(model, tiny.IDS, targets=[direction])
    groups = alone(features(graph)[:1])
    run = run_scenarios(model, tiny.IDS, switched_off(groups))
    with pytest.raises(TargetError, match="is no token"):
        check_target(graph, groups, run, 0)
    failed = run_scenarios(
        model, tiny.IDS, [Scenario("bad", (Edit(FeatureId(9, 0), 1, 2, "set", 0.0),))]
    )
    with pytest.raises(InterventionError, match="layer 9"):
        check_target(graph, groups, failed, 0)
    with pytest.raises(KeyError):
        predicted_shares(graph, [NodeId("feature", 0, 1, 10_000)])
    point = EffectCheck(("one",), np.array([1.0]), np.array([1.0]), "")
    assert np.isnan(point.correlation) and np.isnan(point.slope)
