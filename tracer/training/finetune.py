"""The last phase of training: the model runs with every MLP replaced by its transcoder.

The loss is the divergence of the replaced model's next-token distribution from the model's own,
plus the reconstruction loss of the first phase on the model's own activations (end-to-end
finetuning after Karvonen 2025, all layers at once).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from tracer.model.bridge import Hook
from tracer.model.model import Model
from tracer.training.codes import Gate
from tracer.training.corpus_source import CorpusSource, Padded, by_length, padded
from tracer.training.dictionary import Dictionary
from tracer.training.trainer import Activity, StepReport, Trainer

_DIVERGENCE_WEIGHT: Final = 1.0


def replaced_logits(
    model: Model, dictionary: Dictionary, batch: Padded
) -> Float[Tensor, "windows pos vocab"]:
    """Return the logits with every MLP output replaced, with gradients to the dictionary.

    Before the model's first position, where there are no features, the MLPs are kept.
    """
    moments, gates = dictionary.moments, dictionary.gates()
    waiting: list[Tensor] = [torch.empty(0)] * dictionary.n_layers

    def read(layer: int, gate: Gate) -> Hook:
        def hook(value: Tensor, hook: Any) -> None:
            inputs = (value.flatten(0, 1) - moments.input_mean[layer]) / moments.input_scale[layer]
            code = dictionary.encode(layer, inputs, gate)
            own = dictionary.constant(layer, inputs)
            waiting[layer] = waiting[layer] + own if len(waiting[layer]) else own
            for step, written in enumerate(dictionary.written(layer, code)):
                place = layer + step
                waiting[place] = waiting[place] + written if len(waiting[place]) else written

        return hook

    def write(layer: int) -> Hook:
        def hook(value: Tensor, hook: Any) -> Tensor:
            predicted = waiting[layer] * moments.output_scale[layer] + moments.output_mean[layer]
            return torch.cat(
                [
                    value[:, : model.first_position],
                    predicted.view_as(value)[:, model.first_position :],
                ],
                dim=1,
            )

        return hook

    hooks = [(model.read_hook(layer), read(layer, gate)) for layer, gate in enumerate(gates)]
    hooks += [(model.write_hook(layer), write(layer)) for layer in range(dictionary.n_layers)]
    return model.bridge.run_with_gradients(batch.ids, hooks)


def divergence(
    own: Float[Tensor, "windows pos vocab"],
    replaced: Float[Tensor, "windows pos vocab"],
    batch: Padded,
) -> Tensor:
    """Return the KL divergence from the replaced model to the model itself, nats per token."""
    own, replaced = own[batch.carries].float(), replaced[batch.carries].float()
    return torch.nn.functional.kl_div(
        replaced.log_softmax(-1), own.log_softmax(-1), log_target=True, reduction="sum"
    ) / len(own)


def finetune(
    trainer: Trainer, source: CorpusSource, between: Callable[[StepReport], None], at_once: int
) -> None:
    """Run the rest of the second phase, calling ``between`` after each step.

    A step takes as many windows as hold ``recipe.batch_tokens`` on average. They run ``at_once``
    tokens at a time.
    """
    recipe = trainer.recipe
    per_step = max(1, round(recipe.batch_tokens / source.mean_tokens))
    first = source.bounds(trainer.shard)[1]
    while trainer.tokens < recipe.tokens:
        start = first + trainer.finetune_steps * per_step
        trainer.begin_finetune_step()
        report = _step(trainer, source, source.sequence(start, per_step), at_once)
        trainer.finetune_steps += 1
        between(report)


def _step(
    trainer: Trainer, source: CorpusSource, windows: NDArray[np.int64], at_once: int
) -> StepReport:
    model, dictionary = source.model, trainer.dictionary
    total = source.n_tokens(windows)
    activity: Activity | None = None
    unexplained = kl = 0.0
    for group in by_length(source.store, windows, at_once):
        batch = padded(source.store, group.tolist(), model.first_position, model.device)
        share = int(batch.carries.sum()) / total
        own, raw = source.run(batch)
        own_kl = divergence(own, replaced_logits(model, dictionary, batch), batch)
        loss, missed, codes = trainer.reconstruction_loss(dictionary.normalized(raw))
        (share * (_DIVERGENCE_WEIGHT * own_kl + loss)).backward()
        active = Activity.of(codes)
        activity = active if activity is None else activity + active
        unexplained += share * missed
        kl += share * float(own_kl.detach())
    assert activity is not None
    return trainer.apply(activity, total, trainer.recipe.l0, unexplained, kl)
