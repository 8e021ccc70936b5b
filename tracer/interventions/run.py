"""Change features and see what the model says: one what-if, or many side by side.

All scenarios of a prompt are rows of one batch; what an edit means is told in
:mod:`tracer.interventions.edit_hooks`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tracer.attribution.targets import next_tokens
from tracer.errors import InterventionError, ModelError
from tracer.graph.nodes import FloatArray
from tracer.interventions.edit_hooks import (
    EditedRow,
    EditedRun,
    check_feature,
    check_row,
    names_to_capture,
)
from tracer.interventions.generation import Continuation
from tracer.interventions.results import (
    InterventionResult,
    Outcome,
    ScenarioRun,
    TokenChange,
    kl_divergence,
    log_probabilities,
)
from tracer.interventions.scenario import Edit, Scenario
from tracer.model.model import Model
from tracer.types import FeatureId, Intervention, NodeId, Progress

__all__ = [
    "InterventionResult",
    "Outcome",
    "ScenarioRun",
    "TokenChange",
    "intervene",
    "run_scenarios",
]


def run_scenarios(
    model: Model,
    prompt: str | Sequence[int],
    scenarios: Sequence[Scenario],
    generate: int = 0,
    temperature: float = 0.0,
    seed: int = 0,
    watch: Sequence[NodeId] | Literal["all"] = (),
    batch_size: int = 16,
    progress: Progress | None = None,
) -> ScenarioRun:
    """Run the prompt under every scenario, ``batch_size`` of them in one forward pass.

    ``generate`` adds that many tokens, the edits kept on: the likeliest ones, or at a
    ``temperature`` above 0 sampled ones, with the same random numbers in all scenarios, so that a
    difference comes from the edits. What a scenario holds still is held in the prompt alone, as in
    circuit-tracer's `feature_intervention_generate`.

    ``watch`` names features whose activations are returned; ``"all"`` returns every active one.

    A scenario that is wrong, or drives the model to numbers that are not finite, has an
    :class:`InterventionError` for its outcome. Raises the same for what concerns all of them (no
    room to generate, a watched node that is no feature), :class:`ModelError` for a model whose own
    answer is not finite, and the errors of :meth:`Model.encode`.
    """
    token_ids = model.encode(prompt)
    n_pos = len(token_ids)
    _check_generation(model, n_pos, generate, temperature)
    watched = None if watch == "all" else [_checked_watch(model, node, n_pos) for node in watch]
    rows: dict[int, EditedRow] = {}
    failed: dict[int, InterventionError] = {}
    for number, scenario in enumerate(scenarios):
        try:
            rows[number] = check_row(model, scenario, n_pos)
        except InterventionError as error:
            failed[number] = error
    ids = torch.tensor(token_ids, device=model.device)
    logits, seen = model.bridge.capture(ids, names_to_capture(model, list(rows.values())))
    if not torch.isfinite(logits).all():
        raise ModelError(
            f"{model.source.name} answers with numbers that are not finite before anything is "
            "edited: its weights are damaged"
        )
    continuation = Continuation(model, ids, generate, temperature, seed)
    nothing = check_row(model, Scenario("baseline", (), freeze_attention=False), n_pos)
    spoken = continuation.of(EditedRun(model, [nothing], seen))[0] if generate else ()
    baseline = Outcome(
        name="baseline",
        next_tokens=next_tokens(model, logits[-1].float()),
        logits=logits[-1].float().cpu().numpy(),
        activations=_watched(model, seen, None, watched),
        continuation=spoken,
        continuation_tokens=model.token_strings(spoken),
    )
    log_before = log_probabilities(baseline.logits)
    outcomes: dict[int, Outcome | InterventionError] = {**failed}
    numbers = list(rows)
    for start in range(0, len(numbers), batch_size):
        if progress is not None:
            progress(start, len(numbers), "scenarios")
        part = numbers[start : start + batch_size]
        run = EditedRun(model, [rows[number] for number in part], seen)
        after = run(ids)[:, -1].float().cpu()
        read = dict(run.inputs)
        said = continuation.of(run) if generate else [()] * len(part)
        for place, number in enumerate(part):
            outcomes[number] = _outcome(
                model, scenarios[number].name, after[place], baseline, log_before, said[place]
            )
            if isinstance(outcome := outcomes[number], Outcome):
                found = _watched(model, read, place, watched)
                outcomes[number] = replace(outcome, activations=found)
    if progress is not None:
        progress(len(numbers), len(numbers), "scenarios")
    return ScenarioRun(
        prompt=prompt if isinstance(prompt, str) else "".join(model.token_strings(token_ids)),
        token_ids=token_ids,
        baseline=baseline,
        outcomes=tuple(outcomes[number] for number in range(len(scenarios))),
        logit_soft_cap=model.bridge.logit_soft_cap,
    )


def _outcome(
    model: Model,
    name: str,
    logits: Float[Tensor, " vocab"],
    baseline: Outcome,
    log_before: FloatArray,
    said: tuple[int, ...],
) -> Outcome | InterventionError:
    if not torch.isfinite(logits).all():
        return InterventionError(
            f"{name}: the edited model answers with numbers that are not finite: use smaller values"
        )
    both = enumerate(zip(said, baseline.continuation, strict=False))
    apart = next((i for i, (ours, theirs) in both if ours != theirs), None)
    if apart is None and len(said) != len(baseline.continuation):
        apart = min(len(said), len(baseline.continuation))
    return Outcome(
        name=name,
        next_tokens=next_tokens(model, logits),
        logits=logits.numpy(),
        kl=kl_divergence(log_before, log_probabilities(logits.numpy())),
        continuation=said,
        continuation_tokens=model.token_strings(said),
        differs_at=apart,
    )


def intervene(
    model: Model,
    prompt: str | Sequence[int],
    interventions: Sequence[Intervention],
    freeze_attention: bool = True,
    constrained_layers: Collection[int] | None = None,
    generate: int = 0,
    watch: Sequence[NodeId] | Literal["all"] = (),
) -> InterventionResult:
    """Run the prompt with features set to given values: one scenario of :func:`run_scenarios`.

    ``freeze_attention`` holds attention patterns at those of the unedited prompt.
    ``constrained_layers`` also holds MLP outputs there (and all norm scales, when it names every
    layer); edits then count against the unedited activations and write only to those layers.
    ``generate`` adds that many greedily chosen tokens, the edits kept at their positions.
    ``watch`` names features whose activations are to be returned; ``"all"`` returns those of every
    feature that is active before or after.

    Raises :class:`InterventionError` for an edit on something that is not there, or when the edits
    drive the model to numbers that are not finite; and the errors of :meth:`Model.encode`.
    """
    n_pos = len(model.encode(prompt))
    checked = tuple(_checked(model, edit, n_pos) for edit in interventions)
    edits = tuple(
        Edit(FeatureId(e.layer, e.feature), e.position, e.position + 1, "set", e.value)
        for e in checked
    )
    layers = None if constrained_layers is None else tuple(constrained_layers)
    scenario = Scenario("edited", edits, freeze_attention, layers)
    run = run_scenarios(model, prompt, [scenario], generate=generate, watch=watch)
    outcome, baseline = run.outcomes[0], run.baseline
    if isinstance(outcome, InterventionError):
        raise outcome
    nodes = dict.fromkeys([*baseline.activations, *outcome.activations])
    return InterventionResult(
        prompt=run.prompt,
        token_ids=run.token_ids,
        interventions=checked,
        baseline=baseline.next_tokens,
        edited=outcome.next_tokens,
        baseline_logits=baseline.logits,
        edited_logits=outcome.logits,
        kl=outcome.kl,
        activations={
            node: (baseline.activations.get(node, 0.0), outcome.activations.get(node, 0.0))
            for node in nodes
        },
        baseline_continuation="".join(baseline.continuation_tokens),
        edited_continuation="".join(outcome.continuation_tokens),
    )


def _checked(model: Model, edit: Intervention, n_pos: int) -> Intervention:
    """The edit with its position counted from the start; raises if it names nothing."""
    check_feature(model, edit.layer, edit.feature)
    if not -n_pos <= edit.position < n_pos:
        raise InterventionError(
            f"there is no position {edit.position}: the prompt has {n_pos} tokens, positions 0 to "
            f"{n_pos - 1}"
        )
    return Intervention(edit.layer, edit.position % n_pos, edit.feature, edit.value)


def _checked_watch(model: Model, node: NodeId, n_pos: int) -> NodeId:
    if node.kind != "feature":
        raise InterventionError(f"{node} cannot be watched: only features have activations")
    _checked(model, Intervention(node.layer, node.position, node.index, 0.0), n_pos)
    return node


def _check_generation(model: Model, n_pos: int, generate: int, temperature: float) -> None:
    room = model.bridge.n_context - n_pos
    if not 0 <= generate <= room:
        raise InterventionError(
            f"{generate} tokens cannot be generated after {n_pos}: {model.source.name} has room "
            f"for {room}"
        )
    if not 0 <= temperature < float("inf"):
        raise InterventionError(
            f"the temperature is {temperature}: expected 0 for the likeliest tokens, or more"
        )


def _watched(
    model: Model, read: Mapping[str, Tensor], row: int | None, nodes: list[NodeId] | None
) -> dict[NodeId, float]:
    """Activations of ``nodes``, or of all active features, in one row of a batch (or without)."""
    found: dict[NodeId, float] = {}
    for layer, transcoder in enumerate(model.transcoders.layers):
        x = read[model.read_hook(layer)]
        x = x if row is None else x[row]
        if nodes is None:
            values = transcoder.activations(x)
            values[: model.first_position] = 0
            position, feature = values.nonzero(as_tuple=True)
            chosen = values[position, feature]
            places = zip(position.tolist(), feature.tolist(), strict=True)
            here = [NodeId("feature", layer, *place) for place in places]
        else:
            here = [node for node in nodes if node.layer == layer]
            positions = torch.tensor([node.position for node in here], device=x.device).long()
            features = torch.tensor([node.index for node in here], device=x.device).long()
            chosen = transcoder.chosen_activations(x[positions], features)
            chosen = torch.where(positions < model.first_position, 0, chosen)
        found.update(zip(here, chosen.tolist(), strict=True))
    return found
