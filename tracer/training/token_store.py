"""A corpus as tokens on disk: cut into windows once, then read in any order."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tracer.errors import CorpusError, TrainingError
from tracer.files import atomic_write, format_bytes
from tracer.indexing.windows import Position, WindowReader
from tracer.model.model import Model
from tracer.training.texts import Texts
from tracer.types import Progress

_TOKENS: Final = "tokens.bin"
_STARTS: Final = "windows.bin"
_NOTE: Final = "corpus.json"
_AT_ONCE: Final = 2**15
"""Tokens written at a time."""
_TOKEN_BYTES: Final = 4
_BLOCK: Final = 16
"""Windows are held out in blocks of this size, so that few have neighbours in training."""


@dataclass(frozen=True)
class TokenStore:
    """Windows of token ids, each beginning with the model's beginning-of-text token."""

    tokens: NDArray[np.int32]
    """All windows, concatenated; a memory-mapped file."""
    starts: NDArray[np.int64]
    """``(n_windows + 1,)`` the first token of each window, and the end of the last."""
    documents: int
    skipped: int
    """Documents left out because they have words that the tokenizer does not know."""

    @property
    def n_windows(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each window."""
        return np.diff(self.starts)

    def window(self, number: int) -> NDArray[np.int32]:
        """Return the token ids of one window."""
        return self.tokens[self.starts[number] : self.starts[number + 1]]


def store_tokens(
    model: Model,
    texts: Texts,
    context: int,
    limit: int,
    folder: Path,
    identity: Mapping[str, Any],
    progress: Progress,
) -> TokenStore:
    """Tokenize a corpus into ``folder``, or reuse what an earlier call with the same ``identity``
    finished there. Reading stops after ``limit`` tokens.

    Raises :class:`CorpusError` when the corpus is damaged, or holds no document the model can read,
    and :class:`TrainingError` when the disk has no room.
    """
    note = folder / _NOTE
    stored = _read_note(note)
    if stored.get("identity") != dict(identity):
        note.unlink(missing_ok=True)
        stored = _tokenize(model, texts, context, limit, folder, progress)
        stored["identity"] = dict(identity)
        atomic_write(note, json.dumps(stored))
    return TokenStore(
        np.memmap(folder / _TOKENS, "<i4", "r"),
        np.fromfile(folder / _STARTS, "<i8"),
        stored["documents"],
        stored["skipped"],
    )


def _read_note(note: Path) -> dict[str, Any]:
    try:
        stored = json.loads(note.read_text(encoding="utf-8"))
        tokens = (note.parent / _TOKENS).stat().st_size // _TOKEN_BYTES
        starts = np.fromfile(note.parent / _STARTS, "<i8")
        complete = isinstance(stored, dict) and len(starts) > 1 and starts[-1] == tokens
    except (OSError, ValueError):
        return {}  # incomplete or damaged: tokenize again
    return stored if complete else {}


def _tokenize(
    model: Model, texts: Texts, context: int, limit: int, folder: Path, progress: Progress
) -> dict[str, Any]:
    documents = skipped = read = written = 0
    starts = [0]
    with (folder / _TOKENS).open("wb") as out:
        for file in texts.files:
            reader = WindowReader(model, file, context, {}, limit - read, Position())
            while windows := reader.batch(_AT_ONCE):
                _check_room(folder, sum(len(window.ids) for window in windows) * _TOKEN_BYTES)
                for window in windows:
                    if len(window.ids) <= model.first_position:
                        continue  # no token of it carries features
                    out.write(np.array(window.ids, "<i4").tobytes())
                    written += len(window.ids)
                    starts.append(written)
                progress(min(read + reader.position.tokens, limit), limit, "tokenizing")
            documents += reader.position.documents
            skipped += reader.position.unknown
            read += reader.position.tokens
            if read >= limit:
                break
    if len(starts) == 1:
        reason = f" ({skipped:,} documents have words it does not know)" if skipped else ""
        raise CorpusError(
            f"{texts.path} has no text that {model.source.name} can read{reason}: give documents "
            "of at least one token"
        )
    np.array(starts, "<i8").tofile(folder / _STARTS)
    return {"documents": documents, "skipped": skipped}


def _check_room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size:
        raise TrainingError(
            f"the disk of {folder} has {format_bytes(free)} free, but the next tokens of the "
            f"corpus need {format_bytes(size)}: free disk space and start again"
        )


def split_windows(
    store: TokenStore, share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the windows to train on and the held-out ones, at least one of each.

    About ``share`` of all are held out, in blocks of neighbours. Raises :class:`CorpusError` if
    there is only one window.
    """
    n = store.n_windows
    if n < 2:
        raise CorpusError(
            "the corpus has only one window of tokens: give more text, so that some of it can be "
            "held out"
        )
    n_held_out = min(max(1, round(n * share)), n - 1)
    block = max(1, min(_BLOCK, n_held_out))
    n_blocks = -(-n // block)
    chosen = np.random.default_rng([seed, 1]).permutation(n_blocks)[: max(1, n_held_out // block)]
    held_out = np.isin(np.arange(n) // block, chosen)
    if held_out.all():
        held_out[0] = False
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
