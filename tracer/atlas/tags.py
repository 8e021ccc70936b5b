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
from tracer.indexing.corpus import Tag

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
    concept: str = ""
    """Its English word."""
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
                words[word] = _Word(concept=side[0], language=language)
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


GROUPS: Final = {"place": "", "about": "about ", "say": "say ", "token": ""}
"""What a label begins with that joins several tags of one group; the first group is asked first."""


def position_tags(tokens: Sequence[str], position: int, said: str) -> list[Tag]:
    """What is true at ``position``; ``said`` is the model's next token there.

    ``tokens`` are without their leading space, the beginning-of-text token at 0.
    """
    token, lexicon = tokens[position], _lexicon()
    here = lexicon.get(token)
    subject = here or next((lexicon[t] for t in reversed(tokens[1:position]) if t in lexicon), None)
    named = here is not None or token.isdigit()
    tags = [Tag(token, "token", token) if named else Tag(f"“{token}”")]
    if subject is not None and subject.place:
        place = subject.place
        tags.append(Tag(f"about {place}", "about", place))
        if here:
            tags += [Tag(f"{place}: *", "place", place), Tag(f"a {here.kind}"), Tag("a place")]
            tags += [Tag(wider) for wider in _wider(place)]
        else:
            tags += [Tag(f"after {place}"), Tag("after a place")]
            tags += [Tag(f"after {wider}") for wider in _wider(place)]
    elif subject is not None:
        tags.append(Tag(f"about {subject.concept}", "about", subject.concept))
        when = "" if here else "after "
        tags.append(Tag(f"{when}{subject.concept} (any language)"))
        tags.append(Tag(f"{when}a {subject.language} word"))
    passed = tokens[1 : position + 1]
    relations = {RELATION_WORDS[t] for t in passed if t in RELATION_WORDS}
    tags += [Tag(f"asks for: {relation}") for relation in sorted(relations)]
    tags += [Tag(f"asks for {t}") for t in passed if t in LANGUAGES]
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


def _tens(number: int) -> str:
    return f"{number // 10 * 10}–{number // 10 * 10 + 9}"


def _number_tags(tokens: Sequence[str], position: int) -> list[Tag]:
    token = tokens[position]
    if not token.isdigit():
        return []
    number, side = int(token), "second" if tokens[position - 1] == "+" else "first"
    return [
        Tag("a number"),
        Tag(f"a number ending in {number % 10}"),
        Tag(f"a number {_tens(number)}"),
        Tag(f"{side} term ends in {number % 10}"),
        Tag(f"{side} term {_tens(number)}"),
    ]


def _said_tags(said: str) -> list[Tag]:
    if said.isdigit():
        number = int(said)
        return [
            Tag(f"say {said}", "say", said),
            Tag("say a number"),
            Tag(f"say a number ending in {number % 10}"),
            Tag(f"say {_tens(number)}"),
        ]
    if said not in _kinds():
        return [Tag(f"before “{said}”")]  # a word of the question's own, not an answer
    tags = [Tag(f"say {said}", "say", said), Tag(f"say {_kinds()[said]}")]
    word = _lexicon().get(said)
    if word is not None and word.concept:
        tags.append(Tag(f"say {word.concept} (any language)"))
    return tags
