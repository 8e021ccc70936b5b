"""What a trace will need, estimated before it is spent; refused, with the numbers, if too much.

Estimates count the large arrays and a margin for what passes by. They are upper bounds in the
benchmarks (`benchmarks/long_prompts.py`), not measurements.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch

from tracer.attribution.backward import FrozenBackward
from tracer.attribution.frozen import FrozenPass
from tracer.attribution.source_vectors import VALUES_AT_ONCE
from tracer.errors import MemoryLimitError
from tracer.files import format_bytes
from tracer.model.memory import USABLE, available_bytes
from tracer.model.model import Model

LONG_ROW_SHARE: Final = 0.999
"""Share of its absolute weight that a row keeps when rows are too many to be kept whole."""
WHOLE_ROWS: Final = 2**28
"""Entries (targets times sources) up to which rows are kept whole. The same on every machine, so
that a graph does not depend on where it was made."""

_ENTRY_BYTES: Final = 8  # int32 column, float32 weight
_FILL: Final = 0.5  # a target in the middle of the model, at the end of the prompt
_FLOAT: Final = 4
_EASY_BYTES: Final = 2**25
"""Arrays beyond this size are fetched from the operating system anew each time (glibc), page by
page; batches are kept below it as long as they hold a few targets."""
_FEW_TARGETS: Final = 48


@dataclass(frozen=True)
class MemoryPlan:
    """How a trace goes about its work so that it fits. All sizes in bytes."""

    rows: int
    sources: int
    per_target: int
    """For each target of a batch, while its gradient walks down."""
    batch_size: int
    keep_sources: bool
    row_share: float

    rows_limit: int
    """What the rows may take before the work is stopped: there is no knowing how sparse they are
    until they have been computed."""

    @property
    def total(self) -> int:
        return self.rows + self.sources + self.per_target * self.batch_size


def check_forward(model: Model, n_pos: int, limit: int | None) -> int:
    """Bytes that the forward pass will take, patterns kept included.

    Raises :class:`MemoryLimitError` when that is more than ``limit`` (None: than is free).
    """
    n_heads = model.blocks[0].W_O.shape[0]
    n_layers, d_model = model.n_layers, model.bridge.d_model
    patterns = n_layers * n_heads * n_pos**2
    attention = 4 * n_heads * n_pos**2  # scores, mask, softmax, pattern of one layer
    kept = (4 * n_layers + 2) * n_pos * d_model  # read, written, rebuilt, and their sum
    dictionary = 3 * n_pos * max(layer.n_features for layer in model.transcoders.layers)
    logits = 2 * n_pos * model.vocab_size
    needed = _FLOAT * (patterns + kept + max(attention, dictionary, logits))
    room = _room(model.device, limit)
    if needed > room:
        raise MemoryLimitError(
            f"the forward pass of {n_pos} tokens needs about {format_bytes(needed)}, "
            f"{format_bytes(room)} may be used: shorten the prompt, or raise the memory limit"
        )
    return needed


def plan_walks(
    effects: FrozenBackward, n_targets: int, wanted: int, batch_size: int, limit: int | None
) -> MemoryPlan:
    """Fit the rows of ``n_targets`` targets and ``wanted`` features into what is left.

    ``limit`` counts from before the forward pass. Raises :class:`MemoryLimitError`.
    """
    model, frozen, sources = effects.model, effects.frozen, effects.sources
    item = effects.dtype.itemsize
    possible = (n_targets + wanted) * sources.n_sources
    share = LONG_ROW_SHARE if possible > WHOLE_ROWS else 1.0
    rows = int(possible * _FILL) * _ENTRY_BYTES

    room = _room(model.device, None if limit is None else limit - _held(frozen))
    host = room if model.device.type == "cpu" else _room(torch.device("cpu"), limit)
    per_target = _per_target(model, frozen.n_positions, sources.n_sources, item)
    at_once = min(sources.n_values, VALUES_AT_ONCE) * 2 * item
    if rows > host:
        most = int(host * 0.5 / (sources.n_sources * _FILL * _ENTRY_BYTES))
        raise MemoryLimitError(
            f"the rows of {wanted:,} features over {sources.n_sources:,} sources need about "
            f"{format_bytes(rows)}, {format_bytes(host)} may be used: set max_features to "
            f"{max(most, 0):,} or less"
        )
    left = room - rows if model.device.type == "cpu" else room
    whole = sources.n_values * item
    keep = whole <= left / 3
    left -= whole if keep else at_once
    if left < per_target:
        raise MemoryLimitError(
            f"one target of {frozen.n_positions} tokens and {sources.n_sources:,} sources needs "
            f"about {format_bytes(per_target)}, {format_bytes(max(left, 0))} are left beside the "
            "rows: shorten the prompt, lower max_features, or raise the memory limit"
        )
    in_cache = max(
        _FEW_TARGETS, _EASY_BYTES // (frozen.n_positions * model.bridge.d_model * _FLOAT)
    )
    batch_size = min(batch_size, in_cache, int(left // per_target))
    spent = (whole if keep else at_once) + per_target * batch_size
    return MemoryPlan(
        rows=rows,
        sources=whole if keep else at_once,
        per_target=per_target,
        batch_size=batch_size,
        keep_sources=keep,
        row_share=share,
        rows_limit=host - spent if model.device.type == "cpu" else host,
    )


def _per_target(model: Model, n_pos: int, n_sources: int, item: int) -> int:
    n_heads, d_head, d_model = model.blocks[0].W_O.shape
    n_kv = model.blocks[0].W_V.shape[0]
    # The gradient, its part in use and what is added to it; heads twice, values three times.
    gradient = n_pos * (4 * d_model + 2 * n_heads * d_head + 3 * n_kv * d_head) * item
    slots = n_sources * item  # effects of one layer before they are added up, at most
    return gradient + n_sources * 2 * _FLOAT + slots


def _held(frozen: FrozenPass) -> int:
    kept = (*frozen.patterns, frozen.errors, frozen.features, frozen.activations)
    return sum(tensor.nbytes for tensor in kept)


def _room(device: torch.device, limit: int | None) -> int:
    free = available_bytes(device)
    return int(free * USABLE) if limit is None else min(limit, free)
