"""Tags: what is true at a position of a prompt, as candidates for the labels of features.

Tags come only from the facts, the tokens (which place, concept or number a token is, what was
mentioned before it) and the model's predicted next token, never from a feature.
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
    """What a token means."""

    place: str = ""
    kind: str = ""
    """``city``, ``state``, ``country``."""
    concept: str = ""
    """The English word for it."""
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
    """Return what each answer is, as the object of "say …"."""
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
"""Group -> beginning of a label that joins several of its tags. Groups are tried in this order."""


def position_tags(tokens: Sequence[str], position: int, predicted: str) -> list[Tag]:
    """Return the tags that are true at ``position``; ``predicted`` is the model's next token.

    ``tokens`` have no leading space; the beginning-of-text token is at 0.

    >>> tokens = ["<bos>", "The", "state", "containing", "Dallas", "is"]
    >>> [tag.label for tag in position_tags(tokens, 4, "is")][:3]
    ['Dallas', 'about Texas', 'Texas: *']
    """
    token, lexicon = tokens[position], _lexicon()
    word = lexicon.get(token)
    subject = word or next((lexicon[t] for t in reversed(tokens[1:position]) if t in lexicon), None)
    named = word is not None or token.isdigit()
    tags = [Tag(token, "token", token) if named else Tag(f"“{token}”")]
    if subject is not None and subject.place:
        place = subject.place
        tags.append(Tag(f"about {place}", "about", place))
        if word:
            tags += [Tag(f"{place}: *", "place", place), Tag(f"a {word.kind}"), Tag("a place")]
            tags += [Tag(wider) for wider in _wider(place)]
        else:
            tags += [Tag(f"after {place}"), Tag("after a place")]
            tags += [Tag(f"after {wider}") for wider in _wider(place)]
    elif subject is not None:
        tags.append(Tag(f"about {subject.concept}", "about", subject.concept))
        when = "" if word else "after "
        tags.append(Tag(f"{when}{subject.concept} (any language)"))
        tags.append(Tag(f"{when}a {subject.language} word"))
    passed = tokens[1 : position + 1]
    relations = {RELATION_WORDS[t] for t in passed if t in RELATION_WORDS}
    tags += [Tag(f"asks for: {relation}") for relation in sorted(relations)]
    tags += [Tag(f"asks for {t}") for t in passed if t in LANGUAGES]
    tags += _number_tags(tokens, position)
    tags += _predicted_tags(predicted)
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


def _predicted_tags(predicted: str) -> list[Tag]:
    if predicted.isdigit():
        number = int(predicted)
        return [
            Tag(f"say {predicted}", "say", predicted),
            Tag("say a number"),
            Tag(f"say a number ending in {number % 10}"),
            Tag(f"say {_tens(number)}"),
        ]
    if predicted not in _kinds():
        return [Tag(f"before “{predicted}”")]  # the next word of the question, not an answer
    tags = [Tag(f"say {predicted}", "say", predicted), Tag(f"say {_kinds()[predicted]}")]
    word = _lexicon().get(predicted)
    if word is not None and word.concept:
        tags.append(Tag(f"say {word.concept} (any language)"))
    return tags
