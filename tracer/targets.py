"""What a graph explains: logit targets and the directions they inject after the final norm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tracer.errors import TargetError
from tracer.models import Model
from tracer.types import Contrast, Target, TokenProbability

NEXT_TOKENS_KEPT = 20
"""How many of the likeliest next tokens a result remembers."""


@dataclass(frozen=True)
class TargetDirections:
    """Targets and, per target, the direction whose dot product with ``ln_final`` they measure."""

    targets: tuple[Target, ...]
    directions: Float[Tensor, "targets d_model"]


def choose_targets(
    model: Model,
    logits: Float[Tensor, " vocab"],
    targets: Sequence[str | int | Contrast] | None = None,
    max_logits: int = 10,
    logit_mass: float = 0.95,
) -> TargetDirections:
    """The given targets, or the fewest likeliest tokens that reach ``logit_mass`` together.

    A token's direction is its unembedding column minus the mean column (circuit-tracer 0.5,
    `attribution/targets.py`); a contrast's is the difference of two columns.

    Raises :class:`TargetError` for an empty list, an unknown token, or limits that make no sense.
    """
    probabilities = logits.softmax(-1)
    if targets is None:
        chosen: list[str | int | Contrast] = list(_likeliest(probabilities, max_logits, logit_mass))
    elif targets:
        chosen = list(targets)
    else:
        raise TargetError(
            "the list of targets is empty: give at least one, or None for the likeliest"
        )
    described, directions = [], []
    for item in chosen:
        if isinstance(item, Contrast):
            better, worse = model.token_id(item.better), model.token_id(item.worse)
            label = f"{model.token_string(better)} −{model.token_string(worse)}"
            described.append(Target(label, (better, worse), float(probabilities[better])))
            directions.append(model.unembedding[:, better] - model.unembedding[:, worse])
        else:
            token = model.token_id(item)
            described.append(
                Target(model.token_string(token), (token,), float(probabilities[token]))
            )
            directions.append(model.unembedding[:, token] - model.mean_unembedding)
    return TargetDirections(tuple(described), torch.stack(directions))


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
