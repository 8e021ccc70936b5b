"""Merge two changes of the same annotations, so that no tab overwrites the work of another.

Each change is known by what it started from: a pin that one side removed and the other left alone
is removed, and what either side added is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from cache.annotations import Annotations, BoxPosition
from tracer.types import NodeId, Supernode

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True)
class Saved:
    """What a graph's annotations are after a write."""

    annotations: Annotations
    merged: bool = False
    """Whether somebody else had changed them since they were read."""


def merged_annotations(base: Annotations, mine: Annotations, stored: Annotations) -> Annotations:
    """Apply the changes from ``base`` to ``mine`` to ``stored``.

    Where both sides changed one thing, such as the colour of a supernode, ``mine`` wins. A node
    that ends up in two places stays where ``mine`` has it.

    >>> a, b, c = (NodeId("feature", 0, 1, i) for i in range(3))
    >>> merged = merged_annotations(Annotations((a,)), Annotations((a, b)), Annotations((c,)))
    >>> merged.pinned == (c, b)
    True
    """
    pinned = _merged_set(base.pinned, mine.pinned, stored.pinned)
    groups = _merged_map(_by_name(base), _by_name(mine), _by_name(stored), _merged_supernode)
    at = [{p.name: p for p in side.positions} for side in (base, mine, stored)]
    positions = _merged_map(at[0], at[1], at[2], _changed_position)
    place = dict.fromkeys(mine.pinned, "")
    place |= {node: group.name for group in mine.supernodes for node in group.nodes}

    def belongs(node: NodeId, name: str) -> bool:
        return place.setdefault(node, name) == name

    supernodes = tuple(
        Supernode(
            group.name,
            tuple(node for node in group.nodes if belongs(node, group.name)),
            group.colour,
            group.is_expanded,
        )
        for group in groups.values()
    )
    return Annotations(
        tuple(node for node in pinned if belongs(node, "")),
        tuple(group for group in supernodes if group.nodes),
        tuple(positions.values()),
    )


def merged_text(base: str, mine: str, stored: str) -> str:
    """Return a title or notes after two changes: both of them, on lines of their own.

    >>> merged_text("", "Texas", "")
    'Texas'
    >>> merged_text("", "mine", "theirs")
    'theirs\\nmine'
    """
    if mine in (base, stored):
        return stored
    if stored == base or not stored or stored in mine:
        return mine
    return stored if not mine or mine in stored else f"{stored}\n{mine}"


def _by_name(annotations: Annotations) -> dict[str, Supernode]:
    return {group.name: group for group in annotations.supernodes}


def _merged_set(base: Iterable[T], mine: Iterable[T], stored: Iterable[T]) -> tuple[T, ...]:
    base, mine, stored = list(base), list(mine), list(stored)
    removed = set(base) - set(mine)
    added = [entry for entry in mine if entry not in base]
    return tuple(dict.fromkeys(entry for entry in (*stored, *added) if entry not in removed))


def _merged_map(
    base: Mapping[K, V],
    mine: Mapping[K, V],
    stored: Mapping[K, V],
    merged: Callable[[V | None, V, V], V],
) -> dict[K, V]:
    result = {
        key: merged(base.get(key), mine[key], value) if key in mine else value
        for key, value in stored.items()
        if key in mine or key not in base or value != base[key]
    }
    for key, value in mine.items():
        if key not in stored and (key not in base or value != base[key]):
            result[key] = value
    return result


def _merged_supernode(base: Supernode | None, mine: Supernode, stored: Supernode) -> Supernode:
    start = base or Supernode(mine.name, ())
    return Supernode(
        mine.name,
        _merged_set(start.nodes, mine.nodes, stored.nodes),
        mine.colour if mine.colour != start.colour else stored.colour,
        mine.is_expanded if mine.is_expanded != start.is_expanded else stored.is_expanded,
    )


def _changed_position(
    base: BoxPosition | None, mine: BoxPosition, stored: BoxPosition
) -> BoxPosition:
    return stored if mine == base else mine
