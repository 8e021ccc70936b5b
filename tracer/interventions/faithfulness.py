"""Faithfulness: compare what a graph's edges predict of an intervention with what the model does.

Edges are direct effects in the frozen model. Summed along all paths they give a *total* effect: a
feature that loses a share of its activation loses the same share of its outgoing edges, and a
target that loses pre-activation loses as much activation (the slope of an active feature is one),
but never more than it has.
The check switches features off in the model itself, with attention patterns and norm scales frozen,
and compares; the MLPs then respond in their own nonlinear way, which the graph cannot know.
("Circuit Tracing", Ameisen et al., 2025, section on validating the replacement model.)

This module computes on data only: it creates the scenarios to run, and reads their outcomes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np

from tracer.errors import InterventionError, TargetError
from tracer.graph.graph import AttributionGraph
from tracer.graph.nodes import FloatArray
from tracer.interventions.scenario import Scenario, edit_all
from tracer.types import NodeId, Target

if TYPE_CHECKING:
    from tracer.interventions.results import Outcome, ScenarioRun

_MIN_SPREAD: Final = 1e-12
"""Below this standard deviation the points have no direction that a line could follow."""


@dataclass(frozen=True)
class EffectCheck:
    """Predicted and measured effects, one pair for each name."""

    names: tuple[str, ...]
    predicted: FloatArray
    """``(n,)`` float64, from the graph's edges."""
    measured: FloatArray
    """``(n,)`` float64, from running the model."""
    unit: str
    """The unit of both."""

    @property
    def correlation(self) -> float:
        """Pearson's r; NaN with fewer than two points, or without any spread."""
        if len(self.names) < 2 or min(self.predicted.std(), self.measured.std()) < _MIN_SPREAD:
            return float("nan")
        return float(np.corrcoef(self.predicted, self.measured)[0, 1])

    @property
    def slope(self) -> float:
        """Slope of the least-squares line of measured on predicted; NaN if it is undefined."""
        if len(self.names) < 2 or self.predicted.std() < _MIN_SPREAD:
            return float("nan")
        return float(np.polyfit(self.predicted, self.measured, 1)[0])


def _shares(graph: AttributionGraph) -> FloatArray:
    """Return ``(n_edges,)`` edges into features as shares of the feature's activation."""
    scale = np.ones(graph.n_nodes)
    scale[graph.index.feature_rows] = graph.activations
    shares: FloatArray = graph.weights / scale[graph.rows]
    return shares


def predicted_shares(graph: AttributionGraph, off: Sequence[NodeId]) -> FloatArray:
    """Predict which share of its activation each feature loses when ``off`` is switched off.

    Returns ``(n_features,)`` float64: negative for a loss, positive for a gain, -1 (all of it) for
    the features in ``off``, and never less. Raises ``KeyError`` for a node that is not in the
    graph.

    >>> import tracer
    >>> model = tracer.load("atlas", device="cpu")
    >>> prompt = "The capital of the state containing Dallas is"
    >>> graph = tracer.trace(model, prompt, max_features=32)
    >>> shares = predicted_shares(graph, [graph.index.node(0)])
    >>> shares.shape, float(shares[0]), float(shares.min())
    ((32,), -1.0, -1.0)
    """
    index, shares = graph.index, _shares(graph)
    change = np.zeros(graph.n_nodes)
    off_rows = np.array([index.row(node) for node in off], np.int64)
    change[off_rows] = -1.0
    by_layer = np.searchsorted(index.features[:, 0], np.arange(index.n_layers + 1))
    for first, last in pairwise(by_layer):
        edges = slice(graph.indptr[first], graph.indptr[last])
        flow = shares[edges] * change[graph.sources[edges]]
        received = np.bincount(graph.rows[edges] - first, flow, last - first)
        received[off_rows[(off_rows >= first) & (off_rows < last)] - first] = -1.0
        change[first:last] = np.maximum(received, -1.0)
    return np.asarray(change[index.feature_rows])


def switched_off(
    groups: Mapping[str, Sequence[NodeId]],
    freeze_attention: bool = True,
    freeze_norms: bool = True,
) -> tuple[Scenario, ...]:
    """Return one scenario for each group, with all its features at zero.

    >>> from tracer import NodeId
    >>> [scenario] = switched_off({"Texas": [NodeId("feature", 2, 7, 41)]})
    >>> scenario.name, scenario.edits[0].operation, scenario.edits[0].value, scenario.freeze_norms
    ('Texas', 'scale', 0.0, True)
    """
    return tuple(
        Scenario(name, edit_all(nodes, "scale", 0.0), freeze_attention, None, freeze_norms)
        for name, nodes in groups.items()
    )


