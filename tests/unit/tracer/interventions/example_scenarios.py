"""Scenarios on the tiny models, shared by the tests of this folder."""

from __future__ import annotations

import tiny

import tracer
from tracer.interventions.results import Outcome
from tracer.interventions.scenario import Edit, Scenario, edit_all
from tracer.model.model import Model
from tracer.types import NodeId

KINDS = ("transcoder_set", "cross_layer_transcoder")


def active_features(model: Model) -> list[NodeId]:
    graph = tracer.trace(model, tiny.IDS)
    return [graph.index.node(row) for row in range(graph.index.n_features)]


def mixed_scenarios(model: Model) -> list[Scenario]:
    """Different edits under different constraints."""
    first, *_, last = active_features(model)
    some = active_features(model)[2:6]
    every_layer = tuple(range(model.n_layers))
    return [
        Scenario("off", edit_all(some, "set", 0.0)),
        Scenario("free", edit_all(some, "scale", -3.0), freeze_attention=False),
        Scenario("frozen", edit_all([first, *some], "scale", 4.0), constrained_layers=every_layer),
        Scenario("partly frozen", edit_all(some, "add", 2.0), constrained_layers=(1, 2)),
        Scenario("nothing", ()),
        Scenario("everywhere", (Edit(last.feature, 1, None, "set", 5.0),)),
    ]


def succeeded(run: tracer.ScenarioRun) -> list[Outcome]:
    assert all(isinstance(outcome, Outcome) for outcome in run.outcomes)
    return [outcome for outcome in run.outcomes if isinstance(outcome, Outcome)]
