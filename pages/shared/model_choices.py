"""Which models and transcoder sets a visitor can choose from, and how their names are shown."""

from __future__ import annotations

from typing import Final

from cache import ModelChoice
from tracer.catalog.embedded import EMBEDDED_SETS, embedded
from tracer.catalog.registry import ListedModel, ListedSet, registry
from tracer.errors import RegistryError

LONGEST: Final = 42


def models() -> tuple[tuple[ListedModel, ...], str]:
    """Return the models of the registry, and what is wrong with the user's own list."""
    try:
        return registry(), ""
    except RegistryError as error:
        return registry(own=False), str(error)


def listed_model(model: str) -> ListedModel | None:
    """Return the entry of a model, by its name or its repository."""
    return next((m for m in models()[0] if model in (m.name, m.reference)), None)


def listed_set(model: ListedModel, name: str) -> ListedSet | None:
    """Return the entry of a transcoder set, by its name or its repository."""
    return next((entry for entry in model.sets if name in (entry.name, entry.reference)), None)


def sets_of(choice: ModelChoice) -> tuple[str, ...]:
    """Return the transcoder sets of a choice's model, including the one in use."""
    if embedded(choice.model) is not None:
        return EMBEDDED_SETS
    entry = listed_model(choice.model)
    names = tuple(listed.name for listed in entry.sets) if entry is not None else ()
    return names if choice.transcoders in names else (*names, choice.transcoders)


def short(name: str) -> str:
    """Shorten a name to fit on a line; of a long path, the end says most."""
    return name if len(name) <= LONGEST else f"…{name[-LONGEST + 1 :]}"
