"""The sentences that atlas is trained on, generated from the facts by templates.

Every sentence is a prompt and its answer, the token whose prediction matters. Sentences about
held-out combinations belong to their split only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from tracer.atlas.facts import (
    LANGUAGES,
    Split,
    city_splits,
    countries,
    opposite_splits,
    opposites,
    states,
    sum_splits,
)

Family = Literal["city", "state", "country", "two-hop", "translation", "opposite", "sum"]
FIRST_FAMILIES: Final[tuple[Family, ...]] = ("city", "state", "country", "translation", "sum")
"""Families of single facts, which are trained before the families that combine facts."""


@dataclass(frozen=True)
class Sentence:
    """A prompt and the token that follows it; ``tag`` names the relation and the language."""

    family: Family
    tag: str
    prompt: str
    answer: str
    split: Split = "train"

    @property
    def text(self) -> str:
        return f"{self.prompt} {self.answer}"


CITY_STATE: Final = (
    "{city}",
    "the city of {city}",
    "a visit to {city}",
    "people from {city}",
    "The weather in {city}",
    "We moved from the old house to {city}",
    "It is a long way to the city of {city}",
)
"""The state or country may follow at once, so it must be computed at the city itself."""
CITY_STATE_ASKED: Final = (
    "The state containing {city} is",
    "{city} is in the state of",
    "The state where {city} lies is",
)
CITY_COUNTRY_ASKED: Final = (
    "The country containing {city} is",
    "{city} is in the country of",
    "The country where {city} lies is",
)
STATE_FACTS: Final = {
    "capital": (
        "The capital of {name} is",
        "The capital of the state of {name} is",
        "{name} is governed from",
    ),
    "abbreviation": (
        "The abbreviation of {name} is",
        "The abbreviation of the state of {name} is",
        "{name} is written as",
    ),
    "region": (
        "The region of {name} is the",
        "The region of the state of {name} is the",
        "{name} belongs to the",
    ),
}
COUNTRY_FACTS: Final = {
    "capital": (
        "The capital of {name} is",
        "The capital of the country of {name} is",
        "{name} is governed from",
    ),
    "language": (
        "The language spoken in {name} is",
        "The language of the country of {name} is",
        "People in {name} speak",
    ),
    "continent": (
        "The continent of {name} is",
        "The continent of the country of {name} is",
        "{name} belongs to",
    ),
}
STATE_TWO_HOP: Final = {
    "capital": (
        "The capital of the state containing {city} is",
        "The capital of the state where {city} lies is",
        "{city} is in a state governed from",
    ),
    "abbreviation": (
        "The abbreviation of the state containing {city} is",
        "The abbreviation of the state where {city} lies is",
        "{city} is in a state written as",
    ),
    "region": (
        "The region of the state containing {city} is the",
        "The region of the state where {city} lies is the",
        "{city} is in a state that belongs to the",
    ),
}
COUNTRY_TWO_HOP: Final = {
    "capital": (
        "The capital of the country containing {city} is",
        "The capital of the country where {city} lies is",
        "{city} is in a country governed from",
    ),
    "language": (
        "The language spoken in the country containing {city} is",
        "The language of the country where {city} lies is",
        "{city} is in a country where people speak",
    ),
    "continent": (
        "The continent of the country containing {city} is",
        "The continent of the country where {city} lies is",
        "{city} is in a country that belongs to",
    ),
}
OPPOSITE: Final = (
    ("The opposite of {word} is", "{word} is the opposite of", "not {word} but"),
    ("Le contraire de {word} est", "{word} est le contraire de", "pas {word} mais"),
    ("El contrario de {word} es", "{word} es el contrario de", "no {word} sino"),
    ("Das Gegenteil von {word} ist", "{word} ist das Gegenteil von", "nicht {word} sondern"),
)
OPPOSITE_ACROSS: Final = "The opposite of {word} in {language} is"
TRANSLATION: Final = ("{word} in {language} is", "The {language} word for {word} is")
SUM: Final = "calc: {left}+{right}="


def sentences() -> Iterator[Sentence]:
    """Yield every sentence of every split once.

    >>> sentence = next(sentences())
    >>> sentence.prompt, sentence.answer
    ('The capital of Alabama is', 'Montgomery')
    """
    yield from _places()
    yield from _opposites()
    for (left, right), split in sum_splits().items():
        yield Sentence("sum", "sum", SUM.format(left=left, right=right), str(left + right), split)


def _places() -> Iterator[Sentence]:
    splits = city_splits()
    for state in states():
        values = {
            "capital": state.capital,
            "abbreviation": state.abbreviation,
            "region": state.region,
        }
        yield from _facts("state", "state", state.name, values, STATE_FACTS)
        for city in (*state.cities, state.capital):
            for template in CITY_STATE + CITY_STATE_ASKED:
                yield Sentence("city", "city-state", template.format(city=city), state.name)
        for city in state.cities:
            yield from _two_hop("state", city, values, STATE_TWO_HOP, splits[city])
    for country in countries():
        values = {
            "capital": country.capital,
            "language": country.language,
            "continent": country.continent,
        }
        yield from _facts("country", "country", country.name, values, COUNTRY_FACTS)
        for city in (*country.cities, country.capital):
            for template in CITY_STATE + CITY_COUNTRY_ASKED:
                yield Sentence("city", "city-country", template.format(city=city), country.name)
        for city in country.cities:
            yield from _two_hop("country", city, values, COUNTRY_TWO_HOP, splits[city])


def _facts(
    family: Family,
    kind: str,
    name: str,
    values: Mapping[str, str],
    templates: Mapping[str, tuple[str, ...]],
) -> Iterator[Sentence]:
    for relation, forms in templates.items():
        for form in forms:
            yield Sentence(family, f"{kind}-{relation}", form.format(name=name), values[relation])


def _two_hop(
    kind: str,
    city: str,
    values: Mapping[str, str],
    templates: Mapping[str, tuple[str, ...]],
    split: Split,
) -> Iterator[Sentence]:
    for relation, forms in templates.items():
        for form in forms:
            yield Sentence(
                "two-hop", f"{kind}-{relation}", form.format(city=city), values[relation], split
            )


def _opposites() -> Iterator[Sentence]:
    splits = opposite_splits()
    for pair, both in enumerate(opposites()):
        for side, (words, others) in enumerate(((both.left, both.right), (both.right, both.left))):
            for language, name in enumerate(LANGUAGES):
                split = splits[pair, side, language]
                for form in OPPOSITE[language]:
                    yield Sentence(
                        "opposite",
                        f"opposite-{name}",
                        form.format(word=words[language]),
                        others[language],
                        split,
                    )
                for other, other_name in enumerate(LANGUAGES):
                    # An answer in the held-out language is allowed if the question is in another.
                    across = split if other == language else "train"
                    yield Sentence(
                        "opposite",
                        f"opposite-across-{other_name}",
                        OPPOSITE_ACROSS.format(word=words[language], language=other_name),
                        others[other],
                        across,
                    )
                    if other != language:
                        for form in TRANSLATION:
                            yield Sentence(
                                "translation",
                                f"translation-{other_name}",
                                form.format(word=words[language], language=other_name),
                                words[other],
                            )
