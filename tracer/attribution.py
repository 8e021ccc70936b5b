"""Direct effects by a hand-written backward pass through the frozen, linear residual stream.

The edge from a source to a target is the dot product of what the source writes with the gradient of
the target's pre-activation. One walk down the layers carries the gradients of a whole batch of
targets; no autograd. Method: "Circuit Tracing" (Ameisen et al., 2025); the numbers are those of
circuit-tracer 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tracer.effects import EffectSources, gather_sources
from tracer.errors import TracerError
from tracer.frozen import FrozenPass, frozen_pass
from tracer.graph import AttributionGraph, FloatArray, IntArray
from tracer.models import Model
from tracer.targets import TargetDirections, choose_targets, next_tokens
from tracer.transcoders import ReadPoint, WritePoint
from tracer.types import Contrast, Progress

RANKING_EPSILON: Final = 1e-8
_SMALLEST_BATCH: Final = 48


@dataclass(frozen=True)
class _Batch:
    """Targets of one walk, sorted from the highest layer down."""

    layers: Int[Tensor, " batch"]
    """Layer whose read point a target sits at; ``n_layers`` for the output."""
    positions: Int[Tensor, " batch"]
    gradients: Float[Tensor, "batch d_model"]
    """On the residual stream, at the target's own position."""

    def count_above(self, layer: int) -> int:
        return int((self.layers > layer).sum())


