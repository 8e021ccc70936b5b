"""Edits and scenarios are plain values that can be stored, scaled and moved."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from tracer.errors import InterventionError
from tracer.interventions.scenario import Edit, Scenario, edit_all
from tracer.types import FeatureId, NodeId

FEATURE = FeatureId(0, 3)
SCENARIO = Scenario(
    "mixed",
    (
        *edit_all([NodeId("feature", 1, 2, 7), NodeId("feature", 2, 4, 9)], "add", 2.0),
        Edit(FEATURE, -1, None, "set", 5.0),
    ),
    freeze_attention=False,
    constrained_layers=(1, 2),
    freeze_norms=True,
)


def test_a_stored_scenario_is_read_back() -> None:
    stored = Scenario.from_dict(json.loads(json.dumps(SCENARIO.to_dict())))
    assert stored == SCENARIO
    assert len({stored, SCENARIO}) == 1, "equal scenarios have equal hashes"
    assert dataclasses.replace(SCENARIO, name="other") != SCENARIO


def test_norms_are_free_in_scenarios_stored_without_that_option() -> None:
    stored = SCENARIO.to_dict()
    del stored["freeze_norms"]
    assert Scenario.from_dict(stored) == dataclasses.replace(SCENARIO, freeze_norms=False)


def test_scaling_multiplies_every_value() -> None:
    assert [edit.value for edit in SCENARIO.scaled(0.5).edits] == [1.0, 1.0, 2.5]


@pytest.mark.parametrize(
    "changes",
    [
        {"edits": None},
        {"edits": [{"feature": [0], "start": 0, "stop": 1, "operation": "set", "value": 0}]},
        {"constrained_layers": 3},
        {"edits": [{**SCENARIO.to_dict()["edits"][0], "start": float("inf")}]},
        {"edits": [{**SCENARIO.to_dict()["edits"][0], "value": "strong"}]},
    ],
)
def test_anything_else_is_not_a_stored_scenario(changes: dict[str, Any]) -> None:
    with pytest.raises(InterventionError, match="not a stored scenario"):
        Scenario.from_dict(SCENARIO.to_dict() | changes)
    with pytest.raises(InterventionError, match="not a stored scenario"):
        Scenario.from_dict({"name": "x"})


def test_an_edit_is_checked_when_it_is_created() -> None:
    with pytest.raises(InterventionError, match="unknown operation 'multiply': expected"):
        Edit(FEATURE, 0, 1, "multiply", 1.0)  # type: ignore[arg-type]
    with pytest.raises(InterventionError, match="feature 3 of layer 0 is inf: give a finite"):
        Edit(FEATURE, 0, 1, "set", float("inf"))
    with pytest.raises(InterventionError, match="only features have activations"):
        Edit.at(NodeId("error", 0, 1, -1), "set", 0.0)


def test_positions_count_from_either_end() -> None:
    assert Edit(FEATURE, 2, 4, "set", 0.0).positions(6) == range(2, 4)
    assert Edit(FEATURE, -2, None, "set", 0.0).positions(6) == range(4, 6)
    assert Edit(FEATURE, 1, -1, "set", 0.0).positions(6) == range(1, 5)
    with pytest.raises(InterventionError, match=r"position 6 does not exist: .* positions 0 to 5"):
        Edit(FEATURE, 6, 7, "set", 0.0).positions(6)
    with pytest.raises(InterventionError, match="position 3 to 3 does not exist"):
        Edit(FEATURE, 3, 3, "set", 0.0).positions(6)


def test_a_scenario_moves_with_the_end_of_the_prompt() -> None:
    scenario = Scenario(
        "recipe",
        (
            Edit(FEATURE, 2, 3, "scale", 0.0),
            Edit(FEATURE, 3, None, "set", 1.0),
            Edit(FEATURE, -1, None, "add", 1.0),
            Edit(FEATURE, 2, -1, "scale", 2.0),
        ),
    )
    moved = [(edit.start, edit.stop) for edit in scenario.moved(2).edits]
    assert moved == [(4, 5), (5, None), (-1, None), (4, -1)]
    assert scenario.moved(-1).edits[0].start == 1
    with pytest.raises(InterventionError, match="2 tokens before the beginning of this prompt"):
        scenario.moved(-2)  # the beginning-of-text token has no features
