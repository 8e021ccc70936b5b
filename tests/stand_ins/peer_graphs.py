"""Graphs as circuit-tracer saves them, with records of the same names as its own."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

N_LAYERS, N_POSITIONS, N_LOGITS = 2, 3, 2
ACTIVE = [(0, 1, 7), (0, 2, 3), (1, 1, 0), (1, 2, 9), (1, 2, 5)]
SELECTED = [3, 0, 2]  # in no order, and not all of them
N = len(SELECTED) + N_LAYERS * N_POSITIONS + N_POSITIONS + N_LOGITS


class LogitTarget(NamedTuple):
    token_str: str
    vocab_idx: int


@dataclass
class UnifiedConfig:
    n_layers: Any
    d_vocab: int = 50
    dtype: Any = torch.float32
    tokenizer_name: Any = None


@dataclass
class HookedTransformerConfig(UnifiedConfig):
    initializer_range: Any = None


PLACES = {
    LogitTarget: "circuit_tracer.attribution.targets",
    UnifiedConfig: "circuit_tracer.utils.tl_nnsight_mapping",
    HookedTransformerConfig: "transformer_lens.config.HookedTransformerConfig",
}


def matrix() -> torch.Tensor:
    """Random effects on features and targets from lower layers, in the order of the file."""
    generator = torch.Generator().manual_seed(3)
    dense = torch.zeros(N, N)
    features = [ACTIVE[i] for i in SELECTED]
    layers = [f[0] for f in features]
    layers += [layer for layer in range(N_LAYERS) for _ in range(N_POSITIONS)]
    layers += [-1] * N_POSITIONS + [N_LAYERS] * N_LOGITS
    for row in [*range(len(features)), *range(N - N_LOGITS, N)]:
        for source in range(N):
            if layers[source] < layers[row]:
                dense[row, source] = torch.randn((), generator=generator)
    return dense


def stored(**changes: Any) -> dict[str, Any]:
    """What circuit-tracer 0.5.0 puts into a file; None takes a key out."""
    whole = {
        "input_string": "<bos>big dog",
        "adjacency_matrix": matrix(),
        "cfg": UnifiedConfig(N_LAYERS),
        "active_features": torch.tensor(ACTIVE),
        "logit_targets": [LogitTarget(" bark", 11), LogitTarget(" run", 12)],
        "logit_probabilities": torch.tensor([0.7, 0.2]),
        "vocab_size": 50,
        "input_tokens": torch.tensor([2, 5, 6]),
        "selected_features": torch.tensor(SELECTED),
        "activation_values": torch.arange(1.0, 6.0),
        "scan": "gemma",
    } | changes
    return {key: value for key, value in whole.items() if value is not None}


def saved(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def zipped(content: bytes, changed: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """The same zip, with other contents where a name is in ``changed``."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as old,
        zipfile.ZipFile(buffer, "w", method) as new,
    ):
        for name in old.namelist():
            new.writestr(name, changed.get(name.rpartition("/")[2], old.read(name)))
    return buffer.getvalue()
