"""What a visitor adds to a trace: pins, supernodes, and the scenarios that were run on it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Self

from tracer.errors import InterventionError
from tracer.interventions.scenario import Scenario
from tracer.types import NodeId, Supernode


@dataclass(frozen=True)
class Annotations:
    """Pinned nodes and supernodes of one trace. False if there are none.

    >>> pins = Annotations((NodeId("feature", 1, 7, 887),))
    >>> Annotations.from_json(pins.to_json()) == pins
    True
    """

    pinned: tuple[NodeId, ...] = ()
    supernodes: tuple[Supernode, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.pinned or self.supernodes)

    def to_json(self) -> str:
        """Return JSON for :meth:`from_json`; an empty text if there are no annotations."""
        if not self:
            return ""
        groups = [[group.name, *map(str, group.nodes)] for group in self.supernodes]
        stored = {"pinned": list(map(str, self.pinned)), "supernodes": groups}
        return json.dumps(stored, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what :meth:`to_json` wrote; raises ``ValueError`` on anything else."""
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
            raise ValueError(f"not annotations ({error!r}): {text[:80]}") from error


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
    except (InterventionError, TypeError) as error:
        raise ValueError(f"not scenarios: {error}") from error
