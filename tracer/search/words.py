"""The query language of the label search: words, phrases, exclusions and simple English stems.

Works on texts alone; :mod:`tracer.search.by_word` knows the labels. No torch here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Final

from tracer.errors import SearchError

_WORD: Final = re.compile(r"\w+")
_TERM: Final = re.compile(r'(-?)(?:"([^"]*)"?|([^\s"]+))')
_CURLY: Final = str.maketrans({"“": '"', "”": '"', "„": '"'})
_VOWEL: Final = re.compile(r"[aeiouy]")
_SIBILANT: Final = ("sses", "xes", "zes", "ches", "shes")
"""Plurals in -es whose singular ends before the e."""
_SINGULAR: Final = ("ss", "us", "is")
"""Words that end in -s and are not plurals."""


class Rank(IntEnum):
    """How well a label matches, best first."""

    COMPLETE = 0
    """The label is the query."""
    BEGINNING = 1
    """The label begins with the query."""
    WORDS = 2
    """Every word of the query is a word of the label."""
    PREFIX = 3
    """Some words of the query only begin a word of the label."""


@lru_cache(maxsize=2**16)
def stem(word: str) -> str:
    """Return a case-folded word without its English plural, -ing or -ed.

    The stem is a key to compare words by, not a word: singular and plural share it.

    >>> [stem(word) for word in ("city", "cities", "state", "states", "running", "run")]
    ['citi', 'citi', 'stat', 'stat', 'run', 'run']
    """
    word = _inflected(_plural(word))
    if len(word) > 2 and word.endswith("e"):
        word = word[:-1]
    if len(word) > 2 and word.endswith("y") and word[-2] not in "aeiou":
        word = word[:-1] + "i"
    return word


def _plural(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(_SIBILANT):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(_SINGULAR):
        return word[:-1]
    return word


def _inflected(word: str) -> str:
    for ending in ("ing", "ed"):
        base = word.removesuffix(ending)
        if base != word and len(base) > 1 and _VOWEL.search(base) and not word.endswith("eed"):
            double = len(base) > 3 and base[-1] == base[-2] and base[-1] not in "lsz"
            return base[:-1] if double else base
    return word


@dataclass(frozen=True)
class _Term:
    """One part of a query: a word, a quoted phrase, or signs that are not a word."""

    text: str
    words: tuple[str, ...]
    quoted: bool
    excluded: bool

    @property
    def key(self) -> str:
        """A text that every matching label contains, and that is quick to look for."""
        if not self.words:
            return self.text
        parts = self.words if self.quoted else [stem(word).removesuffix("i") for word in self.words]
        return max(parts, key=len)

    def rank(self, text: str, words: list[str], stems: list[str]) -> Rank | None:
        """Return :attr:`Rank.WORDS` or :attr:`Rank.PREFIX`; None when the label does not match."""
        if not self.words:
            return Rank.WORDS if self.text in text else None
        if self.quoted:
            n = len(self.words)
            runs = (tuple(words[start : start + n]) for start in range(len(words) - n + 1))
            return Rank.WORDS if self.words in runs else None
        rank = Rank.WORDS
        for word in self.words:
            if stem(word) in stems:
                continue
            if self.excluded or not any(other.startswith(word) for other in words):
                return None
            rank = Rank.PREFIX
        return rank


class Query:
    """A parsed label query.

    Words are joined by AND. ``-word`` excludes labels with that word, ``"two words"`` asks for
    them one after another and exactly as written, and a word also finds its plural, -ing and -ed
    forms and the words that it begins. Signs such as ``+`` are looked for as they are.

    Raises :class:`SearchError` when the query is empty.

    >>> query = Query('states -"New York"')
    >>> query.rank("about the state"), query.rank("about the states / New York")
    (<Rank.WORDS: 2>, None)
    """

    def __init__(self, text: str) -> None:
        folded = _plain(text)
        terms = [_term(match) for match in _TERM.finditer(folded)]
        self._terms = [term for term in terms if term is not None]
        if not self._terms:
            raise SearchError("the query is empty: write a word that the labels contain")
        included = [term for term in self._terms if not term.excluded]
        self._stems = [stem(word) for term in included for word in term.words]
        self._text = " ".join(term.text for term in included)
        self._keys = [term.key for term in included]

    def rank(self, label: str) -> Rank | None:
        """Return how well ``label`` matches; None when it does not."""
        folded = label.casefold()
        for key in self._keys:
            if key not in folded:
                return None
        text = folded.translate(_CURLY)
        words = _WORD.findall(text)
        stems = [stem(word) for word in words]
        rank = Rank.WORDS
        for term in self._terms:
            match = term.rank(text, words, stems)
            if term.excluded:
                if match is not None:
                    return None
            elif match is None:
                return None
            else:
                rank = max(rank, match)
        return min(rank, self._order(text, stems)) if self._text else rank

    def _order(self, text: str, stems: list[str]) -> Rank:
        """Return how well a label follows the query from its beginning."""
        unquoted = text.replace('"', "").strip()
        if unquoted == self._text or (stems and stems == self._stems):
            return Rank.COMPLETE
        begins = bool(self._stems) and stems[: len(self._stems)] == self._stems
        return Rank.BEGINNING if begins or unquoted.startswith(self._text) else Rank.PREFIX


def _plain(text: str) -> str:
    return text.translate(_CURLY).casefold()


def _term(match: re.Match[str]) -> _Term | None:
    quoted = match[2] is not None
    text = (match[2] if quoted else match[3]).strip()
    if not text:
        return None
    return _Term(text, tuple(_WORD.findall(text)), quoted, excluded=bool(match[1]))