def check_target(
    graph: AttributionGraph, groups: Mapping[str, Sequence[NodeId]], run: ScenarioRun, target: int
) -> EffectCheck:
    """Compare the effect of each group on the graph's ``target``-th logit node.

    ``run`` has the outcomes of :func:`switched_off`. In a group of several features, effects that
    pass from one of them to another are counted once.

    Raises :class:`TargetError` when the target is a direction or a feature, which cannot be read
    from the logits, :class:`InterventionError` when a scenario failed, and ``KeyError`` for a node
    that is not in the graph.

    >>> import tracer
    >>> model = tracer.load("atlas", device="cpu")
    >>> prompt = "The capital of the state containing Dallas is"
    >>> graph = tracer.trace(model, prompt, max_features=32)
    >>> groups = {str(row): [graph.index.node(row)] for row in range(4)}
    >>> run = tracer.run_scenarios(model, prompt, switched_off(groups))
    >>> check = check_target(graph, groups, run, target=0)
    >>> check.names, check.unit
    (('0', '1', '2', '3'), 'logit of Austin')
    """
    outcomes = _outcomes(run)
    logit = graph.targets[target]
    before = target_logit(run, run.baseline, logit)
    measured = [target_logit(run, outcome, logit) - before for outcome in outcomes]
    row = graph.index.logit_rows.start + target
    edges = slice(graph.indptr[row], graph.indptr[row + 1])
    direct = np.bincount(graph.sources[edges], graph.weights[edges], graph.n_nodes)
    direct = direct[graph.index.feature_rows]
    predicted = [float(predicted_shares(graph, nodes) @ direct) for nodes in groups.values()]
    return EffectCheck(
        tuple(groups), np.array(predicted), np.array(measured), f"logit of {logit.label.strip()}"
    )


def check_groups(
    graph: AttributionGraph, groups: Mapping[str, Sequence[NodeId]], run: ScenarioRun
) -> tuple[FloatArray, FloatArray]:
    """Compare which share of each group's activation remains when another is switched off.

    Returns ``(n, n)`` predicted and ``(n, n)`` measured shares: the column's group, with the row's
    group off. ``run`` has the outcomes of :func:`switched_off` with every node of every group
    watched. The activation of a group is the sum over its features, without those that are switched
    off; NaN where none remain.

    Raises the errors of :func:`check_target`.
    """
    outcomes, size = _outcomes(run), len(groups)
    predicted, measured = np.full((size, size), np.nan), np.full((size, size), np.nan)
    for i, off in enumerate(groups.values()):
        change = predicted_shares(graph, off)
        for j, nodes in enumerate(groups.values()):
            remaining = [node for node in nodes if node not in set(off)]
            rows = [graph.index.row(node) for node in remaining]
            total = float(graph.activations[rows].sum())
            if total > 0:
                predicted[i, j] = 1 + float(graph.activations[rows] @ change[rows]) / total
                measured[i, j] = sum(outcomes[i].activations[node] for node in remaining) / total
    return predicted, measured


def _outcomes(run: ScenarioRun) -> list[Outcome]:
    for outcome in run.outcomes:
        if isinstance(outcome, InterventionError):
            raise outcome
    return [outcome for outcome in run.outcomes if not isinstance(outcome, InterventionError)]


def target_logit(run: ScenarioRun, outcome: Outcome, target: Target) -> float:
    """Return the logit as the graph counts it: before the final soft cap, and for a single token
    relative to the mean of all."""
    logits = outcome.logits.astype(np.float64)
    if run.logit_soft_cap is not None:
        logits = run.logit_soft_cap * np.arctanh(logits / run.logit_soft_cap)
    if len(target.token_ids) == 1:
        return float(logits[target.token_ids[0]] - logits.mean())
    if len(target.token_ids) == 2:
        return float(logits[target.token_ids[0]] - logits[target.token_ids[1]])
    raise TargetError(
        f"target {target.label!r} is not a token: the effect of an intervention on it cannot be "
        "read from the logits; trace the prompt with a token or a contrast as the target"
    )
