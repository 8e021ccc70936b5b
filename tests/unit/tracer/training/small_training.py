"""A text and the options of a training that takes a second."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

WORDS = 40
OPTIONS: dict[str, Any] = {
    "features": 48,
    "l0": 9.0,
    "tokens": 5000,
    "batch_tokens": 128,
    "context": 16,
    "rate": 5e-3,
    "validation": 0.1,
    "device": "cpu",
}
"""About 40 steps."""


def sentences(n: int = 400, seed: int = 3) -> list[str]:
    """Random walks over the vocabulary: what follows a word is one of three."""
    generator = random.Random(seed)
    texts = []
    for _ in range(n):
        word, words = generator.randrange(WORDS), []
        for _ in range(generator.randrange(3, 40)):
            words.append(f"w{word}")
            word = (3 * word + generator.choice((1, 5, 11))) % WORDS
        texts.append(" ".join(words))
    return texts


def weights(folder: Path) -> dict[str, bytes]:
    """The files of a set that have to be the same when it is trained again."""
    return {
        path.name: path.read_bytes()
        for path in sorted(folder.iterdir())
        if path.suffix in (".safetensors", ".yaml")
    }
