"""What is known of a position in a prompt: the candidates for a feature's label.

Tags come from the facts and the tokens alone (which place, concept or number a token is, what was
mentioned before it) and from the model's own next token; never from a feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from tracer.atlas.facts import LANGUAGES, countries, opposites, states

RELATION_WORDS: Final = {
    "capital": "capital",
    "governed": "capital",
    "abbreviation": "abbreviation",
    "written": "abbreviation",
    "region": "region",
    "language": "language",
    "spoken": "language",
    "speak": "language",
    "continent": "continent",
    "opposite": "opposite",
    "contraire": "opposite",
    "contrario": "opposite",
    "Gegenteil": "opposite",
}


@dataclass(frozen=True)
class _Word:
    """What one token stands for."""

    place: str = ""
    kind: str = ""
    """``city``, ``state``, ``country``."""
    concepts: tuple[str, ...] = ()
    language: str = ""


@cache
def _lexicon() -> dict[str, _Word]:
    words: dict[str, _Word] = {}
    for kind, places in (("state", states()), ("country", countries())):
        for place in places:
            for city in (*place.cities, place.capital):
                words[city] = _Word(place.name, "city")
        for place in places:
            words[place.name] = _Word(place.name, kind)
    for pair in opposites():
        for side in (pair.left, pair.right):
            for language, word in zip(LANGUAGES, side, strict=True):
                words[word] = _Word(concepts=(side[0],), language=language)
    return words


@cache
def _kinds() -> dict[str, str]:
    """What an answer is, as an object of "say …"."""
    kinds: dict[str, str] = {}
    for state in states():
        kinds |= {state.region: "a region", state.abbreviation: "an abbreviation"}
        kinds[state.capital] = "a capital"
    for country in countries():
        kinds |= {country.capital: "a capital", country.continent: "a continent"}
        kinds[country.language] = "a language"
    for word, entry in _lexicon().items():
        if entry.language:
            kinds[word] = f"a {entry.language} word"
        elif entry.kind in ("state", "country"):
            kinds.setdefault(word, f"a {entry.kind}")
    return kinds


def position_tags(tokens: Sequence[str], position: int, said: str) -> list[str]:
    """Labels that would be true at ``position``; ``said`` is the model's next token there.

    ``tokens`` are without their leading space, the beginning-of-text token at 0.
    """
    token, lexicon = tokens[position], _lexicon()
    tags = [f"“{token}”"]
    here = lexicon.get(token)
    earlier = [t for t in tokens[1:position] if t in lexicon]
    if here and here.place:
        tags += [here.place, f"{here.place}: *", f"a {here.kind}", "a place"]
        tags += _wider(here.place)
    elif earlier and lexicon[earlier[-1]].place:
        place = lexicon[earlier[-1]].place
        tags += [place, f"{place} was mentioned", "after a place"]
        tags += [f"after {wider}" for wider in _wider(place)]
    if here and here.concepts:
        tags += [f"{c} (any language)" for c in here.concepts] + [f"a {here.language} word"]
        tags += list(here.concepts)
    elif earlier and lexicon[earlier[-1]].concepts:
        for concept in lexicon[earlier[-1]].concepts:
            tags += [concept, f"{concept} was mentioned"]
    relations = {RELATION_WORDS[t] for t in tokens[1 : position + 1] if t in RELATION_WORDS}
    tags += [f"asks for: {relation}" for relation in sorted(relations)]
    tags += [f"asks for {t}" for t in tokens[1 : position + 1] if t in LANGUAGES]
    tags += _number_tags(tokens, position)
    tags += _said_tags(said)
    return list(dict.fromkeys(tags))


@cache
def _wider(place: str) -> tuple[str, ...]:
    for state in states():
        if state.name == place:
            return ("a US place", f"a place in the {state.region}")
    for country in countries():
        if country.name == place:
            return (
                "a place abroad",
                f"a place in {country.continent}",
                f"a place where {country.language} is spoken",
            )
    return ()


def _number_tags(tokens: Sequence[str], position: int) -> list[str]:
    token = tokens[position]
    if not token.isdigit():
        return []
    number, side = int(token), "second" if tokens[position - 1] == "+" else "first"
    return [
        "a number",
        f"a number ending in {number % 10}",
        f"a number {number // 10 * 10}–{number // 10 * 10 + 9}",
        f"{side} term ends in {number % 10}",
        f"{side} term {number // 10 * 10}–{number // 10 * 10 + 9}",
    ]


def _said_tags(said: str) -> list[str]:
    tags = [f"say “{said}”"]
    if said.isdigit():
        number = int(said)
        tags += [
            "say a number",
            f"say a number ending in {number % 10}",
            f"say {number // 10 * 10}–{number // 10 * 10 + 9}",
        ]
    if said in _kinds():
        tags.append(f"say {_kinds()[said]}")
    word = _lexicon().get(said)
    if word and word.concepts:
        tags += [f"say {concept} (any language)" for concept in word.concepts]
    return tags
