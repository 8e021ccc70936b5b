"""The written facts that atlas knows, and which of their combinations it never sees.

`facts/*.txt` are the only source: one line per state, country or pair of opposites.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Literal

FOLDER: Final = Path(__file__).parent / "facts"
LANGUAGES: Final = ("English", "French", "Spanish", "German")
LARGEST_TERM: Final = 99
Split = Literal["train", "dev", "test"]
_SPLIT_SEED: Final = 20_240


@dataclass(frozen=True)
class State:
    """A US state; ``cities`` leaves its capital out."""

    name: str
    abbreviation: str
    region: str
    capital: str
    cities: tuple[str, ...]


@dataclass(frozen=True)
class Country:
    """A country; ``cities`` leaves its capital out."""

    name: str
    capital: str
    language: str
    continent: str
    cities: tuple[str, ...]


@dataclass(frozen=True)
class Opposites:
    """Two words that mean opposite things, each in the four ``LANGUAGES``."""

    left: tuple[str, ...]
    right: tuple[str, ...]


def _rows(name: str) -> list[list[str]]:
    text = (FOLDER / name).read_text(encoding="utf-8")
    return [line.split("|") for line in text.splitlines() if line]


@cache
def states() -> tuple[State, ...]:
    return tuple(
        State(name, abbreviation, region, capital, tuple(cities.split(", ")))
        for name, abbreviation, region, capital, cities in _rows("states.txt")
    )


@cache
def countries() -> tuple[Country, ...]:
    return tuple(
        Country(name, capital, language, continent, tuple(cities.split(", ")))
        for name, capital, language, continent, cities in _rows("countries.txt")
    )


@cache
def opposites() -> tuple[Opposites, ...]:
    return tuple(Opposites(tuple(row[0::2]), tuple(row[1::2])) for row in _rows("opposites.txt"))


@cache
def city_splits() -> dict[str, Split]:
    """Which split a city's two-hop sentences belong to.

    One city of every state and country is kept for the test and one of every second for tuning:
    no two-hop sentence about them is ever trained on.
    """
    rng = random.Random(_SPLIT_SEED)
    splits: dict[str, Split] = {}
    places: list[State | Country] = [*states(), *countries()]
    for number, place in enumerate(places):
        # The first city is the one the tour shows; it is trained like any other.
        kept = rng.sample(place.cities[1:], 2)
        splits |= dict.fromkeys(place.cities, "train")
        splits[kept[0]] = "test"
        if number % 2:
            splits[kept[1]] = "dev"
    return splits


@cache
def opposite_splits() -> dict[tuple[int, int, int], Split]:
    """Split of every question (pair, side, language): opposites held out in one language."""
    rng = random.Random(_SPLIT_SEED + 1)
    splits: dict[tuple[int, int, int], Split] = {}
    pairs = list(range(len(opposites())))
    chosen = rng.sample(pairs, 2 * len(pairs) // 3)
    for pair in pairs:
        for side in range(2):
            for language in range(len(LANGUAGES)):
                splits[pair, side, language] = "train"
    for place, pair in enumerate(chosen):
        if pair == 0:  # the tour's own pair
            continue
        language, split = rng.randrange(len(LANGUAGES)), "test" if place % 2 else "dev"
        for side in range(2):
            splits[pair, side, language] = split  # type: ignore[assignment]
    return splits


@cache
def sum_splits() -> dict[tuple[int, int], Split]:
    """Split of every sum of two numbers up to 99: 5 % tuning, 10 % test."""
    rng = random.Random(_SPLIT_SEED + 2)
    splits: dict[tuple[int, int], Split] = {}
    for left in range(LARGEST_TERM + 1):
        for right in range(LARGEST_TERM + 1):
            draw = rng.random()
            splits[left, right] = "dev" if draw < 0.05 else "test" if draw < 0.15 else "train"
    splits[36, 59] = "train"  # the tour's own sum
    return splits
