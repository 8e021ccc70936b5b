"""Edit features and run the model: one intervention, or many scenarios in one batch.

All scenarios of a prompt are rows of one batch. What an edit does is defined in
:mod:`tracer.interventions.edit_hooks`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tracer.attribution.targets import next_tokens
from tracer.errors import InterventionError, ModelError
from tracer.interventions.edit_hooks import EditedRun, capture_unedited, names_to_capture
from tracer.interventions.edit_rows import (
    EditedRow,
    check_feature,
    check_row,
    edited_features,
)
from tracer.interventions.generation import Continuation
from tracer.interventions.head_edit import HeadEdit
from tracer.interventions.head_hooks import check_heads
from tracer.interventions.memory import plan_run
from tracer.interventions.results import (
    InterventionResult,
    Outcome,
    ScenarioRun,
    TokenChange,
    kl_divergence,
    log_probabilities,
)
from tracer.interventions.scenario import Edit, Scenario
from tracer.interventions.watching import Watch
from tracer.model.failures import as_tracer_errors
from tracer.model.model import Model
from tracer.types import FeatureId, Intervention, NodeId, Progress, Prompt

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
    prompt: Prompt,
    scenarios: Sequence[Scenario],
    generate: int = 0,
    temperature: float = 0.0,
    seed: int = 0,
    watch: Sequence[NodeId] | Literal["all"] = (),
    batch_size: int = 16,
    progress: Progress | None = None,
    memory_limit: int | None = None,
) -> ScenarioRun:
    """Run the prompt under every scenario, up to ``batch_size`` of them in one forward pass.

    ``generate`` adds that many tokens with the edits kept on: the most likely ones, or, at a
    ``temperature`` above 0, sampled ones with the same random numbers in all scenarios, so that a
    difference comes from the edits. Whatever a scenario freezes is frozen in the prompt only, as in
    circuit-tracer's `feature_intervention_generate`.

    ``watch`` names features whose activations are returned; ``"all"`` returns every active one.

    Only the logits of the last position are computed. ``memory_limit`` (bytes; by default most of
    the memory that is free) lowers the number of scenarios that run at a time.

    ``progress`` is called with ``"scenarios"`` before each batch and at the end, and with
    ``"generating"`` after every generated token, the baseline's included; it may raise
    :class:`tracer.errors.Cancelled`, which stops the run within one token.

    A scenario that cannot be run, or drives the model to numbers that are not finite, has an
    :class:`InterventionError` as its outcome. Raises :class:`InterventionError` for problems that
    concern all scenarios (no room to generate, a watched node that is not a feature),
    :class:`MemoryLimitError` when not even one scenario fits, :class:`DeviceLostError` when the
    device fails, :class:`ModelError` when the model
    itself produces NaN or Inf, and the errors of :meth:`Model.encode`.

    >>> import tracer
    >>> model = tracer.load("atlas", device="cpu")
    >>> prompt = "The capital of the state containing Dallas is"
    >>> graph = tracer.trace(model, prompt, max_features=64)
    >>> strongest = max(range(64), key=lambda row: graph.activations[row])
    >>> edit = tracer.Edit.at(graph.index.node(strongest), "scale", 0.0)
    >>> run = tracer.run_scenarios(model, prompt, [tracer.Scenario("off", (edit,))], generate=2)
    >>> run.baseline.continuation_tokens[0]
    ' Austin'
    >>> [outcome.name for outcome in run.outcomes], run.outcomes[0].kl > 0
    (['off'], True)
    """
    token_ids = model.encode(prompt)
    n_pos = len(token_ids)
    _check_generation(model, n_pos, generate, temperature)
    if batch_size < 1:
        raise InterventionError(f"batch_size is {batch_size}: it must be at least 1")
    what = f"running {len(scenarios)} scenarios of {n_pos} tokens"
    advice = "lower batch_size or memory_limit, generate fewer tokens, or shorten the prompt"
    with as_tracer_errors(what, model.device, advice):
        return _run_scenarios(
            model, prompt, token_ids, scenarios, _Generation(generate, temperature, seed),
            watch, batch_size, progress, memory_limit,
        )  # fmt: skip


@dataclass(frozen=True)
class _Generation:
    n_tokens: int
    temperature: float
    seed: int


def _run_scenarios(
    model: Model,
    prompt: Prompt,
    token_ids: tuple[int, ...],
    scenarios: Sequence[Scenario],
    generation: _Generation,
    watch: Sequence[NodeId] | Literal["all"],
    batch_size: int,
    progress: Progress | None,
    memory_limit: int | None,
) -> ScenarioRun:
    """Run scenarios in a frame of their own, so that a failure keeps no tensor alive."""
    n_pos, generate = len(token_ids), generation.n_tokens
    nodes = None if watch == "all" else [_checked_watch(model, node, n_pos) for node in watch]
    rows: dict[int, EditedRow] = {}
    outcomes: dict[int, Outcome | InterventionError] = {}
    for number, scenario in enumerate(scenarios):
        try:
            row = check_row(model, scenario, n_pos)
            check_heads(model, row)
            rows[number] = row
        except InterventionError as error:
            outcomes[number] = error
    plan = plan_run(
        model, list(rows.values()), n_pos, generate, nodes is None, batch_size, memory_limit
    )
    report = _Report(progress, len(rows), plan.batch_size, generate)
    report.batch(0)
    run = _PromptRun(model, token_ids, list(rows.values()), Watch(model, nodes), generation)
    baseline = run.baseline(report)
    numbers = list(rows)
    for start in range(0, len(numbers), plan.batch_size):
        report.batch(start)
        batch = numbers[start : start + plan.batch_size]
        results = run.outcomes([rows[number] for number in batch], baseline, report)
        outcomes.update(zip(batch, results, strict=True))
    report.batch(len(numbers))
    return ScenarioRun(
        prompt=model.prompt_text(prompt),
        token_ids=token_ids,
        baseline=baseline,
        outcomes=tuple(outcomes[number] for number in range(len(scenarios))),
        logit_soft_cap=model.bridge.logit_soft_cap,
    )


class _Report:
    """Progress of a run: scenarios by batch, and generated tokens over all batches."""

    def __init__(
        self, progress: Progress | None, n_rows: int, batch_size: int, generate: int
    ) -> None:
        self._progress, self._n_rows, self._generate = progress, n_rows, generate
        self._n_tokens = generate * (1 + -(-n_rows // batch_size))
        self._before = -generate

    def batch(self, done: int) -> None:
        """Report that ``done`` scenarios are finished."""
        if self._progress is not None:
            self._progress(done, self._n_rows, "scenarios")

    def start_tokens(self) -> None:
        """Count the tokens that follow as those of the next batch; the baseline is the first."""
        self._before += self._generate

    def token(self, count: int) -> None:
        """Report that ``count`` tokens of this batch have been generated."""
        if self._progress is not None:
            self._progress(self._before + count, self._n_tokens, "generating")


class _PromptRun:
    """A prompt with the captured values of its unedited run, ready to run scenarios."""

    def __init__(
        self,
        model: Model,
        token_ids: tuple[int, ...],
        rows: Sequence[EditedRow],
        watch: Watch,
        generation: _Generation,
    ) -> None:
        self._model, self._watch = model, watch
        self._ids: Int[Tensor, " pos"] = torch.tensor(token_ids, device=model.device)
        self._continuation = Continuation(
            model, generation.n_tokens, generation.temperature, generation.seed
        )
        self._features = edited_features(model, rows)
        logits, self._unedited = capture_unedited(
            model, self._ids, names_to_capture(model, rows), watch
        )
        self._logits: Float[Tensor, " vocab"] = logits.float().cpu()
        if not torch.isfinite(self._logits).all():
            raise ModelError(
                f"{model.source.name} produces NaN or Inf logits before any edit: its weights are "
                "damaged; fetch the model again"
            )
        [self._activations] = watch.take(1)
        self._log_probabilities = log_probabilities(self._logits.numpy())

    def baseline(self, report: _Report) -> Outcome:
        """Return the outcome without any edits."""
        generated: tuple[int, ...] = ()
        if len(self._continuation):
            unedited = Scenario("baseline", (), freeze_attention=False)
            row = check_row(self._model, unedited, len(self._ids))
            [generated] = self._run([row], None, report)[1]
        return Outcome(
            name="baseline",
            next_tokens=next_tokens(self._model, self._logits),
            logits=self._logits.numpy(),
            activations=self._activations,
            continuation=generated,
            continuation_tokens=self._model.token_strings(generated),
        )

    def outcomes(
        self, rows: Sequence[EditedRow], baseline: Outcome, report: _Report
    ) -> list[Outcome | InterventionError]:
        """Run a batch of scenarios."""
        logits, continuations = self._run(rows, self._watch, report)
        results = zip(logits, continuations, self._watch.take(len(rows)), strict=True)
        return [
            self._outcome(row.scenario.name, baseline, *result)
            for row, result in zip(rows, results, strict=True)
        ]

    def _run(
        self, rows: Sequence[EditedRow], watch: Watch | None, report: _Report
    ) -> tuple[Float[Tensor, "rows vocab"], list[tuple[int, ...]]]:
        """Return the logits at the end of the prompt, on the host, and the generated tokens."""
        run = EditedRun(self._model, rows, self._unedited, self._features, watch)
        if not len(self._continuation):
            return run(self._ids)[:, -1].float().cpu(), [()] * len(rows)
        after, cache = run.step(self._ids.expand(len(rows), -1), 0, None)
        logits = after[:, -1].float()
        report.start_tokens()
        generated = self._continuation.of(run, logits, cache, report.token)
        return logits.cpu(), generated

    def _outcome(
        self,
        name: str,
        baseline: Outcome,
        logits: Float[Tensor, " vocab"],
        generated: tuple[int, ...],
        activations: dict[NodeId, float],
    ) -> Outcome | InterventionError:
        if not torch.isfinite(logits).all():
            return InterventionError(
                f"{name}: the edited model produces NaN or Inf logits; use smaller values"
            )
        logits = logits.clone()  # so that an outcome does not keep its batch in memory
        return Outcome(
            name=name,
            next_tokens=next_tokens(self._model, logits),
            logits=logits.numpy(),
            kl=kl_divergence(self._log_probabilities, log_probabilities(logits.numpy())),
            activations=activations,
            continuation=generated,
            continuation_tokens=self._model.token_strings(generated),
            differs_at=_first_difference(generated, baseline.continuation),
        )


def _first_difference(left: Sequence[int], right: Sequence[int]) -> int | None:
    """Return the first index at which two lists of tokens differ; None if they are equal."""
    for index, (token, other) in enumerate(zip(left, right, strict=False)):
        if token != other:
            return index
    return None if len(left) == len(right) else min(len(left), len(right))


def intervene(
    model: Model,
    prompt: Prompt,
    interventions: Sequence[Intervention],
    freeze_attention: bool = True,
    constrained_layers: Collection[int] | None = None,
    generate: int = 0,
    watch: Sequence[NodeId] | Literal["all"] = (),
    progress: Progress | None = None,
    memory_limit: int | None = None,
    head_edits: Sequence[HeadEdit] = (),
) -> InterventionResult:
    """Run the prompt with features set to given values: one scenario of :func:`run_scenarios`.

    ``freeze_attention`` keeps the attention patterns of the unedited prompt.
    ``constrained_layers`` also freezes the MLP outputs of these layers (and all norm scales, if it
    names every layer); edits are then relative to the unedited activations and write only to those
    layers. ``generate`` adds that many most likely tokens, with the edits kept at their positions.
    ``watch`` names features whose activations are returned; ``"all"`` returns those of every
    feature that is active before or after. ``progress`` and ``memory_limit`` are those of
    :func:`run_scenarios`. ``head_edits`` change heads in the same run.

    Raises :class:`InterventionError` for an edit of a layer, position or feature that does not
    exist, or when the edits drive the model to numbers that are not finite,
    :class:`MemoryLimitError` when the run does not fit, and the errors of :meth:`Model.encode`.

    >>> import tracer
    >>> model = tracer.load("atlas", device="cpu")
    >>> edit = tracer.Intervention(layer=0, position=-1, feature=3, value=20.0)
    >>> result = tracer.intervene(model, "The capital of the state containing Dallas is", [edit])
    >>> result.baseline[0].token, result.kl > 0
    (' Austin', True)
    """
    n_pos = len(model.encode(prompt))
    checked = tuple(_checked(model, edit, n_pos) for edit in interventions)
    edits = tuple(
        Edit(FeatureId(e.layer, e.feature), e.position, e.position + 1, "set", e.value)
        for e in checked
    )
    layers = None if constrained_layers is None else tuple(constrained_layers)
    scenario = Scenario("edited", edits, freeze_attention, layers, head_edits=tuple(head_edits))
    run = run_scenarios(
        model,
        prompt,
        [scenario],
        generate=generate,
        watch=watch,
        progress=progress,
        memory_limit=memory_limit,
    )
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
    """Return the edit with its position counted from the start; raise if it does not exist."""
    check_feature(model, edit.layer, edit.feature)
    if not -n_pos <= edit.position < n_pos:
        raise InterventionError(
            f"position {edit.position} does not exist: the prompt has {n_pos} tokens, positions 0 "
            f"to {n_pos - 1}"
        )
    return replace(edit, position=edit.position % n_pos)


def _checked_watch(model: Model, node: NodeId, n_pos: int) -> NodeId:
    if node.kind != "feature":
        raise InterventionError(f"{node} cannot be watched: only features have activations")
    _checked(model, Intervention(node.layer, node.position, node.index, 0.0), n_pos)
    return node


def _check_generation(model: Model, n_pos: int, generate: int, temperature: float) -> None:
    room = model.bridge.n_context - n_pos
    if not 0 <= generate <= room:
        raise InterventionError(
            f"cannot generate {generate} tokens after {n_pos}: {model.source.name} has room "
            f"for {room}"
        )
    if not 0 <= temperature < float("inf"):
        raise InterventionError(
            f"the temperature is {temperature}: give 0 for the most likely tokens, or more"
        )
