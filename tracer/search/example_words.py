"""A table of words and the features whose top examples peak on them, kept in ``CIRCUIT_HOME``.

Reading the examples of a large dictionary takes minutes, so it happens once: the table is built
from the cards of a complete index, one card at a time, and kept as a safetensors file that is
mapped into memory. One file per index folder; it holds the fingerprint of the index it was built
from, and a table with another fingerprint is built again. No torch here.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tracer import paths
from tracer.errors import FeatureIndexError, SearchError
from tracer.features.cards import Example, FeatureCard, FeatureIndex
from tracer.files import replacing
from tracer.types import FeatureId, Progress

_VERSION: Final = "1"
_SPACES: Final = "▁Ġ"
"""How some tokenizers write the space that a token begins with."""
_LONGEST: Final = 64
"""Characters of a word. A script without spaces makes a word of each sentence."""
_EVERY: Final = 256
"""Features between two reports of progress."""


class PeakRow(NamedTuple):
    """How often the top examples of a feature peak on one word."""

    feature: FeatureId
    n_peaks: int
    n_examples: int
    activation: float


def query_word(text: str) -> str:
    """Return the key of the one word in ``text``; raises :class:`SearchError` for none or several.

    >>> query_word(" Dallas")
    'dallas'
    """
    if not text.strip(" "):
        raise SearchError("the query is empty: write a word that the examples contain")
    word = _key(text)
    if len(word.split()) > 1:
        raise SearchError(
            f"the query {text.strip()!r} has {len(word.split())} words: examples are searched for "
            "one word at a time"
        )
    return word


def peak_words(example: Example) -> set[str]:
    """Return the token that an example peaks on and, where that is a piece, the word it is in.

    >>> sorted(peak_words(Example((" in", " Dall", "as"), (0.0, 0.1, 2.0))))
    ['as', 'dallas']
    """
    tokens = example.tokens
    peak = max(range(len(tokens)), key=example.activations.__getitem__)
    words = {_key(tokens[peak])}
    spaced = any(_begins_word(token) for token in tokens[1:])
    if spaced and _is_wordlike(tokens[peak]):
        start, stop = peak, peak + 1
        while start > 0 and not _begins_word(tokens[start]) and _is_wordlike(tokens[start - 1]):
            start -= 1
        while stop < len(tokens) and not _begins_word(tokens[stop]) and _is_wordlike(tokens[stop]):
            stop += 1
        words.add(_key("".join(tokens[start:stop])))
    return words


def _begins_word(token: str) -> bool:
    return token[:1].isspace() or token[:1] in _SPACES


def _is_wordlike(token: str) -> bool:
    """Whether a token, apart from the space it begins with, is letters and digits."""
    return token.strip().strip(_SPACES).replace("'", "").replace("’", "").isalnum()


def _key(text: str) -> str:
    """Return a token or word as the table compares it: case-folded and without outer spaces."""
    return (text.strip().strip(_SPACES) or text).casefold()[:_LONGEST]


@dataclass(frozen=True)
class ExampleWords:
    """An opened table: the features whose top examples peak on each word."""

    words: Mapping[str, int]
    """Word -> row of ``starts``."""
    starts: NDArray[np.int64]
    path: Path

    def features(self, word: str) -> list[PeakRow]:
        """Return the features of a word, by layer and index; none for a word nothing peaks on."""
        row = self.words.get(word)
        if row is None:
            return []
        part = slice(int(self.starts[row]), int(self.starts[row + 1]))
        with safe_open(self.path, framework="np") as file:
            columns = [file.get_slice(name)[part].tolist() for name in _COLUMNS]
        return [
            PeakRow(FeatureId(layer, index), peaks, examples, activation)
            for layer, index, peaks, examples, activation in zip(*columns, strict=True)
        ]


_COLUMNS: Final = ("layers", "indices", "n_peaks", "n_examples", "activations")
_TYPES: Final = ("H", "i", "H", "H", "f")
"""Types of the columns, as :mod:`array` names them."""
_MOST: Final = 2**16 - 1


def table_path(index: FeatureIndex) -> Path:
    """Return where the table of an index is, or would be."""
    place = hashlib.sha256(str(index.folder.resolve()).encode()).hexdigest()[:24]
    return paths.home() / "example-words" / f"{place}.safetensors"


def fingerprint(index: FeatureIndex) -> str:
    """Return a digest of the files that hold an index's examples.

    The list of records counts by its contents; the record files, gigabytes for a large dictionary,
    by name, size and modification time.
    """
    digest = hashlib.sha256(_VERSION.encode())
    for path in sorted(index.folder.iterdir()):
        if path.name == "index.json.gz":
            digest.update(path.read_bytes())
        elif path.suffix == ".bin":
            status = path.stat()
            digest.update(f"{path.name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def open_example_words(index: FeatureIndex, progress: Progress | None = None) -> ExampleWords:
    """Open the table of an index; build it if there is none, or only one of an earlier index.

    ``progress`` counts features while the table is built.

    Raises :class:`FeatureIndexError` when a feature's examples are damaged, or the table cannot be
    written.
    """
    try:
        mark, path = fingerprint(index), table_path(index)
    except OSError as error:
        raise FeatureIndexError(
            f"the feature index in {index.folder} cannot be read ({error.strerror or error}): "
            "build it again"
        ) from error
    return _opened(path, mark) or _built(index, path, mark, progress)


def _opened(path: Path, mark: str) -> ExampleWords | None:
    """Return the table in ``path``, or None when it is missing, damaged or of another index."""
    try:
        with safe_open(path, framework="np") as file:
            if (file.metadata() or {}).get("fingerprint") != mark:
                return None
            words = file.get_tensor("words").tobytes().decode().split("\0")
            starts = file.get_tensor("starts")
    except (OSError, SafetensorError, UnicodeDecodeError):
        return None
    return ExampleWords({word: row for row, word in enumerate(words)}, starts, path)


def _built(index: FeatureIndex, path: Path, mark: str, progress: Progress | None) -> ExampleWords:
    rows = _Rows()
    for done, feature in enumerate(index.features()):
        if progress is not None and done % _EVERY == 0:
            progress(done, len(index), "reading the examples of all features")
        card = index.card(feature)
        if card is not None:
            rows.add(card)
    if progress is not None:
        progress(len(index), len(index), "reading the examples of all features")
    tensors = rows.tensors()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            save_file(tensors, partial, metadata={"fingerprint": mark})
    except (OSError, SafetensorError) as error:
        raise FeatureIndexError(
            f"the table of example words cannot be kept in {path.parent} ({error}): make room "
            "there, or set CIRCUIT_HOME to a folder that can be written"
        ) from error
    opened = _opened(path, mark)
    if opened is None:
        raise FeatureIndexError(f"{path} cannot be read after it was written: search again")
    return opened


@dataclass
class _Rows:
    """The table while it is built: one row per word and feature, in the order of the features.

    Columns of plain numbers, as a large dictionary has millions of rows.
    """

    ids: dict[str, int] = field(default_factory=dict)
    words: array[int] = field(default_factory=lambda: array("i"))
    columns: tuple[array[Any], ...] = field(
        default_factory=lambda: tuple(array(kind) for kind in _TYPES)
    )

    def add(self, card: FeatureCard) -> None:
        """Add the rows of one feature."""
        examples = card.groups[0].examples[:_MOST] if card.groups else ()
        peaks: dict[str, list[float]] = {}
        for example in examples:
            strongest = max(example.activations)
            if strongest > 0:
                for word in peak_words(example):
                    peaks.setdefault(word, []).append(strongest)
        for word, activations in peaks.items():
            self.words.append(self.ids.setdefault(word.replace("\0", "�"), len(self.ids)))
            row = (*card.feature, len(activations), len(examples), max(activations))
            for column, value in zip(self.columns, row, strict=True):
                column.append(value)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return the table by word: ``starts (words + 1,)`` says where each word's rows begin."""
        words = np.array(self.words, dtype=np.int32)
        order = words.argsort(kind="stable")
        counts = np.bincount(words, minlength=len(self.ids))
        names = "\0".join(self.ids).encode()
        return {
            "words": np.frombuffer(names, dtype=np.uint8),
            "starts": np.concatenate([[0], counts.cumsum()]).astype(np.int64),
            **{
                name: np.array(column)[order]
                for name, column in zip(_COLUMNS, self.columns, strict=True)
            },
        }
