"""Run many prompts through atlas at once, and read its features at chosen positions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tracer.atlas.prefixes import prompts_by_length
from tracer.model.model import Model


def batches(model: Model, prompts: Sequence[str]) -> Iterator[tuple[list[int], Tensor]]:
    """Yield numbers of prompts of one length, and their token ids ``(prompts, pos)``."""
    encoded = [model.encode(prompt) for prompt in prompts]
    for numbers in prompts_by_length(encoded):
        yield numbers, torch.tensor([encoded[i] for i in numbers], device=model.device)


@torch.no_grad()
def answers(
    model: Model, prompts: Sequence[str], hooks: Sequence[tuple[str, Any]] = ()
) -> list[int]:
    """Return the model's most likely next token after every prompt, as ids."""
    tokens = [0] * len(prompts)
    for numbers, ids in batches(model, prompts):
        predicted = model.bridge.run_batch(ids, hooks)[:, -1].argmax(-1).tolist()
        for number, token in zip(numbers, predicted, strict=True):
            tokens[number] = token
    return tokens


@torch.no_grad()
def activations(
    model: Model, prompts: Sequence[str], positions: Sequence[int]
) -> Float[Tensor, "prompts positions layers features"]:
    """Return the activation of every feature at ``positions``, counted from the prompt's end."""
    names = [model.read_hook(layer) for layer in range(model.n_layers)]
    n_features = model.transcoders[0].n_features
    result = torch.zeros(len(prompts), len(positions), model.n_layers, n_features)
    for numbers, ids in batches(model, prompts):
        _, inputs = model.bridge.capture_batch(ids, names)
        for layer, name in enumerate(names):
            read = inputs[name][:, list(positions)]
            active = model.transcoders[layer].activations(read.flatten(0, 1))
            result[numbers, :, layer] = active.view(len(numbers), len(positions), -1).cpu()
    return result
