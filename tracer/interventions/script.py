"""Write scenarios as a Python script that runs them again through the public API."""

from __future__ import annotations

from collections.abc import Sequence

from tracer.interventions.scenario import Scenario


def python_script(
    model: str,
    transcoders: str,
    prompt: str,
    scenarios: Sequence[Scenario],
    generate: int = 0,
    temperature: float = 0.0,
    seed: int = 0,
    dtype: str = "float32",
) -> str:
    """Return a script that runs ``scenarios`` on ``prompt`` and prints each outcome.

    >>> from tracer import Edit, FeatureId, Scenario
    >>> off = Scenario("feature off", (Edit(FeatureId(1, 887), 7, 8, "scale", 0.0),))
    >>> script = python_script("atlas", "per-layer", "The capital of Texas is", [off])
    >>> "Edit(FeatureId(1, 887), 7, 8, 'scale', 0.0)" in script
    True
    """
    listed = "".join(_scenario(scenario) for scenario in scenarios)
    imported = "HeadEdit, " if any(scenario.head_edits for scenario in scenarios) else ""
    return f'''"""Interventions on one prompt, exported from the dashboard."""

import tracer
from tracer import Edit, FeatureId, {imported}Scenario

PROMPT = {prompt!r}
SCENARIOS = [
{listed}]

model = tracer.load({model!r}, {transcoders!r}, dtype={dtype!r})
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
        f"KL {{outcome.kl:.4f}} nats, continuation: {{''.join(outcome.continuation_tokens)!r}}"
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
    if scenario.head_edits:
        heads = "".join(f"            {edit!r},\n" for edit in scenario.head_edits)
        options += f"        head_edits=(\n{heads}        ),\n"
    named = f"        {scenario.name!r},\n        (\n{edits}        ),\n"
    return f"    Scenario(\n{named}{options}    ),\n"
