"""The training loop and its state.

The trainer knows tensors and schedules, not files: :mod:`tracer.training.checkpoint` stores the
result of :meth:`Trainer.state`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from jaxtyping import Bool
from torch import Tensor

from tracer.training.codes import Code
from tracer.training.dictionary import Dictionary
from tracer.training.recipe import Recipe, top_k
from tracer.training.revival import auxiliary_loss
from tracer.training.source import ActivationSource, Batch

_WARM_STEPS: Final = 100
_FINETUNE_WARM_STEPS: Final = 20
_DECAY_FROM: Final = 0.5
"""Share of the first phase after which the learning rate falls."""
_LAST_RATE: Final = 0.02
_RATE_BEFORE_FINETUNE: Final = 0.1
_FINETUNE_RATE: Final = 0.5
"""Learning rates as shares of the recipe's: at the end of a training without a second phase, at the
end of the first phase otherwise, and at the start of the second."""
_STEERING: Final = 0.1
_FASTEST_STEERING: Final = 1.05
_THRESHOLD_ROWS: Final = 512
_DEAD_SHARE: Final = 0.03
_DEAD_STEPS: Final = 100
"""A feature counts as dead after it has not fired for this share of the training, or for this many
steps if that is longer."""


@dataclass(frozen=True)
class StepReport:
    """Measurements on the last batch."""

    loss: float
    """Unexplained share of the variance, averaged over layers."""
    l0: float
    """Active features per token, over all layers."""
    dead: int
    """Number of dead features."""
    divergence: float | None = None
    """KL divergence of the replaced model, in nats per token; only while training end to end."""

    def __str__(self) -> str:
        divergence = "" if self.divergence is None else f"KL {self.divergence:.3f}, "
        return f"{divergence}unexplained {self.loss:.4f}, L0 {self.l0:.1f}, {self.dead:,} dead"


@dataclass(frozen=True)
class Activity:
    """Which features were active in a step."""

    count: int
    """Activations, over all layers and tokens."""
    fired: Bool[Tensor, "layers features"]

    @classmethod
    def of(cls, codes: Sequence[Code]) -> Activity:
        return cls(
            sum(code.count() for code in codes), torch.stack([code.fired() for code in codes])
        )

    def __add__(self, other: Activity) -> Activity:
        return Activity(self.count + other.count, self.fired | other.fired)


class Trainer:
    """A dictionary in training: parameters, optimizer, threshold and position in the source."""

    def __init__(
        self,
        source: ActivationSource,
        recipe: Recipe,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.source, self.recipe = source, recipe
        self.dictionary = Dictionary(recipe, source.moments(), device, dtype)
        self.optimizer: Any = torch.optim.Adam(
            self.dictionary.parameters(), lr=recipe.rate, betas=(0.9, 0.99)
        )
        self.last_fired = torch.zeros(self.dictionary.b_enc.shape, dtype=torch.int64, device=device)
        """Tokens trained when each feature was last active."""
        self.tokens = self.steps = 0
        self.shard = self.batch = 0
        """Position in the first phase: the shard, and the number of its batches that are done."""
        self.finetune_steps = 0

    def reconstruct(self, between: Callable[[StepReport], None]) -> None:
        """Run the rest of the first phase, calling ``between`` after each step."""
        while self.tokens < self.recipe.reconstruction_tokens:
            for number, batch in enumerate(self.source.shard(self.shard)):
                if number < self.batch:
                    continue
                report = self.step(batch)
                self.batch += 1
                between(report)
                if self.tokens >= self.recipe.reconstruction_tokens:
                    return
            self.shard, self.batch = self.shard + 1, 0

    def step(self, raw: Batch) -> StepReport:
        """Train on one batch of the first phase."""
        recipe, dictionary = self.recipe, self.dictionary
        progress = self.tokens / recipe.reconstruction_tokens
        self._set_rate(self._rate_at(progress))
        batch = dictionary.normalized(raw)
        target = recipe.l0_at(progress)
        if not self.steps and recipe.activation == "jumprelu":
            dictionary.threshold = self._first_threshold(batch, target)
        dictionary.k = min(recipe.features, max(1, round(target / dictionary.n_layers)))
        loss, unexplained, codes = self.reconstruction_loss(batch)
        loss.backward()
        n_tokens = batch.inputs.shape[1]
        return self.apply(Activity.of(codes), n_tokens, target, unexplained)

    def reconstruction_loss(self, batch: Batch) -> tuple[Tensor, float, list[Code]]:
        """Return the loss on a normalised batch, the unexplained share, and the active features.

        The loss is the unexplained share of the variance, summed over layers, plus the auxiliary
        loss that revives dead features.
        """
        dictionary = self.dictionary
        codes = dictionary.encode_all(batch.inputs)
        outputs = dictionary.reconstruct(codes, batch.inputs)
        errors = [target - output for target, output in zip(batch.outputs, outputs, strict=True)]
        unexplained = torch.stack([error.pow(2).sum(-1).mean() for error in errors])
        loss = unexplained.sum() + auxiliary_loss(dictionary, batch.inputs, errors, self.dead())
        return loss, float(unexplained.detach().mean()), codes

    def apply(
        self,
        activity: Activity,
        n_tokens: int,
        target: float,
        unexplained: float,
        divergence: float | None = None,
    ) -> StepReport:
        """Take one optimizer step with the accumulated gradients, and steer the threshold towards
        ``target`` active features per token."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        self.tokens += n_tokens
        l0 = activity.count / n_tokens
        if self.recipe.activation == "jumprelu":
            ratio = (max(l0, 1e-3) / target) ** _STEERING
            self.dictionary.threshold *= min(max(ratio, 1 / _FASTEST_STEERING), _FASTEST_STEERING)
        self.last_fired[activity.fired] = self.tokens
        return StepReport(unexplained, l0, int(self.dead().sum()), divergence)

    def dead(self) -> Bool[Tensor, "layers features"]:
        """Return which features are dead."""
        recipe = self.recipe
        patience = max(_DEAD_SHARE * recipe.tokens, _DEAD_STEPS * recipe.batch_tokens)
        return self.last_fired < self.tokens - patience

    def _rate_at(self, progress: float) -> float:
        """Return the learning rate: warm-up, constant, then linear decay."""
        least = _RATE_BEFORE_FINETUNE if self.recipe.finetune_tokens else _LAST_RATE
        warm = (self.steps + 1) / _WARM_STEPS
        return self.recipe.rate * min(1.0, warm, least + (1 - progress) / (1 - _DECAY_FROM))

    def begin_finetune_step(self) -> None:
        """Set the learning rate and ``k`` for the next step of the second phase."""
        progress = (self.tokens - self.recipe.reconstruction_tokens) / self.recipe.finetune_tokens
        warm = (self.finetune_steps + 1) / _FINETUNE_WARM_STEPS
        self._set_rate(self.recipe.rate * _FINETUNE_RATE * min(1.0, warm, max(1 - progress, 0.0)))
        self.dictionary.k = top_k(self.recipe, self.dictionary.n_layers)

    def _set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    @torch.no_grad()
    def _first_threshold(self, batch: Batch, target: float) -> float:
        """Return the threshold with ``target`` active features per token in the first rows."""
        dictionary, rows = self.dictionary, batch.inputs[:, :_THRESHOLD_ROWS]
        strengths = torch.cat(
            [
                ((inputs @ encoder.T + bias) * lengths).flatten()
                for inputs, encoder, bias, lengths in zip(
                    rows,
                    dictionary.W_enc,
                    dictionary.b_enc,
                    dictionary.decoder_lengths(),
                    strict=True,
                )
            ]
        )
        n_active = min(round(target * rows.shape[1]), len(strengths) - 1)
        strongest = strengths.topk(n_active + 1).values
        return max(float(strongest[-1]), 1e-6)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the state to resume from: plain values, and tensors by name."""
        values = {
            "tokens": self.tokens,
            "steps": self.steps,
            "shard": self.shard,
            "batch": self.batch,
            "finetune_steps": self.finetune_steps,
            "threshold": self.dictionary.threshold,
            "k": self.dictionary.k,
        }
        tensors = {"last_fired": self.last_fired}
        for name, parameter in self.dictionary.named_parameters():
            tensors[f"parameter.{name}"] = parameter.detach()
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{key}.{name}"] = value
        return values, tensors

    @torch.no_grad()
    def restore(self, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Set the state that :meth:`state` returned.

        Raises ``KeyError`` or ``RuntimeError`` if a tensor is missing or has another shape.
        """
        self.tokens, self.steps = int(values["tokens"]), int(values["steps"])
        self.shard, self.batch = int(values["shard"]), int(values["batch"])
        self.finetune_steps = int(values["finetune_steps"])
        self.dictionary.threshold, self.dictionary.k = float(values["threshold"]), int(values["k"])
        self.last_fired.copy_(tensors["last_fired"])
        for name, parameter in self.dictionary.named_parameters():
            parameter.copy_(tensors[f"parameter.{name}"])
            stored = {
                key.split(".", 2)[1]: value
                for key, value in tensors.items()
                if key.startswith("optimizer.") and key.split(".", 2)[2] == name
            }
            if stored:
                self.optimizer.state[parameter] = {
                    key: value if key == "step" else value.to(parameter.device)
                    for key, value in stored.items()
                }


def fit(
    source: ActivationSource,
    recipe: Recipe,
    report: Callable[[str], None] = lambda line: None,
    report_every: int = 250,
) -> Dictionary:
    """Train a dictionary in memory, without checkpoints or end-to-end phase."""
    trainer = Trainer(source, recipe)

    def between(step: StepReport) -> None:
        if trainer.steps % report_every == 0:
            report(f"{trainer.tokens:,} of {recipe.tokens:,} tokens: {step}")

    trainer.reconstruct(between)
    trainer.dictionary.k = top_k(recipe, trainer.dictionary.n_layers)
    return trainer.dictionary
