"""Read the documents of a corpus on disk, one at a time. This module knows files, not models.

The file's suffix decides the kind: plain text (documents separated by blank lines), JSONL (one
document per line) or Parquet (a column of strings). Text and JSONL can be compressed (``.xz``,
``.gz``). A line of a JSONL file is ``{"text": "…"}`` or ``{"tokens": [ids]}``, optionally with
``"tags"``: for each token the candidate labels that apply to it, each a string or
``[label, group, value]`` (see :class:`Tag`). The first line can be
``{"tag_groups": {"about": "about ", …}}``: the groups in order of priority, each with the prefix of
a label that joins several of its tags. ``"title"`` and ``"author"`` name the source of the text,
which is shown with examples from it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Final, NamedTuple

from tracer import paths
from tracer.errors import CorpusError
from tracer.indexing.compressed import COMPRESSED, OpenedFile, inner_suffix, open_buffered

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
"""Characters after which a plain text document is cut, in case a book has no blank lines."""
_ROWS_AT_ONCE: Final = 256
_HASHED_COMPLETELY: Final = 2**26
"""Bytes up to which a file is hashed completely; of a larger one both ends are."""
_HASHED_END: Final = 2**20


class Tag(NamedTuple):
    """Something that is true of a token, worded as a label."""

    label: str
    """A ``*`` at the end is replaced by examples of the tokens it applies to."""
    group: str = ""
    """At most one tag of a group applies to a token; a label can join two or three of them."""
    value: str = ""
    """How it differs from the other tags of its group."""


@dataclass(frozen=True)
class Document:
    """One text, or one row of token ids."""

    location: str
    """Where it is in the file, for messages: ``line 12``."""
    share: float
    """Share of the file that has been read after it, 0 to 1."""
    text: str | None = None
    tokens: tuple[int, ...] | None = None
    tags: tuple[tuple[Tag, ...], ...] | None = None
    """Tags of each of its tokens, including the beginning-of-text token only if it is given."""
    source: str = ""
    """Title and author of the text; empty if the file does not say."""


@dataclass(frozen=True)
class Corpus:
    """A file of documents, opened with :func:`open_corpus`."""

    path: Path
    kind: str
    column: str

    def documents(self) -> Iterator[Document]:
        """Yield every document; raises :class:`CorpusError` where one is damaged."""
        return _READERS[self.kind](self)

    def tags(self) -> tuple[dict[Tag, int], dict[str, str]]:
        """Return the number of every tag, in order of appearance, and the prefix of every group.

        Reads the complete file if its first document has tags. Raises :class:`CorpusError` if the
        group of a tag is not among ``tag_groups``.
        """
        tags: dict[Tag, int] = {}
        groups = _tag_groups(self.path) if self.kind == "jsonl" else {}
        for number, document in enumerate(self.documents()):
            if number == 0 and document.tags is None:
                break
            for tag in (tag for of_token in document.tags or () for tag in of_token):
                tags.setdefault(tag, len(tags))
                if tag.group and tag.group not in groups:
                    raise CorpusError(
                        f"{document.location} of {self.path} has a tag of group {tag.group!r}, "
                        "which is not declared: list every group in the file's first line, "
                        '{"tag_groups": {…}}'
                    )
        return tags, groups

    def digest(self) -> str:
        """Return a hex digest of the content; for a large file, of its ends, size and time."""
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                digest = hashlib.sha256(f"{self.kind}\0{self.column}\0{status.st_size}".encode())
                if status.st_size <= _HASHED_COMPLETELY:
                    digest.update(file.read())
                else:
                    digest.update(file.read(_HASHED_END) + str(status.st_mtime_ns).encode())
                    file.seek(-_HASHED_END, os.SEEK_END)
                    digest.update(file.read())
        except OSError as error:
            raise CorpusError(f"{self.path} cannot be read: {error.strerror or error}") from error
        return digest.hexdigest()


def open_corpus(path: str | os.PathLike[str], column: str = "text") -> Corpus:
    """Open a corpus; ``column`` is the column of texts in a Parquet file.

    Raises :class:`CorpusError` if the file does not exist or is of an unknown kind.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "corpus.txt"
    >>> _ = path.write_text("One document.\\n\\nAnother one.")
    >>> [document.text for document in open_corpus(path).documents()]
    ['One document.', 'Another one.']
    """
    path = paths.expand_user(os.fspath(path))
    if not path.exists():
        raise CorpusError(
            f"corpus {path} does not exist: give a text, .jsonl or .parquet file of documents"
        )
    if not path.is_file():
        raise CorpusError(f"{path} is a folder: give a text, .jsonl or .parquet file of documents")
    kind = corpus_kind(path)
    if kind is None:
        raise CorpusError(
            f"{path.name} ends in {path.suffix!r}: expected a .txt file (documents separated by "
            "blank lines), a .jsonl file or a .parquet file; convert or rename it"
        )
    return Corpus(path, kind, column)


def corpus_kind(path: Path) -> str | None:
    """Return ``text``, ``jsonl`` or ``parquet``, as the suffix says; None for any other file."""
    kind = _KINDS.get(inner_suffix(path))
    return None if kind == "parquet" and path.suffix.lower() in COMPRESSED else kind


def _text_documents(corpus: Corpus) -> Iterator[Document]:
    lines: list[str] = []
    length, number, start = 0, 0, 1
    try:
        with (
            OpenedFile(corpus.path) as raw,
            TextIOWrapper(open_buffered(raw), encoding="utf-8-sig") as file,
        ):
            while line := file.readline(_LONGEST_TEXT):
                number += 1
                if "\0" in line:
                    raise CorpusError(
                        f"{corpus.path} is not plain text (line {number} has a zero byte): give a "
                        "text, .jsonl or .parquet file of documents"
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
        with OpenedFile(corpus.path) as raw_file, open_buffered(raw_file) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    location = f"line {number}"
                    try:
                        raw = json.loads(line)
                    except (ValueError, RecursionError) as error:
                        raise CorpusError(
                            f"{location} of {corpus.path} is not JSON ({error}): every line of a "
                            'JSONL corpus is {"text": "…"} or {"tokens": [ids]}'
                        ) from error
                    if number > 1 or not _is_header(raw):
                        yield _json_document(corpus, location, raw_file.share, raw)
    except OSError as error:
        raise CorpusError(f"{corpus.path} cannot be read: {error}") from error


def _is_header(raw: Any) -> bool:
    return isinstance(raw, dict) and "tag_groups" in raw


def _tag_groups(path: Path) -> dict[str, str]:
    try:
        with OpenedFile(path) as raw_file, open_buffered(raw_file) as file:
            line = file.readline()
        raw = json.loads(line) if line.strip() else None
    except (OSError, ValueError, RecursionError):
        return {}  # reading the documents reports it, with its line
    if raw is None or not _is_header(raw):
        return {}
    groups = raw["tag_groups"]
    if not isinstance(groups, dict) or not all(
        isinstance(prefix, str) and _is_encodable(prefix) for prefix in groups.values()
    ):
        raise CorpusError(
            f'"tag_groups" in {path} is {groups!r}: expected an object of strings, the prefix of '
            "the labels of each group"
        )
    return groups


def _json_document(corpus: Corpus, location: str, share: float, raw: Any) -> Document:
    keys = ", ".join(sorted(raw)) or "nothing" if isinstance(raw, dict) else repr(raw)[:40]
    raw = raw if isinstance(raw, dict) else {}
    text, tokens = raw.get("text"), raw.get("tokens")
    if tokens is not None:
        if not isinstance(tokens, list) or any(type(token) is not int for token in tokens):
            raise CorpusError(
                f'"tokens" in {location} of {corpus.path} is not a list of token ids: give integers'
            )
        tokens = tuple(tokens)
    elif not isinstance(text, str):
        raise CorpusError(
            f"{location} of {corpus.path} has no text (it has {keys}): every line of a JSONL "
            'corpus is {"text": "…"} or {"tokens": [ids]}'
        )
    if tokens is not None:
        text = None
    elif not _is_encodable(text):
        raise CorpusError(
            f'"text" in {location} of {corpus.path} has half a character (a single \\ud800 to '
            "\\udfff), which no tokenizer can read: remove it"
        )
    tags = raw.get("tags")
    by_token = None if tags is None else _tags(corpus, location, tags)
    return Document(location, share, text, tokens, by_token, _source(raw))


def _source(raw: Mapping[str, Any]) -> str:
    """Return title and author in one line; a value that is not text is passed over."""
    names = (raw.get("title"), raw.get("author"))
    texts = (" ".join(name.split()) for name in names if isinstance(name, str))
    return ", ".join(text for text in texts if text and _is_encodable(text))


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _tags(corpus: Corpus, location: str, raw: Any) -> tuple[tuple[Tag, ...], ...]:
    try:
        return tuple(tuple(_tag(entry) for entry in of_token) for of_token in raw)
    except (TypeError, ValueError) as error:
        raise CorpusError(
            f'"tags" in {location} of {corpus.path} cannot be read: expected a list of labels for '
            'each token, each "label" or ["label", "group", "value"]'
        ) from error


def _tag(entry: Any) -> Tag:
    if isinstance(entry, str):
        return _checked_tag(entry)
    if not isinstance(entry, list):
        raise ValueError(entry)
    return _checked_tag(*entry)


@lru_cache(maxsize=2**16)
def _checked_tag(*parts: Any) -> Tag:
    """Return the tag of the parts; few different ones make up the tags of a corpus."""
    if len(parts) not in (1, 3) or not parts[0]:
        raise ValueError(parts)
    if not all(isinstance(part, str) and _is_encodable(part) for part in parts):
        raise ValueError(parts)
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
                    "name the column with the texts"
                )
            kind = file.schema_arrow.field(corpus.column).type
            if not _holds_strings(kind):
                raise CorpusError(
                    f"column {corpus.column!r} of {corpus.path} has type {kind}: expected strings"
                )
            total, row = max(file.metadata.num_rows, 1), 0
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=[corpus.column]):
                for text in batch.column(0).to_pylist():
                    row += 1
                    if text is not None:
                        yield Document(f"row {row}", row / total, text)
    except (OSError, UnicodeDecodeError, pyarrow.ArrowException) as error:
        raise CorpusError(
            f"{corpus.path} cannot be read as Parquet ({error}): fetch it again, or give text or "
            "JSONL"
        ) from error


def _holds_strings(kind: Any) -> bool:
    """Return whether an Arrow type is text, possibly dictionary-encoded."""
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


_READERS: Final[Mapping[str, Callable[[Corpus], Iterator[Document]]]] = {
    "text": _text_documents,
    "jsonl": _json_documents,
    "parquet": _parquet_documents,
}
