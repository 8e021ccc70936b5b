"""Where the feature examples of a published transcoder set are. Data only, no network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from tracer.catalog.registry import SHORT_NAMES, ListedSet, registry

Numbering = Literal["paired", "layered", "plain"]
"""How a feature's number is made of its layer and index; see :meth:`Published.number`."""

_LAYER_BASE: Final = 100_000


@dataclass(frozen=True)
class Published:
    """The places where the features of one transcoder set are explained; at least one is given."""

    neuronpedia: tuple[str, str] | None = None
    """The model and source set on Neuronpedia."""
    hub: str | None = None
    """The repository of the set, which may have ``features/``, as a reference to the hub."""
    address: str | None = None
    """An address of JSON files, one for each feature: ``{address}/{number}.json``."""
    numbering: Numbering = "paired"
    """How the names of those files are made."""

    def __bool__(self) -> bool:
        return bool(self.neuronpedia or self.hub or self.address)


def feature_number(numbering: Numbering, layer: int, index: int) -> int:
    """Return the one number that a published graph gives a feature.

    >>> [feature_number(numbering, 3, 417) for numbering in ("paired", "layered", "plain")]
    [88827, 300417, 417]
    """
    if numbering == "paired":
        return (layer + index) * (layer + index + 1) // 2 + index
    return layer * _LAYER_BASE + index if numbering == "layered" else index


def listed_set(reference: str) -> tuple[str, ListedSet] | None:
    """Return the published set of a repository or short name, and the name of its model.

    >>> listed_set("mntss/clt-gemma-2-2b-2.5M")[1].neuronpedia
    ('gemma-2-2b', 'clt-hp')
    >>> listed_set("gemma")[0]
    'gemma-2-2b'
    """
    wanted = SHORT_NAMES.get(reference, reference).partition("@")[0]
    return next(((name, entry) for name, entry in _sets() if entry.reference == wanted), None)


def _sets() -> Iterator[tuple[str, ListedSet]]:
    for model in registry(own=False):
        for entry in model.sets:
            yield model.name, entry
