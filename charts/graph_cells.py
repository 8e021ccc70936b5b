"""Fill one cell of a graph's layout: which nodes get a name, a dot, or a place behind "+k".

A cell is where a layer's row crosses a token's column. It has one to four lines. Named nodes come
first, then dots; what has no room is folded into a chip that says how many nodes it holds. Pure
geometry in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from charts.text import truncate

DOT: Final = 13.0
"""Pitch of nodes without a name."""
CHIP: Final = 24.0
"""Width of a "+k" chip."""
CHARACTER: Final = 5.7
"""Mean width of a character of a name, at 11 px."""
NAME_GAP: Final = 8.0
"""From the centre of a node to its name."""
PADDING: Final = 7.0
"""Free space at either side of a column."""
READABLE: Final = 10
"""A name with room for fewer characters than this is not drawn: stumps are noise."""
_NAME_END: Final = 3.0


@dataclass(frozen=True)
class PlacedNode:
    """A node at the pixel ``(x, y)`` of its centre, counted from the lower left corner."""

    index: int
    """The node's place in the list that was laid out."""
    x: float
    y: float
    name: str = ""
    """As drawn, perhaps cut short; empty where the node is a dot."""


@dataclass(frozen=True)
class Chip:
    """A "+k" in place of the nodes that found no room in a cell."""

    layer: int
    position: int
    x: float
    y: float
    members: tuple[int, ...]
    """Places of the folded nodes in the list that was laid out, most influential first."""


@dataclass(frozen=True)
class CellShape:
    """The room of one cell."""

    layer: int
    position: int
    start: float
    stop: float
    """Left and right edge."""
    middle: float
    """Vertical centre."""
    n_lines: int
    line_height: float
    aligned_left: bool
    """Names form a spine that can be read down; cells without names are centred."""

    @property
    def inner(self) -> float:
        return self.stop - self.start - 2 * PADDING


def name_width(name: str, limit: int | None = None) -> float:
    """Return the width of a node with its name, cut to ``limit`` characters."""
    length = len(name) if limit is None else min(len(name), limit)
    return DOT / 2 + NAME_GAP + length * CHARACTER + _NAME_END


def fill_cell(
    shape: CellShape, names: Sequence[str], members: Sequence[int], named: set[int], keep: set[int]
) -> tuple[list[PlacedNode], list[Chip]]:
    """Place the ``members`` of a cell, which come most important first.

    ``names`` are those of all nodes; ``named`` are to be drawn with their name where it can be
    read, ``keep`` must not be folded. Every member is either placed or in the chip.
    """
    lines, dots, limits = _named_lines(shape, names, members, named, keep)
    used = [sum(name_width(names[i], limits[i]) for i in line) for line in lines]
    capacity = [max(0, int((shape.inner - width + 1) // DOT)) for width in used]
    folded: list[int] = []
    chip_line = -1
    if sum(capacity) < len(dots):
        chip_line = max(range(shape.n_lines), key=lambda line: (capacity[line], line))
        capacity[chip_line] = max(0, int((shape.inner - used[chip_line] - CHIP) // DOT))
        kept = [i for i in dots if i in keep]
        others = [i for i in dots if i not in keep]
        room = max(0, sum(capacity) - len(kept))
        dots, folded = kept + others[:room], others[room:]
        capacity[chip_line] += max(0, len(dots) - sum(capacity))
    placed: list[PlacedNode] = []
    chips: list[Chip] = []
    for line in range(shape.n_lines):
        y = shape.middle + ((shape.n_lines - 1) / 2 - line) * shape.line_height
        even = math.ceil(len(dots) / (shape.n_lines - line))
        count = min(capacity[line], max(even, len(dots) - sum(capacity[line + 1 :])))
        here, dots = dots[:count], dots[count:]
        span = used[line] + len(here) * DOT + (CHIP if line == chip_line else 0.0)
        left = shape.start + PADDING
        if not shape.aligned_left:
            left = (shape.start + shape.stop - span) / 2
        x = left + DOT / 2
        for i in lines[line]:
            placed.append(PlacedNode(i, x, y, truncate(names[i], max(1, limits[i]))))
            x += name_width(names[i], limits[i])
        for i in here:
            placed.append(PlacedNode(i, x, y))
            x += DOT
        if line == chip_line and folded:
            at = min(x - DOT / 2 + CHIP / 2, shape.stop - CHIP / 2 + 2)
            chips.append(Chip(shape.layer, shape.position, at, y, tuple(folded)))
    return placed, chips


def _named_lines(
    shape: CellShape, names: Sequence[str], members: Sequence[int], named: set[int], keep: set[int]
) -> tuple[list[list[int]], list[int], dict[int, int]]:
    """Return the named nodes of every line, the nodes that stay dots, and how many characters each
    name may have. A name that would be too short to read makes its node a dot."""
    shown = [i for i in members if i in named]
    while True:
        dots = [i for i in members if i not in shown]
        lines = [shown[line :: shape.n_lines] for line in range(shape.n_lines)]
        limits = {i: limit for line in lines for i, limit in _limits(shape, names, line, dots)}
        cramped = [i for i in shown if limits[i] < min(len(names[i]), READABLE)]
        if not cramped:
            return lines, dots, limits
        # members are ordered by importance: the last one gives way, a kept one only in the end
        shown.remove(max(cramped, key=lambda i: (i not in keep, members.index(i))))


def _limits(
    shape: CellShape, names: Sequence[str], line: Sequence[int], dots: Sequence[int]
) -> list[tuple[int, int]]:
    """How many characters each name of a line may have; short names leave room to long ones."""
    if not line:
        return []
    aside = 0.0
    if dots:
        aside = min(math.ceil(len(dots) / shape.n_lines) * DOT, max(shape.inner * 0.3, CHIP + DOT))
    available = shape.inner - aside
    share = available / len(line)
    widths = [name_width(names[i]) for i in line]
    crowded = sum(widths) > available
    found = []
    for i, width in zip(line, widths, strict=True):
        room = share
        if crowded and width > share:
            room = available - sum(min(other, share) for other in widths) + share
        text = min(room, available) - DOT / 2 - NAME_GAP - _NAME_END
        # a name that just fits must not be cut by a rounding error
        found.append((i, int(text / CHARACTER + 1e-6) if crowded else len(names[i])))
    return found