class DirectEffects:
    """The linear replacement model of one prompt: answers "who affects these targets directly?"."""

    def __init__(self, model: Model, frozen: FrozenPass) -> None:
        self.model = model
        self.frozen = frozen
        self.sources: EffectSources = gather_sources(model, frozen)
        # The norm before attention is linear at its frozen scale: its gain and centring go into
        # W_V, its scale into the pattern's columns, and no gradient has to pass it any more.
        self._values, self._patterns = [], []
        for layer, block in enumerate(model.blocks):
            W_V, pattern = block.W_V.transpose(1, 2).flatten(0, 1), frozen.patterns[layer]
            if block.attn_norm is not None:
                W_V = block.attn_norm.pull_back(W_V, W_V.new_ones(1))
                pattern = pattern / frozen.scales[block.attn_norm.name][:, 0]
            self._values.append(W_V)
            self._patterns.append(pattern)

    def on_logits(self, directions: Float[Tensor, "targets d_model"]) -> Float[Tensor, "t sources"]:
        """Direct effects of every source on directions after the final norm, last position."""
        last = self.frozen.n_positions - 1
        scale = self.frozen.scales[self.model.final_norm.name][last]
        n = len(directions)
        return self._walk(
            _Batch(
                layers=torch.full((n,), self.model.n_layers, device=self.model.device),
                positions=torch.full((n,), last, device=self.model.device),
                gradients=self.model.final_norm.pull_back(directions, scale),
            )
        )

    def on_features(self, rows: Int[Tensor, " targets"]) -> Float[Tensor, "targets sources"]:
        """Direct effects of every source on the pre-activations of active features ``rows``."""
        layers, positions, indices = self.frozen.features[rows].unbind(dim=1)
        gradients = torch.empty(
            len(rows),
            self.model.bridge.d_model,
            device=self.model.device,
            dtype=self.model.bridge.dtype,
        )
        for layer in layers.unique().tolist():
            here = layers == layer
            directions = self.model.transcoders[layer].W_enc[indices[here]]
            gradients[here] = self._pull_back_read(layer, directions, positions[here])
        order = layers.argsort(descending=True, stable=True)
        effects = self._walk(_Batch(layers[order], positions[order], gradients[order]))
        return effects[order.argsort()]

    def _pull_back_read(self, layer: int, gradient: Tensor, positions: Tensor) -> Tensor:
        """From what a transcoder reads back to the residual stream, at the given positions."""
        norm = self.model.blocks[layer].mlp_norm
        point = self.model.transcoders.read_point
        if norm is None or point is ReadPoint.RESIDUAL:
            return gradient
        scale = self.frozen.scales[norm.name][positions]
        if point is ReadPoint.NORMALIZED:
            return norm.pull_back_normalized(gradient, scale)
        return norm.pull_back(gradient, scale)

    @torch.no_grad()
    def _walk(self, batch: _Batch) -> Float[Tensor, "batch sources"]:
        """Carry the gradients of ``batch`` down the layers, scoring every source on the way."""
        n, stop = len(batch.layers), int(batch.positions.max()) + 1
        gradient = batch.gradients.new_zeros(n, stop, batch.gradients.shape[1])
        scores = batch.gradients.new_zeros(self.sources.n_sources, n)
        joined = self._join(gradient, batch, 0, batch.count_above(self.model.n_layers - 1))
        spread = 0  # rows that attention has carried to other positions than their target's
        for layer in reversed(range(self.model.n_layers)):
            self.sources.score(layer, gradient[:joined], scores[:, :joined])
            through_mlp = self._through_skip(layer, gradient[:joined])
            if self.model.blocks[layer].parallel:
                through_attention = self._through_attention(
                    layer, gradient[:joined], batch.positions, spread
                )
                gradient[:joined] += through_mlp + through_attention
                spread = joined
                joined = self._join(gradient, batch, joined, batch.count_above(layer - 1))
            else:
                gradient[:joined] += through_mlp
                joined = self._join(gradient, batch, joined, batch.count_above(layer - 1))
                gradient[:joined] += self._through_attention(
                    layer, gradient[:joined], batch.positions, spread
                )
                spread = joined
        self.sources.score_tokens(gradient, scores)
        return scores.T

    def _join(self, gradient: Tensor, batch: _Batch, start: int, stop: int) -> int:
        rows = torch.arange(start, stop, device=gradient.device)
        gradient[rows, batch.positions[start:stop]] += batch.gradients[start:stop]
        return stop

    def _through_skip(self, layer: int, gradient: Tensor) -> Tensor | float:
        """What the transcoder's linear skip connection passes on; nothing where it has none."""
        W_skip = self.model.transcoders[layer].W_skip
        if W_skip is None:
            return 0.0
        stop = gradient.shape[1]
        if self.model.transcoders.write_point is WritePoint.MLP_OUTPUT:
            norm = self.model.blocks[layer].mlp_post_norm
            gradient = self.frozen.pull_back(norm, gradient, stop)
        positions = torch.arange(stop, device=gradient.device)
        return self._pull_back_read(layer, gradient @ W_skip, positions)

    def _through_attention(
        self,
        layer: int,
        gradient: Float[Tensor, "batch pos d_model"],
        positions: Int[Tensor, " all"],
        spread: int,
    ) -> Float[Tensor, "batch pos d_model"]:
        """Through W_O, the frozen pattern (query to key) and W_V, and the norms around them.

        Rows from ``spread`` on still stand at their target's position alone: for them W_O is
        applied there and nowhere else.
        """
        block, (n, stop, _) = self.model.blocks[layer], gradient.shape
        n_heads, d_head, d_model = block.W_O.shape
        n_kv, group = block.W_V.shape[0], n_heads // block.W_V.shape[0]
        W_O = block.W_O.reshape(n_heads * d_head, d_model).T
        pattern = self._patterns[layer][:, :, :stop]
        on_values = gradient.new_empty(n, stop, n_kv, d_head)
        # Query heads that share a value head add up before W_V, in both parts.
        if spread:
            on_heads = self.frozen.pull_back(block.attn_post_norm, gradient[:spread], stop) @ W_O
            on_heads = on_heads.view(spread, stop, n_heads, d_head).permute(2, 1, 0, 3)
            carried = pattern[:, :stop].transpose(1, 2) @ on_heads.reshape(n_heads, stop, -1)
            carried = carried.view(n_kv, group, stop, spread, d_head).sum(dim=1)
            on_values[:spread] = carried.permute(2, 1, 0, 3)
        if spread < n:
            own = positions[spread:n]
            start = gradient[torch.arange(spread, n, device=gradient.device), own]
            if block.attn_post_norm is not None:
                scale = self.frozen.scales[block.attn_post_norm.name][own]
                start = block.attn_post_norm.pull_back(start, scale)
            on_heads = (start @ W_O).view(-1, n_kv, group, d_head)
            weights = pattern[:, own].permute(1, 2, 0).reshape(-1, stop, n_kv, group)
            on_values[spread:] = (weights.transpose(1, 2) @ on_heads).transpose(1, 2)
        return on_values.flatten(2) @ self._values[layer]


