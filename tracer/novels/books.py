"""The corpus of novels: public-domain books, and which of their paragraphs are held out.

The texts are not part of this project. ``docs/novels.md`` lists the books and says how to make the
file from public copies.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from tracer.errors import CorpusError

Split = Literal["train", "validation"]

BLOCK: Final = 30
"""Paragraphs in a block. Blocks are held out as a unit, so that held-out text is not surrounded by
its own neighbouring sentences in the training set."""
HELD_OUT: Final = 50
"""One block in this many is held out."""
OPENINGS: Final = (
    "Alice was beginning to get very tired",
    "Mr. Utterson the lawyer was a man",
    "Dorothy lived in the midst of",
    "It was the best of times",
    "There was no possibility of taking a walk",
    "In the year 1878 I took my degree",
    "\"Christmas won't be Christmas",
    "1801 - I have just returned",
    "On the 24th of February, 1815",
    "It is a truth universally acknowledged",
    "My father's family name being Pirrip",
    "To Sherlock Holmes she is always",
    "On an exceptionally hot evening",
    "Call me Ishmael",
    "One morning, when Gregor Samsa",
    "In my younger and more vulnerable years",
)
"""Famous first lines, which the model sees more often than anything else: it learns them by heart,
and a graph can show recitation next to a paraphrase that it has never seen."""
_OPENING_PARAGRAPHS: Final = 20


@dataclass(frozen=True)
class Book:
    """One book, its paragraphs in order."""

    title: str
    author: str
    ebook: int
    """Its number in the public collection."""
    paragraphs: tuple[str, ...]

    def passages(self, split: Split) -> Iterator[str]:
        """Yield runs of neighbouring paragraphs of ``split``, joined by line breaks."""
        passage: list[str] = []
        for number, start in enumerate(range(0, len(self.paragraphs), BLOCK)):
            is_held_out = number % HELD_OUT == HELD_OUT // 2
            if is_held_out == (split == "validation"):
                passage += self.paragraphs[start : start + BLOCK]
            elif passage:
                yield "\n".join(passage)
                passage = []
        if passage:
            yield "\n".join(passage)


def read_books(path: Path) -> tuple[Book, ...]:
    """Read the corpus: JSON lines with ``title``, ``author``, ``ebook`` and ``text``.

    Raises :class:`CorpusError` when the file is missing or not in that form.
    """
    opener = lzma.open if path.suffix == ".xz" else open
    books = []
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            for line in file:
                stored = json.loads(line)
                paragraphs = (text.strip() for text in stored["text"].split("\n"))
                books.append(
                    Book(
                        str(stored["title"]),
                        str(stored["author"]),
                        int(stored["ebook"]),
                        tuple(text for text in paragraphs if text),
                    )
                )
    except (OSError, EOFError, lzma.LZMAError, ValueError, KeyError, TypeError) as error:
        raise CorpusError(
            f"{path} cannot be read as books ({error!r}): expected JSON lines with title, author, "
            "ebook and text; docs/novels.md says how to make the file"
        ) from error
    if not books:
        raise CorpusError(f"{path} has no books: expected one JSON object per line")
    return tuple(books)


def opening_texts(books: Sequence[Book]) -> list[str]:
    """Return the beginnings of the books in :data:`OPENINGS`.

    Raises :class:`CorpusError` when a book is missing.
    """
    texts = []
    for opening in OPENINGS:
        places = (
            (book, place)
            for book in books
            for place, text in enumerate(book.paragraphs)
            if text.startswith(opening)
        )
        book, place = next(places, (None, 0))
        if book is None:
            raise CorpusError(f"no book has a paragraph that begins with {opening!r}")
        texts.append("\n".join(book.paragraphs[place : place + _OPENING_PARAGRAPHS]))
    return texts
