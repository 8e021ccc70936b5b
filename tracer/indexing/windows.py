"""From documents to batches of token windows, in the order of the corpus; it can begin anywhere.

Each window is at most ``context`` tokens and begins with the model's beginning-of-text token; a
longer document goes on in the next window. What a window holds does not depend on the batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from tracer.errors import CorpusError
from tracer.indexing.corpus import Corpus, Document, Tag
from tracer.model.model import Model

NO_TAGS: Final[tuple[int, ...]] = ()


class Window(NamedTuple):
    """At most ``context`` tokens of one document."""

    ids: tuple[int, ...]
    tags: tuple[tuple[int, ...], ...] | None
    """Per token, numbers of the tags that hold there."""
    share: float
    """How much of the corpus has been read with it, 0..1."""
    begins: bool
    """Whether it is its document's first."""


@dataclass
class Position:
    """How far the corpus has been read: what is needed to go on there."""

    document: int = 0
    """Number of the document that comes next, counted from the file's start."""
    window: int = 0
    """Its windows that were read already."""
    documents: int = 0
    """Documents that gave at least one window so far."""
    unknown: int = 0
    """Documents left out because they hold words the tokenizer does not know."""
    tokens: int = 0
    """Tokens read, beginning-of-text tokens not counted."""
    share: float = 0.0


class WindowReader:
    """Hands out batches of windows; ``position`` is where the next batch begins."""

    def __init__(
        self,
        model: Model,
        corpus: Corpus,
        context: int,
        tags: Mapping[Tag, int],
        limit: int | None,
        position: Position,
    ) -> None:
        self.position = position
        self._model, self._corpus, self._context, self._tags = model, corpus, context, tags
        self._limit = limit
        self._windows = self._read()
        self._ahead = next(self._windows, None)

    def batch(self, batch_tokens: int) -> list[Window]:
        """The next windows: as many as fit, padded to the longest, into ``batch_tokens``.

        At least one; none at the end. Raises :class:`CorpusError` where the corpus is damaged.
        """
        taken: list[Window] = []
        longest = 0
        while self._ahead is not None and not self._full():
            longest = max(longest, len(self._ahead.ids))
            if taken and (len(taken) + 1) * longest > batch_tokens:
                break
            taken.append(self._ahead)
            self.position.tokens += len(self._ahead.ids) - 1
            self.position.share = self._ahead.share
            self.position.documents += self._ahead.begins
            self._ahead = next(self._windows, None)
        return taken

    def _full(self) -> bool:
        return self._limit is not None and self.position.tokens >= self._limit

    def _read(self) -> Iterator[Window]:
        """Windows from ``position`` on. While one is handed out ``position`` stands before it."""
        begin, skip = self.position.document, self.position.window
        for number, document in enumerate(self._corpus.documents()):
            if number < begin:
                continue
            for place, window in enumerate(self._windows_of(document)):
                if number > begin or place >= skip:
                    self.position.document, self.position.window = number, place
                    yield window
            self.position.document, self.position.window = number + 1, 0

    def _windows_of(self, document: Document) -> list[Window]:
        own = self._token_ids(document)
        if own is None:
            self.position.unknown += 1
            return []
        ids = self._model.with_beginning(own)
        tags = self._tag_numbers(document, len(own), len(ids) - len(own))
        step = self._context - 1
        return [
            Window(
                (ids[0], *ids[start : start + step]),
                None if tags is None else (NO_TAGS, *tags[start : start + step]),
                document.share,
                start == 1,
            )
            for start in range(1, len(ids), step)
        ]

    def _token_ids(self, document: Document) -> tuple[int, ...] | None:
        """The document's own tokens; None when one of them is the unknown token."""
        tokenizer = self._model.bridge.tokenizer
        own = document.tokens
        if own is None:
            encoded = tokenizer(document.text, add_special_tokens=False, verbose=False)
            own = tuple(encoded["input_ids"])
        wrong = next((t for t in own if not 0 <= t < self._model.vocab_size), None)
        if wrong is not None:
            raise CorpusError(
                f"{document.place} of {self._corpus.path} has token {wrong}, "
                f"{self._model.source.name} has ids 0 to {self._model.vocab_size - 1}: the corpus "
                "was made for another tokenizer; give it as text"
            )
        unknown = tokenizer.unk_token_id
        ordinary = unknown in (tokenizer.bos_token_id, tokenizer.eos_token_id)
        return None if unknown in own and not ordinary else own

    def _tag_numbers(
        self, document: Document, n_own: int, n_before: int
    ) -> list[tuple[int, ...]] | None:
        if document.tags is None:
            return None
        if len(document.tags) != n_own:
            raise CorpusError(
                f"{document.place} of {self._corpus.path} has tags for {len(document.tags)} "
                f"tokens, the document has {n_own}: give one list of tags a token"
            )
        try:
            held = [tuple(self._tags[tag] for tag in tags) for tags in document.tags]
        except KeyError as error:
            raise CorpusError(
                f"{document.place} of {self._corpus.path} has tags, its first document has none: "
                "give the first one tags too (empty lists do)"
            ) from error
        return [NO_TAGS] * n_before + held
