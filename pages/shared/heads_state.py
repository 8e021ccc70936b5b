"""Which heads a visitor looks at, as a value and as query parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from cache import WhyLook

Versus = int | Literal["rest", "sink"] | None
_HEAD: Final = re.compile(
    r"([0-9]{1,4}):([0-9]{1,5})(?::(-?[0-9]{1,6}))?(?::([0-9]{0,6}))?(?::([0-9]{1,6}|rest|sink))?"
)


@dataclass(frozen=True)
class HeadsShown:
    """The open head, and whether the graph is shown as a table of heads."""

    as_view: bool = False
    carried: bool | None = None
    """Whether the panel says which heads carried a node's input; None for the model's default."""
    head: tuple[int, int] | None = None
    """Layer and head; None if no head is open."""
    query: int = -1
    key: int | None = None
    """None for the position that the head looks at most."""
    versus: Versus = None

    @property
    def question(self) -> WhyLook | None:
        """What is asked about the open head."""
        if self.head is None:
            return None
        return WhyLook(*self.head, self.query, self.key, self.versus)


def heads_to_query(shown: HeadsShown) -> dict[str, str]:
    """Return query parameters.

    >>> heads_to_query(HeadsShown(head=(4, 0), key=7, versus="rest"))
    {'head': '4:0:-1:7:rest'}
    >>> heads_to_query(HeadsShown(as_view=True, head=(4, 0)))
    {'view': 'heads', 'head': '4:0:-1'}
    """
    query = {"view": "heads"} if shown.as_view else {}
    if shown.carried is not None:
        query["carried"] = "yes" if shown.carried else "no"
    if shown.head is not None:
        parts: list[object] = [*shown.head, shown.query]
        if shown.key is not None or shown.versus is not None:
            parts.append("" if shown.key is None else shown.key)
        if shown.versus is not None:
            parts.append(shown.versus)
        query["head"] = ":".join(map(str, parts))
    return query


def heads_from_query(query: Mapping[str, str]) -> HeadsShown:
    """Invert :func:`heads_to_query`; invalid parameters keep their defaults."""
    carried = {"yes": True, "no": False}.get(query.get("carried", ""))
    shown = HeadsShown(query.get("view") == "heads", carried)
    match = _HEAD.fullmatch(query.get("head", ""))
    if match is None:
        return shown
    layer, head, position, key, versus = match.groups()
    other: Versus = int(versus) if versus and versus.isdecimal() else None
    if versus in ("rest", "sink"):
        other = versus  # type: ignore[assignment]
    return HeadsShown(
        shown.as_view,
        carried,
        (int(layer), int(head)),
        -1 if position is None else int(position),
        int(key) if key else None,
        other,
    )
