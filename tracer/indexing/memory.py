"""Estimate the memory that building an index takes before it starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tracer.errors import MemoryLimitError
from tracer.files import format_bytes
from tracer.indexing.logit_effects import BYTES_AT_ONCE, N_SHOWN
from tracer.indexing.statistics import (
    N_BINS,
    N_SAMPLED,
    N_SAMPLED_WINDOWS,
    N_STRONGEST,
    window_width,
)
from tracer.model.memory import USABLE, available_bytes
from tracer.model.model import Model

N_PREFIXES: Final = 2**22
"""Prefixes that are remembered, so that a repeated one counts once."""
_MARGIN: Final = 1.25
_FLOAT: Final = 4


@dataclass(frozen=True)
class IndexMemory:
    """Bytes that a build takes on the model's device, in addition to the model."""

    kept: int
    """Statistics of all features."""
    passing: int
    """Temporary tensors of one batch, at most."""

    @property
    def total(self) -> int:
        return self.kept + self.passing


def index_memory(
    model: Model, context: int = 128, batch_tokens: int = 2048, n_tags: int = 0
) -> IndexMemory:
    """Return what building an index of the model's transcoder set takes.

    >>> import tracer
    >>> model = tracer.load("atlas", device="cpu")
    >>> untagged, tagged = index_memory(model), index_memory(model, n_tags=10)
    >>> untagged.kept < tagged.kept, untagged.total == untagged.kept + untagged.passing
    (True, True)
    """
    width = window_width(min(context, model.bridge.n_context))
    strongest = N_STRONGEST * (12 + _FLOAT * width) + 4
    sample = N_SAMPLED * 8 + N_SAMPLED_WINDOWS * _FLOAT * width + 8
    counts = 32 + 4 * (N_BINS + 1) + N_SHOWN * (4 + 4 + 4 + 16)
    layers = model.transcoders.layers
    kept = sum(layer.n_features for layer in layers) * (strongest + sample + counts + 12 * n_tags)
    largest = max(layer.n_features for layer in layers)
    d_model, item = model.transcoders.d_model, model.bridge.dtype.itemsize
    inputs = model.n_layers * batch_tokens * d_model * item
    logits = 3 * batch_tokens * model.vocab_size * max(item, _FLOAT)
    dictionary = batch_tokens * largest * (6 if n_tags else 4) * _FLOAT
    dictionary += largest * d_model * (item + _FLOAT)  # an encoder read from disk, or in float32
    effects = model.vocab_size * d_model * _FLOAT + 3 * BYTES_AT_ONCE
    kept += 3 * 8 * model.vocab_size  # how often each token occurs and is predicted
    passing = max(effects, inputs + max(logits, dictionary)) + 40 * N_PREFIXES
    return IndexMemory(kept=kept, passing=int(passing * _MARGIN))


def check_memory(needed: IndexMemory, model: Model, limit: int | None) -> None:
    """Raise :class:`MemoryLimitError` if that is more than ``limit`` (None: than is free)."""
    free = available_bytes(model.device)
    room = int(free * USABLE) if limit is None else min(limit, free)
    if needed.total > room:
        raise MemoryLimitError(
            f"an index of {sum(x.n_features for x in model.transcoders.layers):,} features needs "
            f"about {format_bytes(needed.kept)} for its statistics and "
            f"{format_bytes(needed.passing)} for each batch, but only {format_bytes(room)} may "
            "be used: lower batch_tokens or context, or use a larger machine"
        )
