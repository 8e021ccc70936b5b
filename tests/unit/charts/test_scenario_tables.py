"""Outcomes of scenarios as tables."""

from __future__ import annotations

import pytest
from test_scenario_figures import AFTER, BEFORE

from charts.scenario_tables import other_prompts_table, outcomes_table
from tracer.errors import InterventionError
from tracer.interventions.run import ScenarioRun

RUN = ScenarioRun("a prompt", (1, 2), BEFORE, (AFTER, InterventionError("layer 9 does not exist")))


def test_the_table_lists_every_scenario_and_the_reason_of_a_failure() -> None:
    table = outcomes_table(RUN, limit=2)
    assert list(table["scenario"]) == ["baseline"] * 2 + ["swap"] * 2 + ["2"]
    swap = table[table["scenario"] == "swap"].iloc[0]
    assert swap["token"] == " Sacramento"
    assert swap["probability"] == pytest.approx(0.75)
    assert swap["baseline_probability"] == pytest.approx(0.06)
    assert table.iloc[-1]["error"] == "layer 9 does not exist"


def test_every_prompt_has_a_row_even_if_its_run_failed() -> None:
    table = other_prompts_table([("one", RUN), ("two", "still tracing")], ["swap", "bad"])
    assert list(table.columns) == ["prompt", "baseline", "swap", "bad"]
    assert list(table["baseline"]) == ["Austin (90 %)", "still tracing"]
    assert table["swap"][0] == "Sacramento (75 %)"
    assert table["bad"][0] == "layer 9 does not exist"