class _Rows:
    """Rows of direct effects as they are computed, kept sparse."""

    def __init__(self) -> None:
        self._targets: list[IntArray] = []
        self._counts: list[IntArray] = []
        self._columns: list[IntArray] = []
        self._weights: list[FloatArray] = []

    def add(self, targets: IntArray, effects: Float[Tensor, "targets sources"]) -> None:
        present = effects != 0
        self._targets.append(targets)
        self._counts.append(present.sum(dim=1).cpu().numpy())
        self._columns.append(present.nonzero()[:, 1].cpu().numpy().astype(np.int32))
        self._weights.append(effects[present].float().cpu().numpy())

    def in_order(self, row_of: IntArray) -> tuple[IntArray, IntArray, FloatArray]:
        """``(counts, sources, weights)`` of all rows, as CSR rows of the graph.

        ``row_of`` renumbers targets and sources, -1 for sources that are dropped; it keeps their
        order, so that a row's entries stay sorted and only whole rows have to be moved.
        """
        targets = row_of[np.concatenate(self._targets)]
        starts = np.cumsum([0, *np.concatenate(self._counts)])
        sources = row_of[np.concatenate(self._columns)]
        kept = sources >= 0
        before = np.concatenate([[0], np.cumsum(kept)])
        first, counts = before[starts[:-1]], np.diff(before[starts])
        order = np.argsort(targets)
        ends = np.cumsum(counts[order])
        entries = np.arange(before[-1])
        entries += np.repeat(first[order] - ends + counts[order], counts[order])
        per_row = np.zeros(int(row_of.max()) + 1, np.int64)
        per_row[targets] = counts
        weights = np.concatenate(self._weights)
        return per_row, sources[kept][entries], weights[kept][entries]


def trace(
    model: Model,
    prompt: str | Sequence[int],
    targets: Sequence[str | int | Contrast] | None = None,
    max_logits: int = 10,
    logit_mass: float = 0.95,
    max_features: int | None = None,
    rank_every: int = 1024,
    batch_size: int = 256,
    progress: Progress | None = None,
) -> AttributionGraph:
    """The attribution graph of the model's next token after ``prompt``.

    ``targets`` are tokens (text or ids) or contrasts; None takes the fewest likeliest tokens whose
    probability reaches ``logit_mass``, at most ``max_logits``. At most ``max_features`` active
    features are expanded, those of most influence first, re-ranked every ``rank_every`` of them;
    ``batch_size`` changes nothing but speed. ``progress`` is called at every batch and may raise
    :class:`tracer.errors.Cancelled`.

    Raises the errors of :meth:`Model.encode` and :func:`tracer.targets.choose_targets`.
    """
    for name, value in (("rank_every", rank_every), ("batch_size", batch_size)):
        if value < 1:
            raise TracerError(f"{name} is {value}: it must be at least 1")
    if max_features is not None and max_features < 0:
        raise TracerError(f"max_features is {max_features}: give a number from 0, or None for all")
    token_ids = model.encode(prompt)
    frozen = frozen_pass(model, token_ids)
    chosen = choose_targets(model, frozen.logits, targets, max_logits, logit_mass)
    effects = DirectEffects(model, frozen)
    n_active = len(frozen.features)
    wanted = n_active if max_features is None else min(max_features, n_active)
    rows = _Rows()
    expanded = _expand(effects, chosen, wanted, rank_every, batch_size, rows, progress)
    return _package(
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
            "scan": model.transcoders.scan,
            "dtype": str(model.bridge.dtype).removeprefix("torch."),
            "max_logits": max_logits,
            "logit_mass": logit_mass,
            "max_features": max_features,
            "rank_every": rank_every,
        },
    )


def _expand(
    effects: DirectEffects,
    chosen: TargetDirections,
    wanted: int,
    rank_every: int,
    batch_size: int,
    rows: _Rows,
    progress: Progress | None,
) -> Int[Tensor, " wanted"]:
    """Compute the rows of the targets and of the ``wanted`` most influential features."""
    features = effects.frozen.features
    n_active, n_targets = len(features), len(chosen.targets)
    total, done = n_targets + wanted, 0

    def report(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total, "direct effects")

    report(0)
    ranking = _Ranking(n_active, wanted, chosen) if wanted < n_active else None
    for start in range(0, n_targets, batch_size):
        part = effects.on_logits(chosen.directions[start : start + batch_size])
        rows.add(np.arange(start, start + len(part)) + effects.sources.n_sources, part)
        if ranking is not None:
            ranking.add_targets(part)
        report(len(part))

    visited = torch.zeros(n_active, dtype=torch.bool, device=features.device)
    remaining = wanted
    while remaining:
        if ranking is None:
            pending = torch.arange(n_active, device=features.device)
        else:
            ranked = ranking.order()
            pending = ranked[~visited[ranked]][: min(rank_every, remaining)]
        for batch in _by_position(pending, features[pending, 1], batch_size):
            part = effects.on_features(batch)
            rows.add(batch.cpu().numpy(), part)
            if ranking is not None:
                ranking.add_features(batch, part)
            report(len(batch))
        visited[pending] = True
        remaining -= len(pending)
    return visited.nonzero()[:, 0]


