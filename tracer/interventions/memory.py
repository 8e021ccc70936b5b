"""Estimate the memory of a run of scenarios before it starts, and choose the batch size to fit.

Estimates count the large tensors, with a margin. They are upper bounds, not measurements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch

from tracer.errors import MemoryLimitError
from tracer.files import format_bytes
from tracer.interventions.edit_rows import EditedRow
from tracer.interventions.feature_rows import GATHERED_BYTES
from tracer.model.memory import USABLE, available_bytes
from tracer.model.model import Model

_FLOAT: Final = 4
_MLP: Final = 56
"""Numbers per token inside an MLP, in units of ``d_model``: eight tensors of four (GPT-2), four of
six (Gemma 3), four experts of thirteen (gpt-oss)."""
_GATHERED: Final = 4
"""Tensors of :data:`GATHERED_BYTES` at a time: inputs, encoder vectors, products, written."""


@dataclass(frozen=True)
class RunPlan:
    """How many scenarios to run at a time, and the bytes that takes. The model is not counted."""

    kept: int
    """Values of the unedited run, vectors of the edited features, and results."""
    passing: int
    """Temporary tensors that do not depend on the batch size."""
    per_row: int
    """For each scenario of a batch."""
    batch_size: int

    @property
    def total(self) -> int:
        return self.kept + self.passing + self.per_row * self.batch_size


def plan_run(
    model: Model,
    rows: Sequence[EditedRow],
    n_pos: int,
    generate: int,
    watch_all: bool,
    batch_size: int,
    limit: int | None,
) -> RunPlan:
    """Plan a run of ``rows`` on ``n_pos`` tokens, in batches of at most ``batch_size``.

    Raises :class:`MemoryLimitError` when not even one scenario fits into ``limit`` bytes (None:
    into the memory that is free).
    """
    kept = _captured(model, rows, n_pos) + _edited_vectors(model, rows)
    if model.device.type != "cuda":  # results share the memory of the model
        kept += (len(rows) + 1) * model.vocab_size * _FLOAT
    passing = _gathered(model, rows) + _upcast(model) + (_watched(model, n_pos) if watch_all else 0)
    per_row = _per_row(model, n_pos, generate)
    free = available_bytes(model.device)
    room = int(free * USABLE) if limit is None else min(limit, free)
    fit = (room - kept - passing) // per_row
    if fit < 1:
        raise MemoryLimitError(
            f"one scenario of {n_pos} tokens needs about {format_bytes(per_row)}, in addition to "
            f"{format_bytes(kept + passing)} for the unedited run and the edited features, but "
            f"only {format_bytes(room)} may be used: shorten the prompt, generate fewer tokens, "
            "or raise the memory limit"
        )
    return RunPlan(kept, passing, per_row, max(1, min(batch_size, len(rows), fit)))


def _captured(model: Model, rows: Sequence[EditedRow], n_pos: int) -> int:
    """Return the bytes of the values of :func:`edit_hooks.names_to_capture`."""
    layers, d_model = range(model.n_layers), model.bridge.d_model
    n_heads = model.blocks[0].W_O.shape[0]
    edited = frozenset[int]().union(*(row.layers for row in rows))
    constrained = frozenset[int]().union(*(row.constrained for row in rows))
    captured = (len(edited | constrained) + len(constrained)) * n_pos * d_model
    if any(row.freezes_patterns for row in rows):
        captured += len(layers) * n_heads * n_pos**2
    if any(row.freezes_norms(layers) for row in rows):
        captured += (4 + 2 * n_heads) * len(layers) * n_pos
    return captured * _FLOAT


def _edited_vectors(model: Model, rows: Sequence[EditedRow]) -> int:
    """Return the bytes of the encoder and decoder vectors of all edited features."""
    features = {(layer, feature) for row in rows for layer, _, feature in row.at_prompt}
    features |= {key for row in rows for key in row.persistent_edits}
    outputs = [len(transcoder.output_layers) for transcoder in model.transcoders.layers]
    vectors = sum(1 + outputs[layer] for layer, _ in features)
    return vectors * model.bridge.d_model * _FLOAT


def _gathered(model: Model, rows: Sequence[EditedRow]) -> int:
    """Return the bytes of one vector for each edit computed at a time, and of the edits' indices.

    TopK looks at all activations of a layer, so its vectors are as wide as the dictionary.
    """
    n_edits = sum(len(row.at_prompt) for row in rows)
    widest = max(
        layer.n_features if layer.k is not None else model.bridge.d_model
        for layer in model.transcoders.layers
    )
    at_once = min(n_edits * widest * _FLOAT, max(GATHERED_BYTES, widest * _FLOAT))
    return _GATHERED * at_once + 64 * n_edits


def _upcast(model: Model) -> int:
    """Return the bytes of the weights that are in float32 while they are used."""
    if model.bridge.dtype == torch.float32:
        return 0
    embedding = model.vocab_size * model.bridge.d_model * _FLOAT
    return max(embedding, 2 * model.bridge.weight_bytes // model.n_layers)


def _watched(model: Model, n_pos: int) -> int:
    """Return the bytes of all activations of one layer in one row, and of its encoder."""
    largest = max(layer.n_features for layer in model.transcoders.layers)
    return (3 * n_pos + model.bridge.d_model) * largest * _FLOAT


def _per_row(model: Model, n_pos: int, generate: int) -> int:
    n_heads, d_head, d_model = model.blocks[0].W_O.shape
    n_kv = model.blocks[0].W_V.shape[0]
    stream = 12 * n_pos * d_model  # residual stream, norms, MLP output, edits
    mlp = _MLP * n_pos * d_model
    heads = 6 * n_pos * n_heads * d_head  # queries, keys, values, repeated, rotated, output
    attention = heads + 7 * n_heads * n_pos**2  # scores, caps, mask, softmax, pattern, copies
    logits = 4 * model.vocab_size
    cache = 0
    if generate:
        cache = 2 * (model.n_layers + 1) * n_kv * d_head * (n_pos + generate)
        logits += 4 * model.vocab_size
    return _FLOAT * (stream + max(mlp, attention) + cache + logits)
