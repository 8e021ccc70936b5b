"""Predictions from edges, compared with interventions whose effect is known."""

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
LAST = len(tiny.IDS) - 1


def feature_nodes(graph: tracer.AttributionGraph) -> list[NodeId]:
    return [graph.index.node(row) for row in range(graph.index.n_features)]


def one_by_one(nodes: list[NodeId]) -> dict[str, list[NodeId]]:
    return {str(node): [node] for node in nodes}


@pytest.mark.parametrize("targets", [None, [Contrast(5, 9)]])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_edges_of_last_layer_features_predict_their_effect_exactly(
    open_tiny: Callable[..., Model], architecture: str, targets: list[Contrast] | None
) -> None:
    """With attention and norms frozen no MLP is left to respond; Gemma's logits are soft-capped."""
    model = open_tiny(architecture)
    graph = tracer.trace(model, tiny.IDS, targets=targets)
    nodes = [node for node in feature_nodes(graph) if node.layer == model.n_layers - 1]
    groups = one_by_one([node for node in nodes if node.position == LAST])
    run = run_scenarios(model, tiny.IDS, switched_off(groups))
    check = check_target(graph, groups, run, 0)
    assert len(check.names) > 3
    assert check.measured == pytest.approx(check.predicted, abs=2e-5)
    assert np.abs(check.measured).max() > 0.01
    assert check.correlation == pytest.approx(1, abs=1e-6)
    assert check.slope == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_add_up_along_all_paths_but_no_feature_loses_more_than_it_has(
    open_tiny: Callable[..., Model], kind: str
) -> None:
    """The pass over layers against the complete matrix, applied until nothing changes."""
    model = open_tiny(kind=kind, activation="relu")
    graph = tracer.trace(model, tiny.IDS)
    n = graph.index.n_features
    shares = graph.to_dense().numpy().astype(np.float64)[:n, :n] / graph.activations[:, None]
    n_lost = n_moved = 0
    for node in feature_nodes(graph)[::7]:
        row = graph.index.row(node)
        expected = np.zeros(n)
        for _ in range(model.n_layers + 1):
            expected = np.maximum(shares @ expected, -1.0)
            expected[row] = -1.0
        assert predicted_shares(graph, [node]) == pytest.approx(expected, abs=1e-5)
        n_moved += int((np.abs(expected) > 0.01).sum())
        n_lost += int((expected == -1).sum()) - 1
    assert n_moved > 100 and n_lost > 0


def test_features_that_feed_each_other_are_switched_off_once(model: Model) -> None:
    graph = tracer.trace(model, tiny.IDS)
    dense = graph.to_dense().numpy()
    n = graph.index.n_features
    target, source = np.unravel_index(np.abs(dense[:n, :n]).argmax(), (n, n))
    both = [graph.index.node(int(source)), graph.index.node(int(target))]
    change = predicted_shares(graph, both)
    assert change[[source, target]].tolist() == [-1, -1]
    target_alone = predicted_shares(graph, both[1:])
    assert target_alone[target] == -1 and target_alone[source] == 0  # nothing flows down


def test_norms_can_be_frozen_without_constraining_layers(model: Model) -> None:
    edit = Edit.at(feature_nodes(tracer.trace(model, tiny.IDS))[0], "scale", 0.0)
    scenarios = [Scenario("free", (edit,)), Scenario("frozen", (edit,), freeze_norms=True)]
    free, frozen = run_scenarios(model, tiny.IDS, scenarios).outcomes
    assert not isinstance(free, InterventionError) and not isinstance(frozen, InterventionError)
    assert np.abs(free.logits - frozen.logits).max() > 1e-3


def test_groups_are_compared_by_their_remaining_activation(model: Model) -> None:
    graph = tracer.trace(model, tiny.IDS)
    nodes = feature_nodes(graph)
    groups = {
        "low": [n for n in nodes if n.layer == 0 and n.position == LAST],
        "high": [n for n in nodes if n.layer == 2 and n.position == LAST],
        "both": [n for n in nodes if n.layer in (0, 2) and n.position == LAST],
    }
    watch = [node for group in groups.values() for node in group]
    run = run_scenarios(model, tiny.IDS, switched_off(groups), watch=watch)
    predicted, measured = check_groups(graph, groups, run)
    assert np.isnan(predicted[0, 0]) and np.isnan(measured[2, 2])
    assert predicted[1, 0] == pytest.approx(1) == measured[1, 0]  # nothing flows down
    assert predicted[0, 2] == predicted[0, 1], "only features that are still on are compared"
    change = predicted_shares(graph, groups["low"])
    rows = [graph.index.row(node) for node in groups["high"]]
    remaining = graph.activations[rows] * (1 + change[rows])
    assert predicted[0, 1] == pytest.approx(remaining.sum() / graph.activations[rows].sum())
    [outcome, *_] = run.outcomes
    assert not isinstance(outcome, InterventionError)
    activation = sum(outcome.activations[node] for node in groups["high"])
    assert measured[0, 1] == pytest.approx(activation / graph.activations[rows].sum())


def test_targets_and_runs_that_cannot_be_checked_are_refused(model: Model) -> None:
    direction = Direction("up", tuple(torch.ones(model.bridge.d_model).tolist()))
    graph = tracer.trace(model, tiny.IDS, targets=[direction])
    groups = one_by_one(feature_nodes(graph)[:1])
    run = run_scenarios(model, tiny.IDS, switched_off(groups))
    with pytest.raises(TargetError, match="target 'up' is not a token"):
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