def _by_position(
    rows: Int[Tensor, " rows"], positions: Int[Tensor, " rows"], batch_size: int
) -> list[Int[Tensor, " batch"]]:
    """Batches of at most ``batch_size`` whose targets stand close together.

    A walk carries all positions up to its last target's, so a batch ends where positions have
    grown by a tenth, unless it would be too small to keep the processor busy.
    """
    order = positions.argsort(stable=True)
    rows, sorted_positions = rows[order], positions[order].tolist()
    batches, start = [], 0
    for end in range(1, len(rows) + 1):
        size = end - start
        full = end == len(rows) or size == batch_size
        if not full and size >= _SMALLEST_BATCH:
            full = sorted_positions[end] + 1 > 1.1 * (sorted_positions[start] + 1)
        if full:
            batches.append(rows[start:end])
            start = end
    return batches


class _Ranking:
    """Influence of active features on the targets, from the rows known so far."""

    def __init__(self, n_active: int, wanted: int, chosen: TargetDirections) -> None:
        device, dtype = chosen.directions.device, torch.float32
        self._n_active = n_active
        self._start = torch.zeros(n_active, device=device, dtype=dtype)
        self._probabilities = [target.probability for target in chosen.targets]
        self._seen = 0
        self._owner = torch.empty(wanted, dtype=torch.long, device=device)
        self._shares = torch.empty(wanted, n_active, device=device, dtype=dtype)
        self._filled = 0

    def _normalized(self, effects: Tensor) -> Tensor:
        magnitude = effects.abs().float()
        magnitude /= magnitude.sum(dim=1, keepdim=True).clamp(min=RANKING_EPSILON)
        return magnitude[:, : self._n_active]

    def add_targets(self, effects: Float[Tensor, "targets sources"]) -> None:
        n = len(effects)
        weights = torch.tensor(self._probabilities[self._seen : self._seen + n])
        self._start += weights.to(self._start) @ self._normalized(effects)
        self._seen += n

    def add_features(self, rows: Tensor, effects: Float[Tensor, "targets sources"]) -> None:
        end = self._filled + len(rows)
        self._owner[self._filled : end] = rows
        self._shares[self._filled : end] = self._normalized(effects)
        self._filled = end

    def order(self) -> Int[Tensor, " active"]:
        """All active features, most influential first."""
        influence = self._start.clone()
        current = self._start
        owner, shares = self._owner[: self._filled], self._shares[: self._filled]
        while self._filled:
            current = current[owner] @ shares
            if not current.any():
                break
            influence += current
        return influence.argsort(descending=True, stable=True)


def _package(
    model: Model,
    prompt: str,
    frozen: FrozenPass,
    chosen: TargetDirections,
    expanded: Int[Tensor, " wanted"],
    rows: _Rows,
    provenance: dict[str, object],
) -> AttributionGraph:
    """Renumber the nodes that the graph keeps, and lay the rows out as CSR."""
    n_active = len(frozen.features)
    n_inner = model.n_layers * frozen.n_positions + frozen.n_positions
    n_nodes = len(expanded) + n_inner + len(chosen.targets)
    row_of = np.full(n_active + n_inner + len(chosen.targets), -1, np.int64)
    row_of[expanded.cpu().numpy()] = np.arange(len(expanded))
    row_of[n_active:] = np.arange(len(expanded), n_nodes)

    counts, sources, weights = rows.in_order(row_of)
    indptr = np.concatenate([[0], np.cumsum(counts)])
    token_ids = tuple(frozen.token_ids.tolist())
    return AttributionGraph(
        prompt=prompt,
        tokens=model.token_strings(token_ids),
        token_ids=token_ids,
        n_layers=model.n_layers,
        features=frozen.features[expanded].cpu().numpy().astype(np.int32).reshape(-1, 3),
        activations=frozen.activations[expanded].float().cpu().numpy(),
        targets=chosen.targets,
        indptr=indptr.astype(np.int64),
        sources=sources.astype(np.int32),
        weights=weights,
        next_tokens=next_tokens(model, frozen.logits),
        n_active_features=n_active,
        provenance=provenance,
    )
