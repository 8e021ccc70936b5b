"""Run a model with MLPs replaced by their transcoders or ablated."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tracer.model.bridge import Hook
from tracer.model.model import Model
from tracer.training.codes import SparseCode
from tracer.transcoders.lazy_rows import StoredRows
from tracer.transcoders.transcoder import Transcoder

_ENTRIES_AT_ONCE = 2**23
"""Activations computed at a time, which bounds the memory of a large dictionary."""

Hooks = list[tuple[str, Hook]]


def active_code(transcoder: Transcoder, inputs: Float[Tensor, "batch d_model"]) -> SparseCode:
    """Return a layer's active features on a batch, without a gradient, on the CPU."""
    at_once = max(1, _ENTRIES_AT_ONCE // transcoder.n_features)
    rows, features, values = [], [], []
    for start in range(0, len(inputs), at_once):
        activations = transcoder.activations(inputs[start : start + at_once])
        row, feature = activations.nonzero(as_tuple=True)
        rows.append(row.cpu() + start)
        features.append(feature.cpu())
        values.append(activations[row, feature].cpu())
    return SparseCode.of(
        torch.cat(rows), torch.cat(features), torch.cat(values), len(inputs), transcoder.n_features
    )


def written(transcoder: Transcoder, code: SparseCode) -> Float[Tensor, "outputs batch d_model"]:
    """Return the contribution of the active features to each layer they write to, float32, CPU."""
    if isinstance(transcoder.W_dec, StoredRows):
        used, place = code.pattern.features.unique(return_inverse=True)
        table = transcoder.decoder_vectors(used).float().cpu().flatten(1)
        n_rows = len(code.pattern.row_starts)
        code = SparseCode.of(code.pattern.rows, place, code.values, n_rows, max(len(used), 1))
        table = table if len(used) else torch.zeros(1, table.shape[1])
    else:
        table = transcoder.W_dec.float().cpu().flatten(1)
    decoded = code.decode(table)
    return decoded.view(len(decoded), len(transcoder.output_layers), -1).transpose(0, 1)


def replacement_hooks(model: Model, layers: Collection[int] | None = None) -> Hooks:
    """Return hooks that put the transcoders' reconstruction in place of MLP outputs.

    ``layers`` are the layers to replace, None for all. The reconstruction is computed from the
    layer's input in the same run. Before the model's first position, where there are no
    features, the MLPs stay as they are.
    """
    chosen = set(range(model.n_layers) if layers is None else layers)
    sums: dict[int, Tensor] = {}

    def read(layer: int) -> Hook:
        transcoder = model.transcoders[layer]

        def hook(value: Tensor, hook: Any) -> None:
            inputs = value.flatten(0, 1).float()
            if layer in chosen:
                own = (transcoder.skipped(inputs) + transcoder.b_dec).cpu()
                sums[layer] = sums.pop(layer, 0) + own
            parts = written(transcoder, active_code(transcoder, inputs))
            for target, part in zip(transcoder.output_layers, parts, strict=True):
                if target in chosen:
                    sums[target] = sums[target] + part if target in sums else part

        return hook

    def write(layer: int) -> Hook:
        def hook(value: Tensor, hook: Any) -> Tensor:
            replaced = sums.pop(layer).to(value.device, value.dtype).view_as(value)
            return _after_first(model, value, replaced)

        return hook

    needed = [
        layer
        for layer in range(model.n_layers)
        if chosen.intersection(model.transcoders[layer].output_layers)
    ]
    reads: Hooks = [(model.read_hook(layer), read(layer)) for layer in needed]
    return reads + [(model.write_hook(layer), write(layer)) for layer in sorted(chosen)]


def ablation_hooks(model: Model, layers: Collection[int] | None = None) -> Hooks:
    """Return hooks that set MLP outputs to zero, from the model's first position on."""

    def hook(value: Tensor, hook: Any) -> Tensor:
        return _after_first(model, value, torch.zeros_like(value))

    chosen = range(model.n_layers) if layers is None else sorted(layers)
    return [(model.write_hook(layer), hook) for layer in chosen]


def _after_first(model: Model, value: Tensor, replaced: Tensor) -> Tensor:
    first = model.first_position
    return torch.cat([value[:, :first], replaced[:, first:]], dim=1)
