"""Cut documents into batches of token windows, in the order of the corpus, from any position.

A window has at most ``context`` tokens and begins with the model's beginning-of-text token; a
longer document continues in the next window. Windows do not depend on the batch size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from tracer.errors import CorpusError
from tracer.indexing.corpus import Corpus, Document, Tag
from tracer.model.model import Model

NO_TAGS: Final[tuple[int, ...]] = ()


class Window(NamedTuple):
    """At most ``context`` tokens of one document."""

    ids: tuple[int, ...]
    tags: tuple[tuple[int, ...], ...] | None
    """Numbers of the tags of each token; None for a document without tags."""
    share: float
    """Share of the corpus that has been read up to here, 0 to 1."""
    first: bool
    """Whether it is the document's first window."""
    source: str = ""
    """Title and author of the document."""


@dataclass
class Position:
    """How far the corpus has been read, to resume from there."""

    document: int = 0
    """Number of the next document, counted from the start of the file."""
    window: int = 0
    """Windows of that document that have been read."""
    documents: int = 0
    """Documents with at least one window so far."""
    unknown: int = 0
    """Documents left out because the tokenizer does not know some of their words."""
    tokens: int = 0
    """Tokens read, without beginning-of-text tokens."""
    share: float = 0.0
    """Share of the corpus that has been read, 0 to 1."""


class WindowReader:
    """Reads batches of windows; ``position`` is where the next batch begins."""

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
        """Return the next windows: as many as fit into ``batch_tokens``, padded to the longest.

        At least one; none at the end. Raises :class:`CorpusError` where the corpus is damaged.
        """
        taken: list[Window] = []
        longest = 0
        while self._ahead is not None and not self._reached_limit():
            longest = max(longest, len(self._ahead.ids))
            if taken and (len(taken) + 1) * longest > batch_tokens:
                break
            taken.append(self._ahead)
            self.position.tokens += len(self._ahead.ids) - 1
            self.position.share = self._ahead.share
            self.position.documents += self._ahead.first
            self._ahead = next(self._windows, None)
        return taken

    def _reached_limit(self) -> bool:
        return self._limit is not None and self.position.tokens >= self._limit

    def _read(self) -> Iterator[Window]:
        """Yield the windows from ``position`` on, which points to the window being yielded."""
        begin, skip = self.position.document, self.position.window
        for number, document in enumerate(self._corpus.documents()):
            if number < begin:
                continue
            for index, window in enumerate(self._windows_of(document)):
                if number > begin or index >= skip:
                    self.position.document, self.position.window = number, index
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
                document.source,
            )
            for start in range(1, len(ids), step)
        ]

    def _token_ids(self, document: Document) -> tuple[int, ...] | None:
        """Return the document's own tokens; None if one of them is the unknown token."""
        tokenizer = self._model.bridge.tokenizer
        own = document.tokens
        if own is None:
            encoded = tokenizer(document.text, add_special_tokens=False, verbose=False)
            own = tuple(encoded["input_ids"])
        invalid = next((t for t in own if not 0 <= t < self._model.vocab_size), None)
        if invalid is not None:
            raise CorpusError(
                f"{document.location} of {self._corpus.path} has token id {invalid}, but "
                f"{self._model.source.name} has ids 0 to {self._model.vocab_size - 1}: the corpus "
                "was tokenized for another model; give it as text"
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
                f"{document.location} of {self._corpus.path} has tags for {len(document.tags)} "
                f"tokens, but the document has {n_own}: give one list of tags for each token"
            )
        try:
            numbers = [tuple(self._tags[tag] for tag in tags) for tags in document.tags]
        except KeyError as error:
            raise CorpusError(
                f"{document.location} of {self._corpus.path} has tags, but the first document has "
                "none: give the first one tags too (empty lists are enough)"
            ) from error
        return [NO_TAGS] * n_before + numbers


def padded(windows: Sequence[Window]) -> tuple[np.ndarray, np.ndarray]:
    """Return ``(windows, positions)`` token ids, and which of them are the windows' own tokens.

    Shorter windows are padded on the right with their first token, which no token before it sees.
    """
    longest = max(len(window.ids) for window in windows)
    ids = np.array([[*w.ids, *[w.ids[0]] * (longest - len(w.ids))] for w in windows], np.int64)
    real = np.arange(longest) < np.array([[len(window.ids)] for window in windows])
    return ids, real
