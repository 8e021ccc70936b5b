"""`trace`: the attribution graph of a prompt.

Which features are expanded, in which order and in which batches; the numbers themselves come from
:mod:`tracer.attribution.backward`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tracer.attribution.backward import FrozenBackward
from tracer.attribution.edge_rows import RANKING_EPSILON, EdgeRows
from tracer.attribution.frozen import FrozenPass, frozen_pass
from tracer.attribution.memory import check_forward, plan_walks
from tracer.attribution.targets import ChosenTargets, choose_targets, next_tokens
from tracer.errors import NoActiveFeaturesError, TracerError
from tracer.graph.graph import AttributionGraph
from tracer.model.model import Model
from tracer.types import Progress, TargetChoice

_SMALLEST_BATCH: Final = 128
_SAMPLED_TARGETS: Final = 2
_SAMPLED_ROWS: Final = 14


def trace(
    model: Model,
    prompt: str | Sequence[int],
    targets: Sequence[TargetChoice] | None = None,
    max_logits: int = 10,
    logit_mass: float = 0.95,
    max_features: int | None = None,
    rank_every: int = 1024,
    batch_size: int = 256,
    progress: Progress | None = None,
    memory_limit: int | None = None,
    offload: bool = False,
) -> AttributionGraph:
    """The attribution graph of the model's next token after ``prompt``.

    ``targets`` are tokens (text or ids), contrasts, directions or features; None takes the fewest
    likeliest tokens whose probability reaches ``logit_mass``, at most ``max_logits``. At most
    ``max_features`` active features are expanded, those of most influence first, re-ranked every
    ``rank_every`` of them; ``batch_size`` changes nothing but speed, and is lowered where memory is
    short. ``progress`` is called at every batch, and again at every layer; it may raise
    :class:`tracer.errors.Cancelled`.

    ``memory_limit`` (bytes, beside the open model) is what the trace may use; None for most of
    what is free. ``offload`` moves the weights that the backward walks do not need from the device
    to the CPU meanwhile. Prompts so long that whole rows would not fit keep the strongest entries
    of each (``AttributionGraph.dropped_weight``).

    Raises the errors of :meth:`Model.encode` and :func:`tracer.attribution.targets.choose_targets`,
    :class:`NoActiveFeaturesError`, and :class:`MemoryLimitError` before work that would not fit.
    """
    for name, value in (("rank_every", rank_every), ("batch_size", batch_size)):
        if value < 1:
            raise TracerError(f"{name} is {value}: it must be at least 1")
    if max_features is not None and max_features < 0:
        raise TracerError(f"max_features is {max_features}: give a number from 0, or None for all")
    token_ids = model.encode(prompt)
    check_forward(model, len(token_ids), memory_limit)
    report = _Progress(progress)
    frozen = frozen_pass(model, token_ids, report.again)
    n_active = len(frozen.features)
    if not n_active:
        raise NoActiveFeaturesError(
            f"no feature is active on these {len(token_ids)} tokens: write more than the "
            "beginning-of-text token, and check that the transcoders belong to the model"
        )
    chosen = choose_targets(model, frozen, targets, max_logits, logit_mass)
    wanted = n_active if max_features is None else min(max_features, n_active)
    effects = FrozenBackward(model, frozen)
    effects.checkpoint = report.again
    plan = plan_walks(effects, len(chosen.targets), wanted, batch_size, memory_limit)
    if plan.keep_sources:
        effects.sources.keep()
    rows = EdgeRows(effects.sources.n_sources, plan.row_share, plan.rows_limit)
    with model.offloaded(offload):
        expanded = _expand(effects, chosen, wanted, rank_every, plan.batch_size, rows, report)
        rounding_error = _rounding_error(effects, chosen, expanded, plan.batch_size)
    graph = _package(
        model,
        prompt if isinstance(prompt, str) else "".join(model.token_strings(token_ids)),
        frozen,
        chosen,
        expanded,
        rows,
        {
            "model": model.source.name,
            "transcoders": model.source.transcoders,
            "fingerprint": model.source.fingerprint,
            "revisions": dict(model.source.revisions),
            "scan": model.transcoders.scan,
            "dtype": str(model.bridge.dtype).removeprefix("torch."),
            "max_logits": max_logits,
            "logit_mass": logit_mass,
            "max_features": max_features,
            "rank_every": rank_every,
        },
    )
    return replace(graph, dropped_weight=rows.dropped, rounding_error=rounding_error)


class _Progress:
    """A progress callback that can be called again between two steps, so that it may raise."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._last = (0, 0, "running the model")

    def __call__(self, done: int, total: int, what: str) -> None:
        self._last = (done, total, what)
        self.again()

    def again(self) -> None:
        if self._progress is not None:
            self._progress(*self._last)


