"""Graphs in the form that circuit-tracer saves, with records of the same names."""

from __future__ import annotations

import io
import math
import random
import zipfile
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

N_LAYERS, N_POSITIONS, N_LOGITS = 2, 3, 2
ACTIVE = [(0, 1, 7), (0, 2, 3), (1, 1, 0), (1, 2, 9), (1, 2, 5)]
SELECTED = [3, 0, 2]  # unordered, and not all of them
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
    """Return random effects from lower layers on features and targets, in the file's order."""
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
    """Return what circuit-tracer 0.5.0 saves, with changes; None removes a key."""
    content = {
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
    return {key: value for key, value in content.items() if value is not None}


def saved(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def zipped(content: bytes, changed: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """Return the zip with other contents for the file names in ``changed``."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as old,
        zipfile.ZipFile(buffer, "w", method) as new,
    ):
        for name in old.namelist():
            new.writestr(name, changed.get(name.rpartition("/")[2], old.read(name)))
    return buffer.getvalue()


def _junk(draw: random.Random) -> Any:
    """Return a value that a key of the file may hold after an accident."""
    deep: list[Any] = []
    for _ in range(200):
        deep = [deep]
    return draw.choice(
        [
            *(0, -1, 3, True, 0.5, math.nan, math.inf, 2**31, 2**63, 10**30, 10**400),
            *("", "x", "\ud800", b"x", (), [], [1], [None], {}, {"n_layers": 2}, deep, ["\ud800"]),
            *(torch.tensor(v) for v in (0, 1.5, True, [], [1, 2], [0.5, math.nan], [[1, 2, 3]])),
            *(torch.zeros(n) for n in ((0, 3), (N, N), (2, 2, 2))),
            *(torch.zeros(3, dtype=t) for t in (torch.float16, torch.int8, torch.bool)),
            torch.full((N, N), math.nan),
            torch.ones(N, N),
            torch.tensor(1).expand(5, 3),
            UnifiedConfig(draw.choice([None, 0, -1, 2, 10**9, 0.5, "2", []])),
            [LogitTarget(" a", draw.choice([-1, 3, 2**40, None, "x"])), LogitTarget(" b", 4)],
            [LogitTarget(draw.choice(["\ud800", 3, None, ""]), 5), LogitTarget(" b", 4)],  # type: ignore[arg-type]
        ]
    )


def mutated(seed: int) -> bytes:
    """Return a file after one random accident: to what it holds, its pickle, or its bytes."""
    draw = random.Random(seed)
    content = saved(stored())
    kind = seed % 4
    if kind == 0:
        changed = bytearray(content)
        for _ in range(draw.choice([1, 1, 3, 20])):
            changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
        return bytes(changed[: draw.choice([len(changed)] * 3 + [draw.randrange(len(changed))])])
    if kind == 1:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            instructions = bytearray(archive.read(name))
        for _ in range(draw.choice([1, 1, 3])):
            instructions[draw.randrange(2, len(instructions))] = draw.randrange(256)
        return zipped(content, {"data.pkl": bytes(instructions)})
    intact = stored()
    return saved(intact | {draw.choice(sorted(intact)): _junk(draw)})
