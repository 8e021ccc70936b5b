"""Does a graph tell the truth? What its edges predict of an intervention, beside what happened.

Edges are direct effects in the frozen model. Along all paths they add up to a *total* effect: a
feature that loses a share of its activation takes the same share of its edges away from its
targets, and a target that loses pre-activation loses activation (an active feature's slope is one),
though never more than it has.
The check switches features off in the model itself, attention patterns and norm scales held, and
compares; the MLPs then answer in their own non-linear way, which is what the graph cannot know.
("Circuit Tracing", Ameisen et al., 2025, section on validating the replacement model.)

Data only: the scenarios that are to be run are made here, their outcomes are read here.
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
    from tracer.interventions.run import Outcome, ScenarioRun

_LEAST_SPREAD: Final = 1e-12
"""Below this standard deviation the points have no direction a line could follow."""


@dataclass(frozen=True)
class EffectCheck:
    """Predicted against measured effects, one pair for each name."""

    names: tuple[str, ...]
    predicted: FloatArray
    """``(n,)`` float64, from the graph's edges."""
    measured: FloatArray
    """``(n,)`` float64, from running the model."""
    unit: str
    """What both are measured in."""

    @property
    def correlation(self) -> float:
        """Pearson's r; NaN with fewer than two points, or where all are alike."""
        if len(self.names) < 2 or min(self.predicted.std(), self.measured.std()) < _LEAST_SPREAD:
            return float("nan")
        return float(np.corrcoef(self.predicted, self.measured)[0, 1])

    @property
    def slope(self) -> float:
        """Of the least-squares line of measured on predicted; NaN where there is none."""
        if len(self.names) < 2 or self.predicted.std() < _LEAST_SPREAD:
            return float("nan")
        return float(np.polyfit(self.predicted, self.measured, 1)[0])


def _shares(graph: AttributionGraph) -> FloatArray:
    """``(n_edges,)``: edges into features as shares of the feature's activation."""
    scale = np.ones(graph.n_nodes)
    scale[graph.index.feature_rows] = graph.activations
    shares: FloatArray = graph.weights / scale[graph.rows]
    return shares


def predicted_shares(graph: AttributionGraph, off: Sequence[NodeId]) -> FloatArray:
    """``(n_features,)``: share of its activation that each feature loses (negative) or gains when
    the features in ``off`` are taken away; -1 (all of it) for those themselves, and never less.

    Raises ``KeyError`` for a node that the graph does not have.
    """
    index, shares = graph.index, _shares(graph)
    change = np.zeros(graph.n_nodes)
    gone = np.array([index.row(node) for node in off], np.int64)
    change[gone] = -1.0
    by_layer = np.searchsorted(index.features[:, 0], np.arange(index.n_layers + 1))
    for first, last in pairwise(by_layer):
        edges = slice(graph.indptr[first], graph.indptr[last])
        flow = shares[edges] * change[graph.sources[edges]]
        here = np.bincount(graph.rows[edges] - first, flow, last - first)
        here[gone[(gone >= first) & (gone < last)] - first] = -1.0
        change[first:last] = np.maximum(here, -1.0)
    return np.asarray(change[index.feature_rows])


def switched_off(
    groups: Mapping[str, Sequence[NodeId]],
    freeze_attention: bool = True,
    freeze_norms: bool = True,
) -> tuple[Scenario, ...]:
    """A scenario for each group, with all its features at zero."""
    return tuple(
        Scenario(name, edit_all(nodes, "scale", 0.0), freeze_attention, None, freeze_norms)
        for name, nodes in groups.items()
    )


def check_target(
    graph: AttributionGraph, groups: Mapping[str, Sequence[NodeId]], run: ScenarioRun, target: int
) -> EffectCheck:
    """Effect of each group on the graph's ``target``-th logit node.

    ``run`` has the outcomes of :func:`switched_off`. Groups of one feature are exact in the graph's
    own terms; features of a larger one that feed each other are counted once.

    Raises :class:`TargetError` when the target is a direction or a feature, which no logit tells,
    :class:`InterventionError` when a scenario failed, and ``KeyError`` for a node that is not in
    the graph.
    """
    outcomes = _outcomes(run)
    wanted = graph.targets[target]
    before = _target_logit(run, run.baseline, wanted)
    measured = [_target_logit(run, outcome, wanted) - before for outcome in outcomes]
    row = graph.index.logit_rows.start + target
    edges = slice(graph.indptr[row], graph.indptr[row + 1])
    direct = np.bincount(graph.sources[edges], graph.weights[edges], graph.n_nodes)
    direct = direct[graph.index.feature_rows]
    predicted = [float(predicted_shares(graph, nodes) @ direct) for nodes in groups.values()]
    return EffectCheck(
        tuple(groups), np.array(predicted), np.array(measured), f"logit of {wanted.label.strip()}"
    )


def check_groups(
    graph: AttributionGraph, groups: Mapping[str, Sequence[NodeId]], run: ScenarioRun
) -> tuple[FloatArray, FloatArray]:
    """``(n, n)`` predicted and measured: share of column's activation left with row switched off.

    ``run`` has the outcomes of :func:`switched_off` with every node of every group watched. A
    group's activation is the sum over its features, without those that are switched off with
    the row; NaN where nothing is left to look at.

    Raises as :func:`check_target`.
    """
    outcomes, size = _outcomes(run), len(groups)
    predicted, measured = np.full((size, size), np.nan), np.full((size, size), np.nan)
    for i, off in enumerate(groups.values()):
        change = predicted_shares(graph, off)
        for j, nodes in enumerate(groups.values()):
            seen = [node for node in nodes if node not in set(off)]
            rows = [graph.index.row(node) for node in seen]
            total = float(graph.activations[rows].sum())
            if total > 0:
                predicted[i, j] = 1 + float(graph.activations[rows] @ change[rows]) / total
                measured[i, j] = sum(outcomes[i].activations[node] for node in seen) / total
    return predicted, measured


def _outcomes(run: ScenarioRun) -> list[Outcome]:
    for outcome in run.outcomes:
        if isinstance(outcome, InterventionError):
            raise outcome
    return [outcome for outcome in run.outcomes if not isinstance(outcome, InterventionError)]


def _target_logit(run: ScenarioRun, outcome: Outcome, target: Target) -> float:
    """As the graph counts it: before the final soft cap; a token's above the mean of all."""
    logits = outcome.logits.astype(np.float64)
    if run.logit_soft_cap is not None:
        logits = run.logit_soft_cap * np.arctanh(logits / run.logit_soft_cap)
    if len(target.token_ids) == 1:
        return float(logits[target.token_ids[0]] - logits.mean())
    if len(target.token_ids) == 2:
        return float(logits[target.token_ids[0]] - logits[target.token_ids[1]])
    raise TargetError(
        f"{target.label!r} is no token: what an intervention does to it cannot be read from the "
        "logits; trace the prompt with a token or a contrast for a target"
    )
