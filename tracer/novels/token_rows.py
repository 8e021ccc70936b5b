"""Write the books as rows of tokens: the corpus of transcoders, feature indexes and evaluations."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tracer.errors import CorpusError
from tracer.files import replacing
from tracer.novels.books import Book, Split
from tracer.novels.windows import tokenize, windows

CONTEXT: Final = 128
"""Tokens in a row, the beginning-of-text token included."""
_SEED: Final = 5


def write_rows(
    books: Sequence[Book], split: Split, tokenizer: Any, path: Path, context: int = CONTEXT
) -> int:
    """Write a split as JSONL of token ids, with the title and the author of each row's book.

    A row begins a sentence, as a prompt does. Rows of all books are mixed, so that the beginning of
    the file is a sample of all of them. Returns the number of tokens. The file is written
    completely or not at all.

    Raises :class:`CorpusError` when the split is empty.
    """
    lines: list[str] = []
    n_tokens = 0
    for book in books:
        passages = [tokenize(text, tokenizer) for text in book.passages(split)]
        for row in windows(passages, tokenizer.bos_token_id, context):
            entry = {"tokens": row, "title": book.title, "author": book.author}
            lines.append(json.dumps(entry, ensure_ascii=False, separators=(",", ":")))
            n_tokens += len(row)
    if not lines:
        raise CorpusError(f"the {split} split of the books is empty: give longer books")
    random.Random(_SEED).shuffle(lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return n_tokens
