"""The results of all searches, and the checks that they share. No torch here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal, get_args

from tracer.errors import SearchError
from tracer.features.cards import Example, Label
from tracer.types import FeatureId

NeighbourKind = Literal["same-decoder", "same-encoder", "opposite", "upstream", "downstream"]
"""How :func:`tracer.neighbours` relates features."""
KINDS: Final[tuple[NeighbourKind, ...]] = get_args(NeighbourKind)

_FEATURE: Final = re.compile(r"L?(\d+)/(\d+)", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class PeakDetail:
    """How often the top examples of a feature peak on a word."""

    word: str
    n_peaks: int
    """Top examples whose strongest token is the word."""
    n_examples: int
    activation: float
    """The largest activation on the word in those examples."""


@dataclass(frozen=True)
class TextDetail:
    """The activations of a feature on the text that was searched with."""

    example: Example
    """The tokens of the text, the beginning-of-text token first, and the activation on each."""
    position: int
    """Where it fires most, or the position that was asked for."""
    share_of_max: float | None
    """The activation there, divided by the feature's largest on its index's corpus."""

    @property
    def token(self) -> str:
        """The token at ``position``."""
        return self.example.tokens[self.position]


MatchDetail = Label | PeakDetail | TextDetail


@dataclass(frozen=True)
class FeatureMatch:
    """A feature that a search found.

    >>> FeatureMatch(FeatureId(3, 417), value=0.8, z=6.1).feature
    FeatureId(layer=3, index=417)
    """

    feature: FeatureId
    value: float
    """The quantity that the search measured, which its docstring defines."""
    z: float | None = None
    """``(value - mean) / standard deviation`` over all partners in the feature's layer. None where
    the search does not compare partners, or all of them have the same value."""
    detail: MatchDetail | None = None


def parse_feature(text: str) -> FeatureId | None:
    """Return the feature that ``text`` names as ``L3/417`` or ``3/417``; None for other texts.

    >>> parse_feature("L3/417"), parse_feature("Dallas")
    (FeatureId(layer=3, index=417), None)
    """
    match = _FEATURE.fullmatch(text.strip())
    return None if match is None else FeatureId(int(match[1]), int(match[2]))


def check_limit(limit: int) -> None:
    """Raise :class:`SearchError` unless at least one result may be returned."""
    if limit < 1:
        raise SearchError(f"limit is {limit}: expected at least 1")
