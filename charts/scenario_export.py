"""What-ifs taken out of the app: a table, and a script that runs them again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from charts.text import percent, token_text
from tracer.errors import TracerError
from tracer.interventions.scenario import Scenario

if TYPE_CHECKING:
    from tracer.interventions.run import Outcome, ScenarioRun


def outcomes_table(run: ScenarioRun, limit: int = 10) -> pd.DataFrame:
    """A row per scenario and likely next token, the baseline first; failed scenarios say why."""
    rows: list[dict[str, object]] = []
    for name, outcome in zip(_names(run), [run.baseline, *run.outcomes], strict=True):
        if isinstance(outcome, TracerError):
            rows.append({"scenario": name, "error": str(outcome)})
            continue
        said = "".join(outcome.continuation_tokens)
        shown = {t.token_id: t.token for t in (*run.baseline.next_tokens, *outcome.next_tokens)}
        tokens = sorted(shown, key=lambda token: -outcome.probability(token))[:limit]
        rows += [
            {
                "scenario": name,
                "token": shown[token],
                "token_id": token,
                "probability": outcome.probability(token),
                "baseline_probability": run.baseline.probability(token),
                "logit": float(outcome.logits[token]),
                "baseline_logit": float(run.baseline.logits[token]),
                "kl_nats": outcome.kl,
                "continuation": said,
                "error": "",
            }
            for token in tokens
        ]
    columns = ["scenario", "token", "token_id", "probability", "baseline_probability", "logit"]
    columns += ["baseline_logit", "kl_nats", "continuation", "error"]
    return pd.DataFrame(rows, columns=columns)


def _names(run: ScenarioRun) -> list[str]:
    names = ["unchanged"]
    for number, outcome in enumerate(run.outcomes):
        name = f"{number + 1}" if isinstance(outcome, TracerError) else outcome.name
        names.append(name)
    return names


def python_script(
    model: str,
    transcoders: str,
    prompt: str,
    scenarios: Sequence[Scenario],
    generate: int = 0,
    temperature: float = 0.0,
    seed: int = 0,
) -> str:
    """A script that runs the same scenarios through the public API and prints what is said."""
    listed = "".join(_scenario(scenario) for scenario in scenarios)
    return f'''"""What-ifs about one prompt, run again."""

import tracer
from tracer import Edit, FeatureId, Scenario

PROMPT = {prompt!r}
SCENARIOS = [
{listed}]

model = tracer.load({model!r}, {transcoders!r})
run = tracer.run_scenarios(
    model, PROMPT, SCENARIOS, generate={generate}, temperature={temperature!r}, seed={seed}
)
for outcome in [run.baseline, *run.outcomes]:
    if isinstance(outcome, tracer.TracerError):
        print("failed:", outcome)
        continue
    first = outcome.next_tokens[0]
    print(
        f"{{outcome.name}}: {{first.token!r}} {{first.probability:.4f}}, "
        f"KL {{outcome.kl:.4f}} nats, goes on: {{''.join(outcome.continuation_tokens)!r}}"
    )
'''


def _scenario(scenario: Scenario) -> str:
    edits = "".join(
        f"            Edit(FeatureId({edit.feature.layer}, {edit.feature.index}), {edit.start}, "
        f"{edit.stop}, {edit.operation!r}, {edit.value!r}),\n"
        for edit in scenario.edits
    )
    options = "".join(
        f"        {name}={getattr(scenario, name)!r},\n"
        for name in ("freeze_attention", "constrained_layers", "freeze_norms")
    )
    named = f"        {scenario.name!r},\n        (\n{edits}        ),\n"
    return f"    Scenario(\n{named}{options}    ),\n"


def other_prompts_table(
    runs: Sequence[tuple[str, ScenarioRun | str]], names: Sequence[str]
) -> pd.DataFrame:
    """A row per prompt: its own answer, and what each scenario makes of it."""
    rows = []
    for prompt, run in runs:
        if isinstance(run, str):
            rows.append({"prompt": prompt, "unchanged": run})
            continue
        row = {"prompt": prompt, "unchanged": _said(run.baseline)}
        for name, outcome in zip(names, run.outcomes, strict=True):
            row[name] = str(outcome) if isinstance(outcome, TracerError) else _said(outcome)
        rows.append(row)
    return pd.DataFrame(rows, columns=["prompt", "unchanged", *names]).fillna("")


def _said(outcome: Outcome) -> str:
    first = outcome.next_tokens[0]
    return f"{token_text(first.token)} ({percent(first.probability)})"
