"""What a person adds to a trace: pins, supernodes, and the scenarios that were run on it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Self

from tracer.errors import InterventionError
from tracer.interventions.scenario import Scenario
from tracer.types import NodeId, Supernode


@dataclass(frozen=True)
class Annotations:
    """Pinned nodes and supernodes of one trace."""

    pinned: tuple[NodeId, ...] = ()
    supernodes: tuple[Supernode, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.pinned or self.supernodes)

    def to_json(self) -> str:
        """Return the annotations as JSON, empty without any; :meth:`from_json` is the inverse."""
        if not self:
            return ""
        groups = [[group.name, *map(str, group.nodes)] for group in self.supernodes]
        stored = {"pinned": list(map(str, self.pinned)), "supernodes": groups}
        return json.dumps(stored, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what :meth:`to_json` wrote; raises ``ValueError`` for anything else.

        >>> marks = Annotations((NodeId("lorsa error", 3, 8, -1),))
        >>> Annotations.from_json(marks.to_json()) == marks
        True
        """
        if not text:
            return cls()
        stored: Any = json.loads(text)
        try:
            return cls(
                tuple(NodeId.parse(node) for node in stored["pinned"]),
                tuple(
                    Supernode(str(name), tuple(NodeId.parse(node) for node in nodes))
                    for name, *nodes in stored["supernodes"]
                ),
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"{text[:80]!r} are not annotations ({error!r})") from error


@dataclass(frozen=True)
class StoredRun:
    """What-ifs that were run on a trace, what came out in a few words, and when (since 1970)."""

    scenarios: tuple[Scenario, ...]
    said: str
    ran: float


def scenarios_to_json(scenarios: tuple[Scenario, ...]) -> str:
    """:func:`scenarios_from_json` is the inverse."""
    stored = [scenario.to_dict() for scenario in scenarios]
    return json.dumps(stored, separators=(",", ":"), ensure_ascii=False)


def scenarios_from_json(text: str) -> tuple[Scenario, ...]:
    """Raises ``ValueError`` on anything that :func:`scenarios_to_json` does not write."""
    try:
        return tuple(Scenario.from_dict(entry) for entry in json.loads(text))
    except (InterventionError, TypeError) as error:
        raise ValueError(f"these are no scenarios: {error}") from error
