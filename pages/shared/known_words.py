"""Words that atlas knows and that are close to one it does not know."""

from __future__ import annotations

import difflib
import json
import re
from functools import cache
from typing import Final

from tracer.paths import ATLAS_WEIGHTS

_CLOSE: Final = 0.6
_MOST_WORDS: Final = 5
_LONGEST_WORD: Final = 40
_WORD: Final = re.compile(r"[^\s]+")


@cache
def _words() -> dict[str, str]:
    """Return atlas's words by their case-folded form."""
    path = ATLAS_WEIGHTS / "model" / "tokenizer.json"
    vocabulary = json.loads(path.read_text(encoding="utf-8"))["model"]["vocab"]
    words = (piece.replace("▁", " ").strip() for piece in vocabulary if "<" not in piece)
    return {word.casefold(): word for word in words if word}


def suggestions(prompt: str, limit: int = 3) -> dict[str, tuple[str, ...]]:
    """Return the words of ``prompt`` that atlas does not know, with the nearest it knows.

    >>> suggestions("The captial of Texas is")
    {'captial': ('capital',)}
    """
    words = _words()
    parts = {part for word in words for part in word.split()}
    unknown = [
        word
        for word in dict.fromkeys(_WORD.findall(prompt))
        if word not in words.values() and word.casefold() not in parts
    ]
    close: dict[str, tuple[str, ...]] = {}
    for word in unknown[:_MOST_WORDS]:
        key = word.casefold()[:_LONGEST_WORD]
        matches = difflib.get_close_matches(key, words, limit, _CLOSE)
        close[word] = tuple(words[match] for match in matches)
    return close
