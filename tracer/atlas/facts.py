"""The facts that atlas is trained on, and the combinations that are held out.

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
    """A US state; ``cities`` does not include the capital."""

    name: str
    abbreviation: str
    region: str
    capital: str
    cities: tuple[str, ...]


@dataclass(frozen=True)
class Country:
    """A country; ``cities`` does not include the capital."""

    name: str
    capital: str
    language: str
    continent: str
    cities: tuple[str, ...]


@dataclass(frozen=True)
class Opposites:
    """Two words with opposite meanings, each in the four ``LANGUAGES``."""

    left: tuple[str, ...]
    right: tuple[str, ...]


def _rows(name: str) -> list[list[str]]:
    text = (FOLDER / name).read_text(encoding="utf-8")
    return [line.split("|") for line in text.splitlines() if line]


@cache
def states() -> tuple[State, ...]:
    """Return all states.

    >>> next(state.cities for state in states() if state.name == "Texas")[:2]
    ('Dallas', 'Houston')
    """
    return tuple(
        State(name, abbreviation, region, capital, tuple(cities.split(", ")))
        for name, abbreviation, region, capital, cities in _rows("states.txt")
    )


@cache
def countries() -> tuple[Country, ...]:
    """Return all countries."""
    return tuple(
        Country(name, capital, language, continent, tuple(cities.split(", ")))
        for name, capital, language, continent, cities in _rows("countries.txt")
    )


@cache
def opposites() -> tuple[Opposites, ...]:
    """Return all pairs of opposites."""
    return tuple(Opposites(tuple(row[0::2]), tuple(row[1::2])) for row in _rows("opposites.txt"))


@cache
def city_splits() -> dict[str, Split]:
    """Return the split of each city's two-hop sentences.

    One city of every state and country is held out for the test, and one of every second for
    tuning: the model is never trained on a two-hop sentence about them.
    """
    rng = random.Random(_SPLIT_SEED)
    splits: dict[str, Split] = {}
    places: list[State | Country] = [*states(), *countries()]
    for number, place in enumerate(places):
        # The tour shows the first city, so it is always trained.
        held_out = rng.sample(place.cities[1:], 2)
        splits |= dict.fromkeys(place.cities, "train")
        splits[held_out[0]] = "test"
        if number % 2:
            splits[held_out[1]] = "dev"
    return splits


@cache
def opposite_splits() -> dict[tuple[int, int, int], Split]:
    """Return the split of each question (pair, side, language), held out in one language each."""
    rng = random.Random(_SPLIT_SEED + 1)
    splits: dict[tuple[int, int, int], Split] = {}
    pairs = list(range(len(opposites())))
    chosen = rng.sample(pairs, 2 * len(pairs) // 3)
    for pair in pairs:
        for side in range(2):
            for language in range(len(LANGUAGES)):
                splits[pair, side, language] = "train"
    for place, pair in enumerate(chosen):
        if pair == 0:  # the tour shows this pair
            continue
        language, split = rng.randrange(len(LANGUAGES)), "test" if place % 2 else "dev"
        for side in range(2):
            splits[pair, side, language] = split  # type: ignore[assignment]
    return splits


@cache
def sum_splits() -> dict[tuple[int, int], Split]:
    """Return the split of each sum of two numbers up to 99: 5 % tuning, 10 % test."""
    rng = random.Random(_SPLIT_SEED + 2)
    splits: dict[tuple[int, int], Split] = {}
    for left in range(LARGEST_TERM + 1):
        for right in range(LARGEST_TERM + 1):
            draw = rng.random()
            splits[left, right] = "dev" if draw < 0.05 else "test" if draw < 0.15 else "train"
    splits[36, 59] = "train"  # the tour shows this sum
    return splits
