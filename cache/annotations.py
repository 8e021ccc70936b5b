"""What a person adds to a trace: pins, supernodes, and the scenarios that were run on it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from tracer.errors import InterventionError
from tracer.interventions.scenario import Scenario
from tracer.types import NodeId, Supernode


class BoxPosition(NamedTuple):
    """Where a person left a box of the flow diagram."""

    name: str
    x: float
    """Share of the diagram's width, 0..1."""
    y: float
    """Pixels from its upper edge."""


@dataclass(frozen=True)
class Annotations:
    """Pinned nodes, supernodes and where the diagram's boxes are. False if there are none.

    >>> pins = Annotations((NodeId("feature", 1, 7, 887),))
    >>> Annotations.from_json(pins.to_json()) == pins
    True
    """

    pinned: tuple[NodeId, ...] = ()
    supernodes: tuple[Supernode, ...] = ()
    positions: tuple[BoxPosition, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.pinned or self.supernodes)

    def to_json(self) -> str:
        """Return the annotations as JSON; empty where there are none.

        :meth:`from_json` is the inverse. Keys that hold nothing are left out, so links stay short.
        """
        if not self:
            return ""
        stored: dict[str, Any] = {
            "pinned": [str(node) for node in self.pinned],
            "supernodes": [[group.name, *map(str, group.nodes)] for group in self.supernodes],
        }
        colours = {group.name: group.colour for group in self.supernodes if group.colour}
        expanded = [group.name for group in self.supernodes if group.is_expanded]
        more = {"colours": colours, "expanded": expanded, "at": [list(p) for p in self.positions]}
        stored |= {key: value for key, value in more.items() if value}
        return json.dumps(stored, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what :meth:`to_json` wrote; raises ``ValueError`` on anything else.

        >>> annotations = Annotations((NodeId("lorsa error", 3, 8, -1),))
        >>> Annotations.from_json(annotations.to_json()) == annotations
        True
        """
        if not text:
            return cls()
        try:
            stored: Any = json.loads(text)
            colours, expanded = stored.get("colours", {}), stored.get("expanded", [])
            return cls(
                tuple(NodeId.parse(node) for node in stored["pinned"]),
                tuple(
                    Supernode(
                        str(name),
                        tuple(NodeId.parse(node) for node in nodes),
                        _colour(colours.get(name, "")),
                        name in expanded,
                    )
                    for name, *nodes in stored["supernodes"]
                ),
                tuple(
                    BoxPosition(str(name), float(x), float(y))
                    for name, x, y in stored.get("at", [])
                ),
            )
        except (AttributeError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"not annotations ({error!r}): {text[:80]}") from error


def _colour(text: object) -> str:
    """Return a colour that is safe in a page, ``#rrggbb``, else an empty text."""
    return text if isinstance(text, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", text) else ""


@dataclass(frozen=True)
class StoredRun:
    """A run of scenarios on a trace, from the trace's history."""

    scenarios: tuple[Scenario, ...]
    summary: str
    """The outcome in a few words."""
    ran: float
    """When, in seconds since 1970."""


def scenarios_to_json(scenarios: tuple[Scenario, ...]) -> str:
    """Return JSON for :func:`scenarios_from_json`."""
    stored = [scenario.to_dict() for scenario in scenarios]
    return json.dumps(stored, separators=(",", ":"), ensure_ascii=False)


def scenarios_from_json(text: str) -> tuple[Scenario, ...]:
    """Read what :func:`scenarios_to_json` wrote; raises ``ValueError`` on anything else."""
    try:
        return tuple(Scenario.from_dict(entry) for entry in json.loads(text))
    except (InterventionError, RecursionError, TypeError) as error:
        raise ValueError(f"not scenarios: {error}") from error
