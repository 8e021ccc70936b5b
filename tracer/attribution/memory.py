"""Estimate the memory of a trace before it is spent; refuse a trace that does not fit.

Estimates count the large arrays and a margin for temporary ones. They are upper bounds in the
benchmarks (`benchmarks/long_prompts.py`), not measurements.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch

from tracer.attribution.backward import FrozenBackward
from tracer.attribution.edge_rows import BYTES_PER_ENTRY, ENTRIES_AT_ONCE
from tracer.attribution.frozen import FrozenPass
from tracer.attribution.source_vectors import VALUES_AT_ONCE
from tracer.errors import MemoryLimitError
from tracer.files import format_bytes
from tracer.model.block import Block
from tracer.model.memory import USABLE, available_bytes
from tracer.model.model import Model
from tracer.transcoders.lazy_rows import StoredRows
from tracer.transcoders.transcoder import DECODER_VALUES_AT_ONCE

LONG_ROW_SHARE: Final = 0.999
"""Share of its absolute weight that a row keeps if there are too many rows to keep them whole."""
WHOLE_ROWS: Final = 2**28
"""Entries (targets times sources) up to which rows are kept whole. The same on every machine, so
that a graph does not depend on where it was computed."""
SAMPLED_ROWS: Final = 16
"""Rows that are computed again to measure a rounding error."""

_ENTRY_BYTES: Final = 8  # int32 column, float32 weight
_FILL: Final = 0.5  # a target in the middle of the model, at the end of the prompt
_FLOAT: Final = 4
_CPU_BATCH: Final = 256
_ACCELERATOR_BATCH: Final = 1024
"""Most targets of a batch. A GPU has more units to keep busy, and memory is what limits it."""
_REUSED_BYTES: Final = 2**25
"""The C library fetches larger arrays from the operating system anew each time, page by page. On a
CPU batches are kept below this size as long as they hold a few targets."""
_FEW_TARGETS: Final = 48
_RANKING_SHARE: Final = 1 / 4


@dataclass(frozen=True)
class MemoryPlan:
    """How a trace proceeds so that it fits. All sizes in bytes."""

    rows: int
    sources: int
    per_target: int
    """For each target of a batch, while its gradient walks down."""
    sparse: int
    """While the rows of a batch are made sparse."""
    batch_size: int
    keep_sources: bool
    row_share: float

    rows_limit: int
    """Most bytes of rows before the trace is stopped. How sparse rows are is only known once they
    have been computed."""
    ranking_limit: int
    """Most bytes of row copies on an accelerator, to rank features there; 0 to rank on the CPU."""
    sample_size: int
    """How many rows of the float32 reference fit at a time; 0 if none does."""

    @property
    def total(self) -> int:
        return self.rows + self.sources + self.per_target * self.batch_size + self.sparse


def check_forward(model: Model, n_pos: int, limit: int | None) -> int:
    """Return the bytes that the forward pass takes, including what is frozen of it.

    What is copied for the walks directly afterwards counts, too.

    Raises :class:`MemoryLimitError` if that is more than ``limit`` (None: than is free).
    """
    needed = _forward_bytes(model, n_pos)
    room = _room(model.device, limit)
    if needed > room:
        raise MemoryLimitError(
            f"the forward pass of {n_pos} tokens needs about {format_bytes(needed)}, "
            f"but only {format_bytes(room)} can be used: shorten the prompt, or raise the "
            "memory limit"
        )
    return needed


def expected_bytes(
    model: Model, n_pos: int, n_active: int, max_features: int | None, limit: int | None = None
) -> tuple[int, int]:
    """Return the bytes that a trace of ``n_pos`` tokens is expected to take, and those it may use.

    Counts the forward pass and the rows of the features that are expanded, of ``n_active`` active
    ones. Batches fill what remains, so they do not count.
    """
    n_expanded = n_active if max_features is None else min(max_features, n_active)
    n_sources = n_active + (model.n_layers + 1) * n_pos
    rows = int(n_expanded * n_sources * _FILL) * _ENTRY_BYTES
    return _forward_bytes(model, n_pos) + rows, _room(model.device, limit)


def check_decoders(model: Model, frozen: FrozenPass, limit: int | None) -> None:
    """Check that the decoder vectors of active features can be read from their files.

    Decoders in memory are not copied. ``limit`` counts from before the forward pass.

    Raises :class:`MemoryLimitError` if the vectors need more than is left of it.
    """
    needed = 0
    for transcoder in model.transcoders.layers:
        if isinstance(transcoder.W_dec, StoredRows):
            own = frozen.host_features[:, 0] == transcoder.layer
            n_distinct = len(frozen.host_features[own, 2].unique())
            outputs, d_model = len(transcoder.output_layers), model.bridge.d_model
            needed += n_distinct * outputs * d_model * model.bridge.dtype.itemsize
    room = _room(model.device, None if limit is None else limit - frozen.n_bytes)
    if needed > room:
        raise MemoryLimitError(
            f"the decoder vectors of {len(frozen.features):,} active features need "
            f"{format_bytes(needed)}, but only {format_bytes(max(room, 0))} can be used: "
            "shorten the prompt, or raise the memory limit"
        )


def plan_walks(
    backward: FrozenBackward,
    n_targets: int,
    n_expanded: int,
    batch_size: int | None,
    limit: int | None,
) -> MemoryPlan:
    """Fit the rows of ``n_targets`` targets and ``n_expanded`` features into what remains.

    ``limit`` counts from before the forward pass. ``batch_size`` None takes what suits the device.

    Raises :class:`MemoryLimitError` if not even one target at a time fits.
    """
    model, frozen, sources = backward.model, backward.frozen, backward.sources
    on_cpu, item = model.device.type == "cpu", backward.dtype.itemsize
    possible = (n_targets + n_expanded) * sources.n_sources
    rows = int(possible * _FILL) * _ENTRY_BYTES
    present = frozen.n_bytes + backward.n_bytes
    room = _room(model.device, None if limit is None else limit - present)
    host = room if on_cpu else _room(torch.device("cpu"), limit)
    if rows > host:
        most = int(host * 0.5 / (sources.n_sources * _FILL * _ENTRY_BYTES))
        raise MemoryLimitError(
            f"the rows of {n_expanded:,} features over {sources.n_sources:,} sources need about "
            f"{format_bytes(rows)}, but only {format_bytes(max(host, 0))} can be used: "
            f"set max_features to {max(most, 0):,} or less"
        )
    ranked = n_expanded < len(frozen.features) and model.device.type == "cuda"
    ranking = rows if ranked and rows <= room * _RANKING_SHARE else 0
    room -= rows if on_cpu else ranking

    per_target = _per_target(model, frozen.n_positions, sources.n_sources, item)
    at_once = 2 * min(sources.n_values, VALUES_AT_ONCE)
    keep = sources.n_values * item <= room / 3
    laid_out = sources.n_values * item if keep else at_once * item
    left = room - laid_out
    fitting = _fitting_batch(left, per_target, sources.n_sources)
    if not fitting:
        needed = per_target + _sparse_bytes(sources.n_sources)
        raise MemoryLimitError(
            f"one target of {frozen.n_positions} tokens and {sources.n_sources:,} sources needs "
            f"about {format_bytes(needed)}, but only {format_bytes(max(left, 0))} remain after "
            "the rows: shorten the prompt, lower max_features, or raise the memory limit"
        )
    most_targets = _CPU_BATCH if on_cpu else _ACCELERATOR_BATCH
    batch_size = min(batch_size or most_targets, fitting)
    if on_cpu:
        reused = _REUSED_BYTES // (frozen.n_positions * model.bridge.d_model * _FLOAT)
        batch_size = min(batch_size, max(_FEW_TARGETS, reused))
    sparse = _sparse_bytes(batch_size * sources.n_sources)
    walk = per_target * batch_size + sparse
    per_sample = per_target + per_target * _FLOAT // item
    sample = room - at_once * (item + _FLOAT) - _reference_bytes(model, frozen.n_positions)
    return MemoryPlan(
        rows=rows,
        sources=laid_out,
        per_target=per_target,
        sparse=sparse,
        batch_size=batch_size,
        keep_sources=keep,
        row_share=LONG_ROW_SHARE if possible > WHOLE_ROWS else 1.0,
        rows_limit=host - laid_out - walk if on_cpu else host,
        ranking_limit=ranking,
        sample_size=max(0, min(SAMPLED_ROWS, sample // per_sample)),
    )


def _forward_bytes(model: Model, n_pos: int) -> int:
    n_heads = model.blocks[0].W_O.shape[0]
    n_layers, d_model = model.n_layers, model.bridge.d_model
    patterns = n_layers * n_heads * n_pos**2
    attention = 4 * n_heads * n_pos**2  # scores, mask, softmax, pattern of one layer
    kept = (4 * n_layers + 2) * n_pos * d_model  # read, written, rebuilt, and their sum
    layers = model.transcoders.layers
    dictionary = max(3 * n_pos * t.n_features + t.encoder_block * d_model for t in layers)
    outputs = max(t.n_features * len(t.output_layers) for t in layers) * n_pos * d_model
    written = 3 * min(outputs, DECODER_VALUES_AT_ONCE)
    unembedding = 4 * model.vocab_size  # of the last position
    if model.bridge.dtype != torch.float32 and model.bridge.forward_dtype == torch.float32:
        unembedding += model.vocab_size * d_model  # upcast while it runs
    passing = _FLOAT * max(attention, dictionary, written, unembedding)
    return _FLOAT * (patterns + kept) + max(passing, _copied_for_walks(model, n_pos))


def _per_target(model: Model, n_pos: int, n_sources: int, item: int) -> int:
    n_heads, d_head, d_model = model.blocks[0].W_O.shape
    n_kv = model.blocks[0].W_V.shape[0]
    # The gradient, its part in use and what is added to it; heads twice, values three times.
    gradient = n_pos * (4 * d_model + 2 * n_heads * d_head + 3 * n_kv * d_head) * item
    # At most all sources write to one layer: padded, chosen, and converted if need be.
    slots = n_sources * (2 * item + (_FLOAT if item != _FLOAT else 0))
    return gradient + n_sources * 2 * _FLOAT + slots


def _sparse_bytes(entries: int) -> int:
    return min(entries, ENTRIES_AT_ONCE) * BYTES_PER_ENTRY


def _fitting_batch(left: int, per_target: int, n_sources: int) -> int:
    """Return how many targets fit into ``left`` bytes, with the memory of making rows sparse."""
    batch = max(0, left) // (per_target + n_sources * BYTES_PER_ENTRY)
    if batch * n_sources <= ENTRIES_AT_ONCE:
        return batch
    return max(ENTRIES_AT_ONCE // n_sources, (left - _sparse_bytes(ENTRIES_AT_ONCE)) // per_target)


def _copied_for_walks(model: Model, n_pos: int) -> int:
    """Estimate what :class:`FrozenBackward` copies of weights and patterns; an upper bound."""
    item = model.bridge.dtype.itemsize
    values = sum(_folded_values(block) for block in model.blocks)
    values += sum(t.W_skip.numel() for t in model.transcoders.layers if t.W_skip is not None)
    if item != _FLOAT:
        values += sum(block.W_O.shape[0] * n_pos**2 for block in model.blocks)
    return values * item


def _folded_values(block: Block) -> int:
    """Numbers of W_V and W_O that have to be copied because a norm is folded into them."""
    values = block.W_V.numel() if block.attn_norm is not None else 0
    return values + (block.W_O.numel() if block.attn_post_norm is not None else 0)


def _reference_bytes(model: Model, n_pos: int) -> int:
    """Estimate what the float32 reference takes, without the vectors and rows of its sample."""
    block, d_model = model.blocks[0], model.bridge.d_model
    errors = (model.n_layers + 1) * n_pos * d_model
    skips = sum(t.W_skip.numel() for t in model.transcoders.layers if t.W_skip is not None)
    weights = 3 * (block.W_V.numel() + block.W_O.numel())  # of one layer: upcast, scaled, folded
    needed = _FLOAT * (errors + skips + weights)
    if not model.forward_is_exact:
        needed += _forward_bytes(model, n_pos)
    return needed


def _room(device: torch.device, limit: int | None) -> int:
    free = available_bytes(device)
    return int(free * USABLE) if limit is None else min(limit, free)
