"""Cut books into training windows that begin where a prompt begins: at the start of a sentence."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from tracer.graph.nodes import IntArray

_SENTENCE: Final = re.compile(r"(?:(?<=[.!?])|(?<=[.!?]['\"]))\s+(?=['\"]?[A-Z])|\n")
_FIRST_WORD: Final = re.compile(r"[^\W\d_]+|\d+|[^\w\s]+|\S")
_LONGEST_OVERLAP: Final = 60
"""Tokens that two neighbouring windows may share so that the second begins a sentence."""
IGNORED: Final = -100
"""Label of a position after the end of a window."""


@dataclass(frozen=True)
class Passage:
    """Neighbouring paragraphs as tokens, and the places where a window may begin."""

    ids: IntArray
    """``(n_tokens,)`` token ids of the complete passage."""
    openings: tuple[tuple[int, tuple[int, ...]], ...]
    """For every sentence: the token after its first word, and that word's own ids, which differ
    from those inside the passage by the leading space."""


def tokenize(text: str, tokenizer: Any) -> Passage:
    """Tokenize a passage once; windows are cut from the result."""
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    begins = np.array([start for start, _ in encoding["offset_mapping"]])
    openings = []
    for start in (0, *(match.end() for match in _SENTENCE.finditer(text))):
        word = _FIRST_WORD.match(text, start)
        if word is not None:
            own = tokenizer(word.group(), add_special_tokens=False)["input_ids"]
            openings.append((int(np.searchsorted(begins, word.end())), tuple(own)))
    return Passage(np.array(encoding["input_ids"], np.int32), tuple(openings))


def cut(passage: Passage, n_tokens: int, first: int) -> Iterator[list[int]]:
    """Yield windows of at most ``n_tokens`` tokens that begin sentences, from ``first`` on."""
    after = np.array([token for token, _ in passage.openings])
    place = min(int(np.searchsorted(after, first)), len(after) - 1)
    while True:
        start, own = passage.openings[place]
        end = start + n_tokens - len(own)
        yield [*own, *passage.ids[start:end].tolist()]
        if end >= len(passage.ids):
            return
        following = int(np.searchsorted(after, end, side="right")) - 1
        if following <= place or end - after[following] > _LONGEST_OVERLAP:
            following = min(following + 1, len(after) - 1)  # skip the end of a long sentence
            if following <= place:
                return
        place = following


def windows(
    passages: Sequence[Passage], beginning: int, n_context: int, rng: random.Random | None = None
) -> list[list[int]]:
    """Return the windows of one pass, each after the token ``beginning``; ``rng`` shifts them."""
    rows = []
    for passage in passages:
        first = rng.randrange(n_context) if rng is not None else 0
        rows += [[beginning, *window] for window in cut(passage, n_context - 1, first)]
    return rows


def as_batch(
    rows: Sequence[Sequence[int]], n_context: int
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
    """Return inputs and labels, ``n_context - 1`` positions; :data:`IGNORED` after a row's end."""
    inputs = torch.zeros(len(rows), n_context - 1, dtype=torch.long)
    labels = torch.full_like(inputs, IGNORED)
    for number, row in enumerate(rows):
        inputs[number, : len(row) - 1] = torch.tensor(row[:-1])
        labels[number, : len(row) - 1] = torch.tensor(row[1:])
    return inputs, labels
