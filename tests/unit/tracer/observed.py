"""A small corpus, and what its feature index must contain, computed the slow and simple way."""

from __future__ import annotations

import gzip
import json
import random
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tracer.model.bridge import Norm
from tracer.model.model import Model
from tracer.transcoders.config import WritePoint

CONTEXT = 16
BOS = 1


def documents(n: int = 140, words: int = 20, longest: int = 30, seed: int = 3) -> list[str]:
    """Return random texts: some share a beginning, some are repeated, some exceed a window."""
    generator = random.Random(seed)
    texts: list[str] = []
    for _ in range(n):
        start = texts[-1].split()[:2] if texts and generator.random() < 0.3 else []
        rest = [f"w{generator.randrange(words)}" for _ in range(generator.randrange(1, longest))]
        texts.append(" ".join([*start, *rest]))
    return [*texts, texts[0], texts[1]]


def save_text(path: Path, texts: list[str]) -> Path:
    path.write_text("\n\n".join(texts) + "\n", encoding="utf-8")
    return path


def read_index(folder: Path) -> list[list[dict[str, Any]]]:
    """Return the records by layer and feature, read without any code of the library."""
    with gzip.open(folder / "index.json.gz", "rt") as file:
        layers = json.load(file)
    records_by_layer = []
    for layer in layers:
        data, records = (folder / layer["filename"]).read_bytes(), []
        for start, stop in zip(layer["offsets"][:-1], layer["offsets"][1:], strict=True):
            (length,) = struct.unpack_from("<I", data, start)
            assert start + 4 + length == stop
            records.append(json.loads(zlib.decompress(data[start + 4 : stop])))
        records_by_layer.append(records)
    return records_by_layer


def file_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@dataclass
class Firing:
    """One feature over the corpus: an entry for each distinct prefix it fires on."""

    values: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    shown: list[tuple[tuple[int, ...], list[float], int]] = field(default_factory=list)
    """The window's tokens, the activations on them, and the position."""
    predicted: list[int] = field(default_factory=list)
    """The most likely next token."""
    windows: list[int] = field(default_factory=list)
    """The number of the window, of those with a new prefix."""
    least: float = 0.0

    def greedy(self, count: int = 12) -> list[int]:
        """Return the strongest, at most three of one token; then the strongest others."""
        order = sorted(range(len(self.values)), key=lambda i: (-self.values[i], i))
        first: list[int] = []
        for place in order:
            if sum(self.tokens[i] == self.tokens[place] for i in first) < 3:
                first.append(place)
        first = first[:count]
        return [*first, *[i for i in order if i not in first]][:count]


def observe(model: Model, texts: list[str]) -> tuple[list[list[Firing]], int]:
    """Run one window at a time; return what each feature fires on, and the number of prefixes."""
    seen: set[tuple[int, ...]] = set()
    firings = [[Firing() for _ in range(layer.n_features)] for layer in model.transcoders.layers]
    names = [model.read_hook(layer) for layer in range(model.n_layers)]
    for number, (ids, new) in enumerate(new_windows(model, texts)):
        seen |= {ids[: p + 1] for p in new}
        logits, inputs = model.bridge.capture(torch.tensor(ids), names)
        predicted = logits.argmax(-1).tolist()
        for layer, name in enumerate(names):
            active = model.transcoders[layer].activations(inputs[name])
            active[0] = 0
            for feature, column in enumerate(active.T.tolist()):
                firing = firings[layer][feature]
                firing.least = min(firing.least, *column)
                for position in new:
                    if column[position] > 0:
                        firing.values.append(column[position])
                        firing.tokens.append(ids[position])
                        firing.shown.append((ids, column, position))
                        firing.predicted.append(predicted[position])
                        firing.windows.append(number)
    return firings, len(seen)


def new_windows(model: Model, texts: list[str]) -> list[tuple[tuple[int, ...], list[int]]]:
    """Return the windows with a new prefix: their token ids, and the positions where one ends."""
    seen: set[tuple[int, ...]] = set()
    windows = []
    for text in texts:
        own = model.bridge.tokenizer(text, add_special_tokens=False)["input_ids"]
        for start in range(0, len(own), CONTEXT - 1):
            ids = (BOS, *own[start : start + CONTEXT - 1])
            new = [p for p in range(1, len(ids)) if ids[: p + 1] not in seen]
            seen |= {ids[: p + 1] for p in new}
            if new:
                windows.append((ids, new))
    return windows


def logit_effects(model: Model, layer: int) -> np.ndarray:
    """Return ``(features, vocab)`` effects of features on the logits, relative to the mean.

    Norms on the way act with their gains and centring, at scale 1.
    """

    def normed(norm: Norm, vectors: Tensor) -> Tensor:
        centred = vectors - vectors.mean(-1, keepdim=True) if norm.centred else vectors
        return centred * norm.gain

    transcoder = model.transcoders[layer]
    written = torch.zeros(transcoder.n_features, model.transcoders.d_model)
    for step, output in enumerate(transcoder.output_layers):
        vectors, norm = transcoder.decoder()[:, step], model.blocks[output].mlp_post_norm
        if norm is not None and model.transcoders.write_point is not WritePoint.RESIDUAL_UPDATE:
            vectors = normed(norm, vectors)
        written += vectors
    logits = normed(model.final_norm, written) @ model.unembedding
    return (logits - logits.mean(1, keepdim=True)).numpy()
