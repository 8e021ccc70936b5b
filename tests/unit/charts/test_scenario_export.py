"""What is taken out of the app says what the app says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from test_scenario_figures import AFTER, BEFORE

import tracer
from charts.scenario_export import other_prompts_table, outcomes_table, python_script
from tracer.errors import InterventionError
from tracer.interventions.run import ScenarioRun
from tracer.interventions.scenario import Edit, Scenario
from tracer.types import FeatureId

ROOT = Path(__file__).resolve().parents[3]
RUN = ScenarioRun("a prompt", (1, 2), BEFORE, (AFTER, InterventionError("there is no layer 9")))


def test_the_table_has_every_scenario_and_says_what_failed() -> None:
    table = outcomes_table(RUN, limit=2)
    assert list(table["scenario"]) == ["unchanged"] * 2 + ["swap"] * 2 + ["2"]
    swap = table[table["scenario"] == "swap"].iloc[0]
    assert swap["token"] == " Sacramento"
    assert swap["probability"] == pytest.approx(0.75)
    assert swap["baseline_probability"] == pytest.approx(0.06)
    assert table.iloc[-1]["error"] == "there is no layer 9"


def test_other_prompts_have_a_row_each_also_where_nothing_could_be_run() -> None:
    table = other_prompts_table([("one", RUN), ("two", "still tracing")], ["swap", "bad"])
    assert list(table.columns) == ["prompt", "unchanged", "swap", "bad"]
    assert list(table["unchanged"]) == ["Austin (90 %)", "still tracing"]
    assert table["swap"][0] == "Sacramento (75 %)"
    assert table["bad"][0] == "there is no layer 9"


def test_the_script_runs_and_says_what_the_app_says(tmp_path: Path) -> None:
    prompt = "The capital of the state containing Dallas is"
    scenarios = [
        Scenario("−2×: “Texas”", (Edit(FeatureId(1, 887), 7, None, "scale", -2.0),)),
        Scenario("held", (Edit(FeatureId(1, 887), 7, 8, "set", 0.5),), False, (0, 1), True),
        Scenario("bad", (Edit(FeatureId(9, 887), 7, 8, "set", 0.5),)),
    ]
    script = tmp_path / "what_ifs.py"
    script.write_text(
        python_script("atlas", "per-layer", prompt, scenarios, generate=3), encoding="utf-8"
    )
    done = subprocess.run(
        [sys.executable, script],
        check=False,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    run = tracer.run_scenarios(tracer.load("atlas", "per-layer"), prompt, scenarios, generate=3)
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    for line, outcome in zip(lines, [run.baseline, *run.outcomes[:2]], strict=False):
        assert not isinstance(outcome, InterventionError)
        first = outcome.next_tokens[0]
        assert line.startswith(f"{outcome.name}: {first.token!r} {first.probability:.4f}")
        assert line.endswith(repr("".join(outcome.continuation_tokens)))
    assert lines[3].startswith("failed: layer 9 does not exist")
