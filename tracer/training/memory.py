"""How much memory training takes, and how large a shard of activations can be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch

from tracer.errors import MemoryLimitError
from tracer.files import format_bytes
from tracer.model.memory import USABLE, available_bytes
from tracer.model.model import Model
from tracer.training.recipe import Recipe

_FLOAT: Final = 4
_DEFAULT_BUFFER: Final = 2**29
"""Most bytes of activations unless a limit is given: enough to shuffle well."""
_LEAST_BATCHES: Final = 2
_COPIES: Final = 4
"""Copies of each parameter: itself, its gradient, and two moments of Adam."""
_LOGITS: Final = 6
"""Copies of a micro-batch's logits in memory at once while training end to end."""


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes that training takes on the model's device, without the model itself."""

    parameters: int
    """Parameters, gradients and optimizer."""
    step: int
    """A forward and backward pass of one batch."""
    buffer: int
    """Activations of one shard."""
    token: int
    """One token in the buffer."""
    finetune_tokens: int
    """Tokens per forward pass while training end to end."""

    @property
    def total(self) -> int:
        return self.parameters + self.step + self.buffer


def n_parameters(recipe: Recipe, n_layers: int, d_model: int) -> int:
    """Return how many numbers a set has.

    >>> n_parameters(Recipe(kind="per-layer", features=10), n_layers=2, d_model=4)
    188
    """
    pairs = n_layers * (n_layers + 1) // 2 if recipe.cross_layer else n_layers
    numbers = recipe.features * d_model * (n_layers + pairs)
    numbers += n_layers * (recipe.features + d_model)
    return numbers + (n_layers * d_model**2 if recipe.skip else 0)


def plan_memory(
    model: Model, recipe: Recipe, context: int, dtype: torch.dtype, limit: int | None = None
) -> TrainingMemory:
    """Divide the memory between what training must have and the buffer of activations.

    ``limit`` bounds the sum; None uses part of the free memory, with a buffer of at most 512 MiB.

    Raises :class:`MemoryLimitError`, with the numbers, if training does not fit.
    """
    free = available_bytes(model.device)
    room = int(free * USABLE) if limit is None else min(limit, free)
    n_layers, d_model = model.n_layers, model.bridge.d_model
    parameters = _COPIES * _FLOAT * n_parameters(recipe, n_layers, d_model)
    example = 2 * n_layers * d_model
    # Inputs, targets, outputs, errors and their gradients; one layer's pre-activations; what is
    # active, which is most at the beginning.
    active = int(recipe.l0_first * 40)
    dense = 0 if model.device.type == "cpu" else 4 * n_layers * recipe.features * _FLOAT
    step = recipe.batch_tokens * (4 * example * _FLOAT + 2 * recipe.features + active + dense)
    token = example * dtype.itemsize
    finetune_tokens = context
    if recipe.finetune_tokens:
        per_token = _LOGITS * model.vocab_size * _FLOAT + 40 * example * _FLOAT // 2
        spare = max(room - parameters - step, 0) // 3
        finetune_tokens = min(max(context, spare // per_token), recipe.batch_tokens)
        step += finetune_tokens * per_token
    least = (_LEAST_BATCHES * recipe.batch_tokens + context) * token
    most = room - parameters - step
    if most < least:
        raise MemoryLimitError(
            f"training {n_layers} layers of {recipe.features:,} features needs about "
            f"{format_bytes(parameters)} for parameters and optimizer, {format_bytes(step)} while "
            f"a batch passes and {format_bytes(least)} for activations, but {format_bytes(room)} "
            "can be used: lower features or batch_tokens, or use a larger machine"
        )
    buffer = most if limit is not None else min(most, max(_DEFAULT_BUFFER, least))
    return TrainingMemory(parameters, step, buffer // token * token, token, finetune_tokens)
