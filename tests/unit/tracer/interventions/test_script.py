"""Scenarios exported as a script."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

import tracer
from tracer.errors import InterventionError
from tracer.interventions.scenario import Edit, Scenario
from tracer.interventions.script import python_script
from tracer.types import FeatureId

PROMPT = "The capital of the state containing Dallas is"


def test_the_script_prints_what_run_scenarios_returns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenarios = [
        Scenario("−2×: “Texas”", (Edit(FeatureId(1, 887), 7, None, "scale", -2.0),)),
        Scenario("frozen", (Edit(FeatureId(1, 887), 7, 8, "set", 0.5),), False, (0, 1), True),
        Scenario("bad", (Edit(FeatureId(9, 887), 7, 8, "set", 0.5),)),
    ]
    script = tmp_path / "scenarios.py"
    script.write_text(
        python_script("atlas", "per-layer", PROMPT, scenarios, generate=3), encoding="utf-8"
    )
    variables = runpy.run_path(str(script))
    run = tracer.run_scenarios(variables["model"], PROMPT, scenarios, generate=3)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    for line, outcome in zip(lines, [run.baseline, *run.outcomes[:2]], strict=False):
        assert not isinstance(outcome, InterventionError)
        first = outcome.next_tokens[0]
        assert line.startswith(f"{outcome.name}: {first.token!r} {first.probability:.4f}")
        assert line.endswith(repr("".join(outcome.continuation_tokens)))
    assert lines[3] == f"failed: {run.outcomes[2]}"
    assert (variables["model"].source.name, variables["PROMPT"]) == ("atlas", PROMPT)
    assert variables["SCENARIOS"] == scenarios


def test_the_script_loads_the_model_in_the_same_data_type() -> None:
    script = python_script("gemma-2-2b", "clt-426k", "a", (), dtype="bfloat16")
    assert "tracer.load('gemma-2-2b', 'clt-426k', dtype='bfloat16')" in script
