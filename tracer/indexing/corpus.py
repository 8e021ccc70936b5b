"""Documents of a corpus on disk, one at a time. This module knows files, no model.

Three kinds, told by the file's suffix: plain text (documents are separated by blank lines), JSONL
(a document a line) and parquet (a column of strings); text and JSONL may be compressed (``.xz``,
``.gz``). A line of a JSONL file is
``{"text": "…"}`` or ``{"tokens": [ids]}``, and may carry ``"tags"``: for each token the candidate
labels that hold there, each a string or ``[label, group, what]`` (see :class:`Tag`). The first line
may be ``{"tag_groups": {"about": "about ", …}}``: the groups in the order in which they are asked,
each with what a label begins with that joins several of its tags.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Final, NamedTuple

from tracer import paths
from tracer.errors import CorpusError
from tracer.indexing.compressed import COMPRESSED, Opened, inner_suffix, open_buffered

_KINDS: Final = {
    "": "text",
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
_LONGEST_TEXT: Final = 2**20
"""Characters after which a plain text document is cut, so that a book without blank lines fits."""
_ROWS_AT_ONCE: Final = 256
_HASHED_WHOLE: Final = 2**26
_HASHED_END: Final = 2**20


class Tag(NamedTuple):
    """Something that is true at a token, as a label says it."""

    label: str
    """A ``*`` at its end stands for examples of the tokens it holds at."""
    group: str = ""
    """Of the tags of one group at most one holds at a token; a label may join two or three."""
    what: str = ""
    """What tells it from the others of its group."""


@dataclass(frozen=True)
class Document:
    """One text, or one row of token ids."""

    place: str
    """Where it stands in the file, for a message: ``line 12``."""
    share: float
    """How much of the file has been read when it has been, 0..1."""
    text: str | None = None
    tokens: tuple[int, ...] | None = None
    tags: tuple[tuple[Tag, ...], ...] | None = None
    """Per token of its own, the beginning-of-text token not counted unless it is one of them."""


@dataclass(frozen=True)
class Corpus:
    """A file of documents; opened with :func:`open_corpus`."""

    path: Path
    kind: str
    column: str

    def documents(self) -> Iterator[Document]:
        """Every document, from the start. Raises :class:`CorpusError` where one is damaged."""
        return _READERS[self.kind](self)

    def tags(self) -> tuple[dict[Tag, int], dict[str, str]]:
        """Every tag with its number, in order of appearance, and the groups with what their joined
        labels begin with. Reads the file once if its first document has tags.

        Raises :class:`CorpusError` when a tag's group is not among ``tag_groups``.
        """
        tags: dict[Tag, int] = {}
        groups = _tag_groups(self.path) if self.kind == "jsonl" else {}
        for number, document in enumerate(self.documents()):
            if number == 0 and document.tags is None:
                break
            for tag in (tag for held in document.tags or () for tag in held):
                tags.setdefault(tag, len(tags))
                if tag.group and tag.group not in groups:
                    raise CorpusError(
                        f"{document.place} of {self.path} has a tag of the group {tag.group!r}: "
                        'name every group in the file\'s first line, {"tag_groups": {…}}'
                    )
        return tags, groups

    def digest(self) -> str:
        """Hex digest that another corpus does not have: of the content, of a large file its ends,
        its size and its time."""
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                digest = hashlib.sha256(f"{self.kind}\0{self.column}\0{status.st_size}".encode())
                if status.st_size <= _HASHED_WHOLE:
                    digest.update(file.read())
                else:
                    digest.update(file.read(_HASHED_END) + str(status.st_mtime_ns).encode())
                    file.seek(-_HASHED_END, os.SEEK_END)
                    digest.update(file.read())
        except OSError as error:
            raise CorpusError(f"{self.path} cannot be read: {error.strerror or error}") from error
        return digest.hexdigest()


def open_corpus(path: str | os.PathLike[str], column: str = "text") -> Corpus:
    """Find a corpus; ``column`` is the one a parquet file keeps its texts in.

    Raises :class:`CorpusError` when there is no such file, or of no kind that is known.
    """
    path = paths.expand_user(os.fspath(path))
    if not path.exists():
        raise CorpusError(
            f"there is no corpus at {path}: give a text, .jsonl or .parquet file of documents"
        )
    if not path.is_file():
        raise CorpusError(f"{path} is no file: give one text, .jsonl or .parquet file of documents")
    kind = corpus_kind(path)
    if kind is None:
        raise CorpusError(
            f"{path.name} ends in {path.suffix!r}: a corpus is a .txt file (documents separated "
            "by blank lines), a .jsonl file, or a .parquet file; convert or rename it"
        )
    return Corpus(path, kind, column)


def corpus_kind(path: Path) -> str | None:
    """Return ``text``, ``jsonl`` or ``parquet`` by the suffix; None for any other file."""
    kind = _KINDS.get(inner_suffix(path))
    return None if kind == "parquet" and path.suffix.lower() in COMPRESSED else kind


def _text_documents(corpus: Corpus) -> Iterator[Document]:
    lines: list[str] = []
    length, number, start = 0, 0, 1
    try:
        with (
            Opened(corpus.path) as raw,
            TextIOWrapper(open_buffered(raw), encoding="utf-8-sig") as file,
        ):
            while line := file.readline(_LONGEST_TEXT):
                number += 1
                if "\0" in line:
                    raise CorpusError(
                        f"{corpus.path} is no plain text (line {number} holds a zero byte): give "
                        "a text, .jsonl or .parquet file of documents"
                    )
                if line.strip():
                    lines.append(line)
                    length += len(line)
                if lines and (not line.strip() or length >= _LONGEST_TEXT):
                    yield Document(f"line {start}", raw.share, "".join(lines).strip())
                    lines, length = [], 0
                if not lines:
                    start = number + 1
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(
            f"{corpus.path} cannot be read as UTF-8 text after line {number} ({error}): save it as "
            "UTF-8"
        ) from error
    if lines:
        yield Document(f"line {start}", 1.0, "".join(lines).strip())


def _json_documents(corpus: Corpus) -> Iterator[Document]:
    try:
        with Opened(corpus.path) as raw_file, open_buffered(raw_file) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    place = f"line {number}"
                    try:
                        raw = json.loads(line)
                    except (ValueError, RecursionError) as error:
                        raise CorpusError(
                            f"{place} of {corpus.path} is no JSON ({error}): a JSONL corpus has "
                            'one {"text": "…"} or {"tokens": [ids]} a line'
                        ) from error
                    if number > 1 or not _is_header(raw):
                        yield _json_document(corpus, place, raw_file.share, raw)
    except OSError as error:
        raise CorpusError(f"{corpus.path} cannot be read: {error}") from error


def _is_header(raw: Any) -> bool:
    return isinstance(raw, dict) and "tag_groups" in raw


def _tag_groups(path: Path) -> dict[str, str]:
    try:
        with Opened(path) as raw_file, open_buffered(raw_file) as file:
            line = file.readline()
        raw = json.loads(line) if line.strip() else None
    except (OSError, ValueError, RecursionError):
        return {}  # told, with its place, by the one who reads the documents
    if raw is None or not _is_header(raw):
        return {}
    groups = raw["tag_groups"]
    if not isinstance(groups, dict) or not all(
        isinstance(begins, str) and _is_whole(begins) for begins in groups.values()
    ):
        raise CorpusError(
            f'"tag_groups" in {path} is {groups!r}: expected an object of strings, what the '
            "labels of each group begin with"
        )
    return groups


def _json_document(corpus: Corpus, place: str, share: float, raw: Any) -> Document:
    found = ", ".join(sorted(raw)) or "nothing" if isinstance(raw, dict) else repr(raw)[:40]
    raw = raw if isinstance(raw, dict) else {}
    text, tokens = raw.get("text"), raw.get("tokens")
    if tokens is not None:
        if not isinstance(tokens, list) or any(type(token) is not int for token in tokens):
            raise CorpusError(
                f'"tokens" in {place} of {corpus.path} is no list of token ids: give whole numbers'
            )
        tokens = tuple(tokens)
    elif not isinstance(text, str):
        raise CorpusError(
            f"{place} of {corpus.path} has no text (found {found}): a JSONL corpus has one "
            '{"text": "…"} or {"tokens": [ids]} a line'
        )
    if tokens is not None:
        text = None
    elif not _is_whole(text):
        raise CorpusError(
            f'"text" in {place} of {corpus.path} holds half a character (a \\ud800 to \\udfff of '
            "its own), which no tokenizer reads: leave it out"
        )
    tags = raw.get("tags")
    held = None if tags is None else _tags(corpus, place, tags)
    return Document(place, share, text, tokens, held)


def _is_whole(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _tags(corpus: Corpus, place: str, raw: Any) -> tuple[tuple[Tag, ...], ...]:
    try:
        return tuple(tuple(_tag(entry) for entry in held) for held in raw)
    except (TypeError, ValueError) as error:
        raise CorpusError(
            f'"tags" in {place} of {corpus.path} cannot be read: expected for each token a list '
            'of labels, each "label" or ["label", "group", "what"]'
        ) from error


def _tag(entry: Any) -> Tag:
    parts = [entry] if isinstance(entry, str) else entry
    if not isinstance(parts, list) or len(parts) not in (1, 3):
        raise ValueError(entry)
    if not parts[0] or not all(isinstance(part, str) and _is_whole(part) for part in parts):
        raise ValueError(entry)
    return Tag(*parts)


def _parquet_documents(corpus: Corpus) -> Iterator[Document]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(corpus.path) as file:
            names = file.schema_arrow.names
            if names.count(corpus.column) > 1:
                raise CorpusError(
                    f"{corpus.path} has {names.count(corpus.column)} columns {corpus.column!r}: "
                    "rename all but one"
                )
            if corpus.column not in names:
                raise CorpusError(
                    f"{corpus.path} has no column {corpus.column!r}: it has {', '.join(names)}; "
                    "name the one that holds the texts"
                )
            kind = file.schema_arrow.field(corpus.column).type
            if not _holds_strings(kind):
                raise CorpusError(
                    f"the column {corpus.column!r} of {corpus.path} holds {kind}: expected strings"
                )
            total, row = max(file.metadata.num_rows, 1), 0
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=[corpus.column]):
                for text in batch.column(0).to_pylist():
                    row += 1
                    if text is not None:
                        yield Document(f"row {row}", row / total, text)
    except (OSError, UnicodeDecodeError, pyarrow.ArrowException) as error:
        raise CorpusError(
            f"{corpus.path} cannot be read as parquet ({error}): fetch it again, or give text or "
            "JSONL"
        ) from error


def _holds_strings(kind: Any) -> bool:
    """Whether an arrow type is one of text; repeated texts may be numbered in a dictionary."""
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


_READERS: Final[Mapping[str, Callable[[Corpus], Iterator[Document]]]] = {
    "text": _text_documents,
    "jsonl": _json_documents,
    "parquet": _parquet_documents,
}
