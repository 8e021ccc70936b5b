"""A corpus of one file or of a folder of files."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from tracer import paths
from tracer.errors import CorpusError
from tracer.indexing.corpus import Corpus, corpus_kind, open_corpus


@dataclass(frozen=True)
class Texts:
    """The files of a corpus, in the order they are read."""

    path: Path
    files: tuple[Corpus, ...]

    def digest(self) -> str:
        """Return a hex digest of the content of all files."""
        joined = hashlib.sha256()
        for file in self.files:
            joined.update(file.digest().encode())
        return joined.hexdigest()


def open_texts(path: str | os.PathLike[str], column: str = "text") -> Texts:
    """Find a corpus: a file, or a folder whose files (at any depth) are read in order of name.

    Files are text, JSONL or Parquet, as :mod:`tracer.indexing.corpus` reads them; text and JSONL
    can be compressed (``.xz``, ``.gz``). Other files in a folder are ignored.

    Raises :class:`CorpusError` if there is no file to read.
    """
    folder = paths.expand_user(os.fspath(path))
    if not folder.is_dir():
        return Texts(folder, (open_corpus(folder, column),))
    files = sorted(
        file
        for file in folder.rglob("*")
        if file.is_file() and file.suffix and corpus_kind(file) is not None
    )
    if not files:
        raise CorpusError(
            f"{folder} has no text, .jsonl or .parquet file: give a corpus file or a folder of them"
        )
    return Texts(folder, tuple(open_corpus(file, column) for file in files))
