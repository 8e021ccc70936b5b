"""Two made-up books, and a build of the embedded model of English from them that takes seconds."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tracer.novels.books import OPENINGS
from tracer.novels.build import BuildConfig, IndexRecipe, SetRecipe
from tracer.novels.language_model import LanguageModelConfig

NOUNS = ("woman", "man", "house", "river", "lamp")
SMALL = BuildConfig(
    n_tokens=400,
    model=LanguageModelConfig(
        n_layers=2, d_model=32, d_mlp=64, n_heads=2, epochs=0.2, batch_size=4, micro_batch=4
    ),
    sets={
        "per-layer": SetRecipe("per-layer", features=48, l0=9, tokens=2000, batch_tokens=128),
        "cross-layer": SetRecipe("cross-layer", features=40, l0=9, tokens=2000, batch_tokens=128),
    },
    index=IndexRecipe(limit_tokens=2000),
)


def sentence(rng: random.Random) -> str:
    first, second = rng.sample(NOUNS, 2)
    pronoun = {"woman": "she", "man": "he"}.get(first, "it")
    return f"The {first} was very tired, and {pronoun} saw the {second}."


def save_books(path: Path) -> Path:
    """Write two books; the first begins with the famous first lines."""
    rng = random.Random(0)
    lines = []
    for number, (title, author) in enumerate((("Lamps", "A. Nobody"), ("Rivers", "B. Nobody"))):
        paragraphs = [" ".join(sentence(rng) for _ in range(2)) for _ in range(800)]
        text = "\n".join([*(OPENINGS if number == 0 else ()), *paragraphs])
        lines.append({"title": title, "author": author, "ebook": number + 1, "text": text})
    path.write_text("\n".join(map(json.dumps, lines)))
    return path