def _expand(
    effects: FrozenBackward,
    chosen: ChosenTargets,
    wanted: int,
    rank_every: int,
    batch_size: int,
    rows: EdgeRows,
    progress: _Progress,
) -> Int[Tensor, " wanted"]:
    """Compute the rows of the targets and of the ``wanted`` most influential features."""
    features = effects.frozen.features
    n_active, n_targets = len(features), len(chosen.targets)
    total, done = n_targets + wanted, 0

    def report(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total, "direct effects")

    report(0)
    for start in range(0, n_targets, batch_size):
        part = slice(start, min(start + batch_size, n_targets))
        numbers = torch.arange(part.start, part.stop) + effects.sources.n_sources
        probabilities = torch.tensor([t.probability for t in chosen.targets[part]])
        found = _on_targets(effects, chosen, part)
        rows.add_targets(numbers, found, probabilities)
        report(len(found))

    visited = torch.zeros(n_active, dtype=torch.bool, device=features.device)
    remaining = wanted
    while remaining:
        if wanted == n_active:
            pending = torch.arange(n_active, device=features.device)
        else:
            influence = rows.influence()[:n_active]
            ranked = influence.argsort(descending=True, stable=True).to(features.device)
            pending = ranked[~visited[ranked]][: min(rank_every, remaining)]
        for batch in _batches(pending, features, batch_size):
            found = effects.on_features(features[batch])
            rows.add_features(batch, features[batch, 0].tolist(), found)
            report(len(batch))
        visited[pending] = True
        remaining -= len(pending)
    return visited.nonzero()[:, 0]


def _on_targets(
    effects: FrozenBackward, chosen: ChosenTargets, part: slice
) -> Float[Tensor, "part sources"]:
    """Rows ``part`` of the targets: those at the output, then those that are features."""
    n_outputs = len(chosen.directions)
    found = []
    if part.start < n_outputs:
        found.append(effects.on_logits(chosen.directions[part]))
    if part.stop > n_outputs:
        inner = slice(max(0, part.start - n_outputs), part.stop - n_outputs)
        found.append(effects.on_features(chosen.features[inner]))
    return torch.cat(found)


def _rounding_error(
    effects: FrozenBackward,
    chosen: ChosenTargets,
    expanded: Int[Tensor, " wanted"],
    batch_size: int,
) -> float:
    """How far rows are from float32: the share of weight that moved, over a sample of them."""
    if effects.dtype == torch.float32:
        return 0.0
    exact = FrozenBackward(effects.model, effects.frozen, torch.float32)
    exact.checkpoint = effects.checkpoint
    batch_size = max(1, batch_size // 2)  # float32 takes twice the memory
    count = min(_SAMPLED_ROWS, len(expanded))
    places = torch.linspace(0, len(expanded) - 1, count).long()
    sample = effects.frozen.features[expanded[places.to(expanded.device)]]
    few = slice(0, min(_SAMPLED_TARGETS, batch_size, len(chosen.targets)))
    rows = _on_targets(effects, chosen, few), _on_targets(exact, chosen, few)
    weights = _moved_and_all(*rows)
    for start in range(0, count, batch_size):
        features = sample[start : start + batch_size]
        rows = effects.on_features(features), exact.on_features(features)
        weights += _moved_and_all(*rows)
    return float(weights[0] / weights[1].clamp(min=RANKING_EPSILON))


def _moved_and_all(rows: Tensor, exact: Float[Tensor, "rows sources"]) -> Float[Tensor, " two"]:
    """Absolute weight by which the rows differ, and all there is."""
    return torch.stack([(rows - exact).abs().sum(), exact.abs().sum()])


def _batches(
    rows: Int[Tensor, " rows"], features: Int[Tensor, "active 3"], batch_size: int
) -> Iterator[Int[Tensor, " batch"]]:
    """Batches of at most ``batch_size`` whose targets stand close together, highest layer first.

    A walk carries all positions up to its last target's, so a batch ends where positions have
    grown by a tenth, unless it would be too small to keep the processor busy.
    """
    rows = rows[features[rows, 1].argsort(stable=True)]
    positions, start = features[rows, 1].tolist(), 0
    for end in range(1, len(rows) + 1):
        size = end - start
        full = end == len(rows) or size == batch_size
        if not full and size >= _SMALLEST_BATCH:
            full = positions[end] + 1 > 1.1 * (positions[start] + 1)
        if full:
            batch = rows[start:end]
            yield batch[features[batch, 0].argsort(descending=True, stable=True)]
            start = end


def _package(
    model: Model,
    prompt: str,
    frozen: FrozenPass,
    chosen: ChosenTargets,
    expanded: Int[Tensor, " wanted"],
    rows: EdgeRows,
    provenance: dict[str, object],
) -> AttributionGraph:
    """Renumber the nodes that the graph keeps, and lay the rows out as CSR."""
    n_active = len(frozen.features)
    n_inner = model.n_layers * frozen.n_positions + frozen.n_positions
    n_nodes = len(expanded) + n_inner + len(chosen.targets)
    row_of = np.full(n_active + n_inner + len(chosen.targets), -1, np.int64)
    row_of[expanded.cpu().numpy()] = np.arange(len(expanded))
    row_of[n_active:] = np.arange(len(expanded), n_nodes)

    indptr, sources, weights = rows.to_csr(row_of)
    token_ids = tuple(frozen.token_ids.tolist())
    return AttributionGraph(
        prompt=prompt,
        tokens=model.token_strings(token_ids),
        token_ids=token_ids,
        n_layers=model.n_layers,
        features=frozen.features[expanded].cpu().numpy().astype(np.int32).reshape(-1, 3),
        activations=frozen.activations[expanded].float().cpu().numpy(),
        targets=chosen.targets,
        indptr=indptr,
        sources=sources,
        weights=weights,
        next_tokens=next_tokens(model, frozen.logits),
        n_active_features=n_active,
        provenance=provenance,
    )
