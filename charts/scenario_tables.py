"""Outcomes of scenarios as data frames: one prompt in detail, or a row per prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from charts.text import percent, token_text
from tracer.errors import TracerError

if TYPE_CHECKING:
    from tracer.interventions.run import Outcome, ScenarioRun


def outcomes_table(run: ScenarioRun, limit: int = 10) -> pd.DataFrame:
    """Return a row per scenario and likely next token, baseline first; failures give a reason."""
    rows: list[dict[str, object]] = []
    for name, outcome in zip(_names(run), [run.baseline, *run.outcomes], strict=True):
        if isinstance(outcome, TracerError):
            rows.append({"scenario": name, "error": str(outcome)})
            continue
        continuation = "".join(outcome.continuation_tokens)
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
                "continuation": continuation,
                "error": "",
            }
            for token in tokens
        ]
    columns = ["scenario", "token", "token_id", "probability", "baseline_probability", "logit"]
    columns += ["baseline_logit", "kl_nats", "continuation", "error"]
    return pd.DataFrame(rows, columns=columns)


def _names(run: ScenarioRun) -> list[str]:
    names = ["baseline"]
    for number, outcome in enumerate(run.outcomes):
        name = f"{number + 1}" if isinstance(outcome, TracerError) else outcome.name
        names.append(name)
    return names


def other_prompts_table(
    runs: Sequence[tuple[str, ScenarioRun | str]], names: Sequence[str]
) -> pd.DataFrame:
    """Return a row per prompt: the top token of the baseline and of each scenario."""
    rows = []
    for prompt, run in runs:
        if isinstance(run, str):
            rows.append({"prompt": prompt, "baseline": run})
            continue
        row = {"prompt": prompt, "baseline": _top_token(run.baseline)}
        for name, outcome in zip(names, run.outcomes, strict=True):
            row[name] = str(outcome) if isinstance(outcome, TracerError) else _top_token(outcome)
        rows.append(row)
    return pd.DataFrame(rows, columns=["prompt", "baseline", *names]).fillna("")


def _top_token(outcome: Outcome) -> str:
    first = outcome.next_tokens[0]
    return f"{token_text(first.token)} ({percent(first.probability)})"
