"""The results of running scenarios: plain values on the host, no torch.

Probabilities and divergences are computed here, in float64 with NumPy: Apple GPUs have no float64,
and one distribution is too small to be worth a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from tracer.errors import InterventionError
from tracer.graph.nodes import FloatArray
from tracer.types import Intervention, NodeId, TokenProbability


class TokenChange(NamedTuple):
    """Probability of one next token before and after the edits."""

    token: str
    token_id: int
    before: float
    after: float


@dataclass(frozen=True)
class InterventionResult:
    """The model's predictions before (``baseline``) and after (``edited``) the interventions."""

    prompt: str
    token_ids: tuple[int, ...]
    interventions: tuple[Intervention, ...]
    baseline: tuple[TokenProbability, ...]
    edited: tuple[TokenProbability, ...]
    baseline_logits: FloatArray
    """``(vocab,)`` float32, at the last position."""
    edited_logits: FloatArray
    """``(vocab,)`` float32, at the last position."""
    kl: float
    """Kullback-Leibler divergence from baseline to edited next-token distribution, in nats."""
    activations: Mapping[NodeId, tuple[float, float]] = field(default_factory=dict)
    """Activation of every watched feature before and after."""
    baseline_continuation: str = ""
    edited_continuation: str = ""

    def compare(self, limit: int = 10) -> tuple[TokenChange, ...]:
        """Return the most likely tokens of both sides, by the larger of their probabilities."""
        before, after = probabilities(self.baseline_logits), probabilities(self.edited_logits)
        names = {entry.token_id: entry.token for entry in (*self.baseline, *self.edited)}
        changes = [
            TokenChange(token, token_id, float(before[token_id]), float(after[token_id]))
            for token_id, token in names.items()
        ]
        changes.sort(key=lambda change: -max(change.before, change.after))
        return tuple(changes[:limit])


@dataclass(frozen=True)
class Outcome:
    """The model's predictions in one scenario, or without any edits."""

    name: str
    next_tokens: tuple[TokenProbability, ...]
    logits: FloatArray
    """``(vocab,)`` float32, at the last position of the prompt."""
    kl: float = 0.0
    """Kullback-Leibler divergence from the baseline to this next-token distribution, in nats."""
    activations: Mapping[NodeId, float] = field(default_factory=dict)
    """Activation of every watched feature."""
    continuation: tuple[int, ...] = ()
    """Generated token ids."""
    continuation_tokens: tuple[str, ...] = ()
    """Generated tokens as text."""
    differs_at: int | None = None
    """Index of the first generated token that differs from the baseline's; None if none does."""

    def probability(self, token_id: int) -> float:
        """Return the probability of one next token."""
        return float(probabilities(self.logits)[token_id])


@dataclass(frozen=True)
class ScenarioRun:
    """The baseline and, in the order of the scenarios, each one's outcome or its own error."""

    prompt: str
    token_ids: tuple[int, ...]
    baseline: Outcome
    outcomes: tuple[Outcome | InterventionError, ...]
    logit_soft_cap: float | None = None
    """Soft cap of the model's final logits (Gemma 2); edges explain logits before the cap."""


def log_probabilities(logits: FloatArray) -> FloatArray:
    """Return the log-softmax of ``(vocab,)`` logits, float64.

    >>> log_probabilities(np.zeros(4, np.float32)).round(4).tolist()
    [-1.3863, -1.3863, -1.3863, -1.3863]
    """
    shifted = logits.astype(np.float64) - float(logits.max())
    result: FloatArray = shifted - np.log(np.exp(shifted).sum())
    return result


def probabilities(logits: FloatArray) -> FloatArray:
    """Return the softmax of ``(vocab,)`` logits, float64."""
    shares: FloatArray = np.exp(log_probabilities(logits))
    return shares


def kl_divergence(before: FloatArray, after: FloatArray) -> float:
    """Return the Kullback-Leibler divergence between two log-distributions, in nats.

    >>> fair, biased = np.log([0.5, 0.5]), np.log([0.75, 0.25])
    >>> round(kl_divergence(fair, biased), 4)  # 0.5 * log(4 / 3)
    0.1438
    """
    return max(0.0, float((np.exp(before) * (before - after)).sum()))
