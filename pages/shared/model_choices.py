"""Which models and transcoder sets a visitor can choose between, and what they are called."""

from __future__ import annotations

from typing import Final

from cache import ModelChoice
from tracer.catalog.registry import ListedModel, ListedSet, registry
from tracer.catalog.resolve import ATLAS, ATLAS_TRANSCODERS
from tracer.errors import RegistryError

LONGEST: Final = 42


def models() -> tuple[tuple[ListedModel, ...], str]:
    """What can be opened by name beside atlas, and what is wrong with the visitor's own list."""
    try:
        return registry(), ""
    except RegistryError as error:
        return registry(own=False), str(error)


def found(model: str) -> ListedModel | None:
    """The entry of a model, by its name or its repository."""
    return next((m for m in models()[0] if model in (m.name, m.reference)), None)


def found_set(model: ListedModel, name: str) -> ListedSet | None:
    """The entry of a set, by its name or its repository."""
    return next((entry for entry in model.sets if name in (entry.name, entry.reference)), None)


def sets_of(choice: ModelChoice) -> tuple[str, ...]:
    """The sets that could be used with the model of a choice, the one in use among them."""
    if choice.model == ATLAS:
        return ATLAS_TRANSCODERS
    entry = found(choice.model)
    names = tuple(listed.name for listed in entry.sets) if entry is not None else ()
    return names if choice.transcoders in names else (*names, choice.transcoders)


def short(name: str) -> str:
    """A name that fits into a line: the end of a long path says most."""
    return name if len(name) <= LONGEST else f"…{name[-LONGEST + 1 :]}"
