"""What a graph explains: tokens, contrasts, directions, features, and where each one starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tracer.attribution.frozen import FrozenPass
from tracer.errors import TargetError
from tracer.model.model import Model
from tracer.types import (
    Contrast,
    Direction,
    FeatureTarget,
    NodeId,
    Target,
    TargetChoice,
    TokenProbability,
)

NEXT_TOKENS_KEPT = 20
"""How many of the likeliest next tokens a result remembers."""


@dataclass(frozen=True)
class ChosenTargets:
    """Targets, and where their gradients start: those at the output first, then the features."""

    targets: tuple[Target, ...]
    directions: Float[Tensor, "outputs d_model"]
    """Per target at the output, what its dot product with ``ln_final`` measures."""
    features: Int[Tensor, "features 3"]
    """Layer, position, feature of the targets that are features."""


def choose_targets(
    model: Model,
    frozen: FrozenPass,
    targets: Sequence[TargetChoice] | None = None,
    max_logits: int = 10,
    logit_mass: float = 0.95,
) -> ChosenTargets:
    """The given targets, or the fewest likeliest tokens that reach ``logit_mass`` together.

    A token's direction is its unembedding column minus the mean column (circuit-tracer 0.5,
    `attribution/targets.py`); a contrast's is the difference of two columns. Features come last,
    whatever the order they were named in.

    Raises :class:`TargetError` for an empty list, an unknown token, a direction of another width, a
    feature that is not active, or limits that make no sense.
    """
    probabilities = frozen.logits.softmax(-1)
    if targets is None:
        chosen: list[TargetChoice] = list(_likeliest(probabilities, max_logits, logit_mass))
    elif targets:
        chosen = list(targets)
    else:
        raise TargetError(
            "the list of targets is empty: give at least one, or None for the likeliest"
        )
    at_output = [item for item in chosen if not isinstance(item, FeatureTarget)]
    described = [_at_output(model, item, probabilities) for item in at_output]
    rows = [_row(model, frozen, item) for item in chosen if isinstance(item, FeatureTarget)]
    weights = [item.weight for item in chosen if isinstance(item, FeatureTarget)]
    features = [
        _feature_target(model, frozen, row, weight)
        for row, weight in zip(rows, weights, strict=True)
    ]
    for target in (*(target for target, _ in described), *features):
        if not 0 < target.probability < float("inf"):
            raise TargetError(
                f"the target {target.label!r} has the weight {target.probability}: expected a "
                "number above 0"
            )
    directions = [direction for _, direction in described]
    d_model = model.bridge.d_model
    return ChosenTargets(
        targets=(*(target for target, _ in described), *features),
        directions=torch.stack(directions) if directions else torch.empty(0, d_model),
        features=torch.tensor(rows, device=model.device, dtype=torch.long).view(-1, 3),
    )


def _at_output(
    model: Model, item: str | int | Contrast | Direction, probabilities: Tensor
) -> tuple[Target, Float[Tensor, " d_model"]]:
    if isinstance(item, Direction):
        vector = torch.tensor(item.vector, device=model.device)
        if vector.shape != (model.bridge.d_model,) or not torch.isfinite(vector).all():
            raise TargetError(
                f"the direction {item.label!r} has {len(item.vector)} numbers: expected "
                f"{model.bridge.d_model} finite ones, the width of {model.source.name}"
            )
        return Target(item.label, (), item.weight), vector
    columns = model.unembedding
    if isinstance(item, Contrast):
        better, worse = model.token_id(item.better), model.token_id(item.worse)
        label = f"{model.token_string(better)} −{model.token_string(worse)}"
        target = Target(label, (better, worse), float(probabilities[better]))
        return target, columns[:, better].float() - columns[:, worse].float()
    token = model.token_id(item)
    target = Target(model.token_string(token), (token,), float(probabilities[token]))
    return target, columns[:, token].float() - model.mean_unembedding


def _row(model: Model, frozen: FrozenPass, item: FeatureTarget) -> tuple[int, int, int]:
    """Layer, position from the start, feature; raises where the feature is not active."""
    n_pos = frozen.n_positions
    position = item.position + n_pos if item.position < 0 else item.position
    row = (item.layer, position, item.feature)
    if not (frozen.features == frozen.features.new_tensor(row)).all(dim=1).any():
        raise TargetError(
            f"feature {item.feature} of layer {item.layer} is not active at position "
            f"{item.position}: only an active feature can be explained; {model.source.name} has "
            f"layers 0 to {model.n_layers - 1}, the prompt positions 0 to {n_pos - 1}"
        )
    return row


def _feature_target(
    model: Model, frozen: FrozenPass, row: tuple[int, int, int], weight: float
) -> Target:
    layer, position, index = row
    token = model.token_string(int(frozen.token_ids[position]))
    node = NodeId("feature", layer, position, index)
    return Target(f"{node.feature} at {token.strip() or token!r}", (), weight, node)


def _likeliest(
    probabilities: Float[Tensor, " vocab"], max_logits: int, logit_mass: float
) -> list[int]:
    if max_logits < 1 or not 0 < logit_mass <= 1:
        raise TargetError(
            f"max_logits is {max_logits} and logit_mass {logit_mass}: expected at least 1, and a "
            "share in (0, 1]"
        )
    top = probabilities.topk(min(max_logits, len(probabilities)))
    needed = int(torch.searchsorted(top.values.cumsum(0), logit_mass)) + 1
    return [int(token) for token in top.indices[:needed]]


def next_tokens(
    model: Model, logits: Float[Tensor, " vocab"], limit: int = NEXT_TOKENS_KEPT
) -> tuple[TokenProbability, ...]:
    """The likeliest next tokens, most likely first."""
    probabilities = logits.softmax(-1)
    top = probabilities.topk(min(limit, len(probabilities)))
    return tuple(
        TokenProbability(model.token_string(token), token, probability, float(logits[token]))
        for token, probability in zip(top.indices.tolist(), top.values.tolist(), strict=True)
    )
