"""Resolve the targets of a graph (tokens, contrasts, directions, features) to gradients.

Numbers are fetched from the device all at once, because each transfer waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tracer.attribution.backward import FrozenBackward
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
    """For every target at the output, the vector whose dot product with ``ln_final`` it is."""
    features: Int[Tensor, "features 3"]
    """Layer, position, feature of the targets that are features; on the CPU."""

    def rows(self, backward: FrozenBackward, part: slice) -> Float[Tensor, "part sources"]:
        """Return the direct effects of every source on the targets of ``part``."""
        n_outputs, rows = len(self.directions), []
        if part.start < n_outputs:
            rows.append(backward.on_logits(self.directions[part]))
        if part.stop > n_outputs:
            inner = slice(max(0, part.start - n_outputs), part.stop - n_outputs)
            rows.append(backward.on_features(self.features[inner]))
        return torch.cat(rows)


def choose_targets(
    model: Model,
    frozen: FrozenPass,
    targets: Sequence[TargetChoice] | None = None,
    max_logits: int = 10,
    logit_mass: float = 0.95,
) -> ChosenTargets:
    """Return the given targets, or the fewest likeliest tokens that reach ``logit_mass`` together.

    A token's direction is its unembedding column minus the mean column (circuit-tracer 0.5,
    `attribution/targets.py`). A contrast's is the difference of two columns. Features come last,
    whatever the order in which they were given.

    Raises :class:`TargetError` for an empty list, an unknown token, a direction of another width, a
    feature that is not active, a weight that is not above 0, or limits out of range.

    >>> import tracer
    >>> from tracer.attribution.frozen import frozen_pass
    >>> model = tracer.load("atlas", device="cpu")
    >>> frozen = frozen_pass(model, model.encode("The capital of the state containing Dallas is"))
    >>> contrast = tracer.Contrast(" Austin", " Sacramento")
    >>> chosen = choose_targets(model, frozen, [" Austin", contrast])
    >>> [target.label for target in chosen.targets]
    [' Austin', ' Austin − Sacramento']
    >>> tuple(chosen.directions.shape) == (2, model.bridge.d_model)
    True
    """
    if targets is None:
        chosen: list[TargetChoice] = list(_likeliest(frozen.logits, max_logits, logit_mass))
    elif targets:
        chosen = list(targets)
    else:
        raise TargetError(
            "the list of targets is empty: give at least one, or None for the likeliest tokens"
        )
    outputs = [item for item in chosen if not isinstance(item, FeatureTarget)]
    features = [item for item in chosen if isinstance(item, FeatureTarget)]
    described, directions = _at_output(model, outputs, frozen.logits.softmax(-1))
    rows = _active_rows(model, frozen, features)
    for row, item in zip(rows.tolist(), features, strict=True):
        node = NodeId("feature", *row)
        token = model.token_string(frozen.token_ids[node.position])
        label = f"{node.feature} at {token.strip() or token!r}"
        described.append(Target(label, (), item.weight, node))
    for target in described:
        if not 0 < target.probability < float("inf"):
            raise TargetError(
                f"the target {target.label!r} has the weight {target.probability}: expected a "
                "number above 0"
            )
    return ChosenTargets(tuple(described), directions, rows)


def _at_output(
    model: Model, items: Sequence[str | int | Contrast | Direction], probabilities: Tensor
) -> tuple[list[Target], Float[Tensor, "outputs d_model"]]:
    """Describe the targets at the output, and return their directions."""
    tokens = [_token_ids(model, item) for item in items]
    ids = [token for some in tokens for token in some]
    columns = model.unembedding[:, ids].T.float()
    probability = dict(zip(ids, probabilities[ids].tolist(), strict=True))
    targets, directions, start = [], [], 0
    for item, own in zip(items, tokens, strict=True):
        if isinstance(item, Direction):
            targets.append(Target(item.label, (), item.weight))
            directions.append(_direction(model, item))
            continue
        names = [model.token_string(token) for token in own]
        targets.append(Target(" −".join(names), own, probability[own[0]]))
        subtracted = columns[start + 1] if len(own) == 2 else model.mean_unembedding
        directions.append(columns[start] - subtracted)
        start += len(own)
    none = torch.empty(0, model.bridge.d_model, device=model.device)
    return targets, torch.stack(directions) if directions else none


def _token_ids(model: Model, item: str | int | Contrast | Direction) -> tuple[int, ...]:
    if isinstance(item, Direction):
        return ()
    if isinstance(item, Contrast):
        return model.token_id(item.better), model.token_id(item.worse)
    return (model.token_id(item),)


def _direction(model: Model, item: Direction) -> Float[Tensor, " d_model"]:
    vector = torch.tensor(item.vector)
    if vector.shape != (model.bridge.d_model,) or not torch.isfinite(vector).all():
        raise TargetError(
            f"the direction {item.label!r} has {len(item.vector)} numbers: expected "
            f"{model.bridge.d_model} finite ones, the width of {model.source.name}"
        )
    return vector.to(model.device)


def _active_rows(
    model: Model, frozen: FrozenPass, items: Sequence[FeatureTarget]
) -> Int[Tensor, "features 3"]:
    """Return layer, position from the start, and feature of every item.

    Raises :class:`TargetError` if one is not active.
    """
    n_pos = frozen.n_positions
    if not items:
        return torch.empty(0, 3, dtype=torch.long)
    rows = torch.tensor(
        [(item.layer, item.position % n_pos, item.feature) for item in items], dtype=torch.long
    )
    active = {tuple(row) for row in _with_layers_of(frozen.host_features, rows).tolist()}
    for row, item in zip(rows.tolist(), items, strict=True):
        if tuple(row) not in active or not -n_pos <= item.position < n_pos:
            raise TargetError(
                f"feature {item.feature} of layer {item.layer} is not active at position "
                f"{item.position}, and only an active feature can be explained: "
                f"{model.source.name} has layers 0 to {model.n_layers - 1}, the prompt has "
                f"positions 0 to {n_pos - 1}"
            )
    return rows


def _with_layers_of(features: Tensor, rows: Tensor) -> Int[Tensor, "some 3"]:
    """Return the active features of the layers and positions that ``rows`` name."""
    same = torch.isin(features[:, 0], rows[:, 0]) & torch.isin(features[:, 1], rows[:, 1])
    return features[same]


def _likeliest(logits: Float[Tensor, " vocab"], max_logits: int, logit_mass: float) -> list[int]:
    if max_logits < 1 or not 0 < logit_mass <= 1:
        raise TargetError(
            f"max_logits is {max_logits} and logit_mass {logit_mass}: expected at least 1, and a "
            "share above 0 and up to 1"
        )
    top = logits.softmax(-1).topk(min(max_logits, len(logits)))
    needed = int(torch.searchsorted(top.values.cpu().cumsum(0), logit_mass)) + 1
    return top.indices[:needed].tolist()


def next_tokens(
    model: Model, logits: Float[Tensor, " vocab"], limit: int = NEXT_TOKENS_KEPT
) -> tuple[TokenProbability, ...]:
    """Return the ``limit`` likeliest next tokens, most likely first."""
    top = logits.softmax(-1).topk(min(limit, len(logits)))
    columns = top.indices.tolist(), top.values.tolist(), logits.gather(0, top.indices).tolist()
    return tuple(
        TokenProbability(model.token_string(token), token, probability, logit)
        for token, probability, logit in zip(*columns, strict=True)
    )
