"""Where every node of a graph is drawn, inside a given width and height. Pure geometry, in pixels.

Columns are tokens, rows are layers; embeddings are at the bottom, answers on top. The whole graph
fits: crowded layers get more lines as far as the height allows, columns share the width by how
crowded they are, and what still finds no room in a cell is folded into a "+k" chip.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from charts.graph_cells import (
    CHIP,
    DOT,
    PADDING,
    READABLE,
    CellShape,
    Chip,
    PlacedNode,
    fill_cell,
    name_width,
)
from charts.text import token_text, truncate

GUTTER: Final = 34.0
"""Room for the layers' numbers, left of the first column."""
TOKEN_BAND: Final = 40.0
ANSWER_BAND: Final = 46.0
ANSWER_LENGTH: Final = 20
"""Characters of an answer that are drawn at most."""
_LOWEST_LINE: Final = 12.0
_HIGHEST_LINE: Final = 30.0
_EMPTY_ROW: Final = 7.0
_LARGEST_GAP: Final = 40.0
"""Free height that a layer gets where there is more of it than lines need."""
_MORE_LINES: Final = ((4, 14.0, 5), (1, 24.0, 6))
"""Rules for more lines in a layer: most nodes of a cell in one line, lowest line in pixels, most
lines. The first rule is for crowded layers, the second shares out the rest of the height."""
_LEAST_COLUMN: Final = 30.0
_SQUEEZE: Final = 0.7
"""How far columns shrink below what they need before the picture gets wider than the window."""
_WIDEST_COLUMN: Final = 220.0
"""Of a prompt that is too long to fit."""
_LAST_COLUMN: Final = 0.30
"""Share of the width that the last column may take before the others share; the answer is made
there, so it is the fullest."""
_TWO_NAMES: Final = 260.0
"""Width of a column from which on a line may hold two names."""
_TOKEN_CHARACTER: Final = 6.3
_ANSWER_CHARACTER: Final = 6.2
_ANSWER_START: Final = 420.0
"""The answers begin at most this far from the right edge."""


@dataclass(frozen=True)
class LayoutNode:
    """A node to place."""

    kind: str
    """``token`` and ``logit`` are drawn in the lower and upper band, all else in its cell."""
    layer: int
    """Below 0 for a node of the embeddings, which is drawn next to its token."""
    position: int
    influence: float
    name: str
    """What may be drawn next to it; empty for a node that is always a dot."""
    is_minor: bool = False
    """Placed last and folded first, whatever its influence: an error node."""


@dataclass(frozen=True)
class Band:
    """A column or a row: its name and its extent in pixels."""

    name: str
    start: float
    stop: float

    @property
    def middle(self) -> float:
        return (self.start + self.stop) / 2


@dataclass(frozen=True)
class GraphLayout:
    """Positions of all nodes, in pixels from the lower left corner."""

    nodes: tuple[PlacedNode, ...]
    chips: tuple[Chip, ...]
    """Every node is either in ``nodes`` or a member of exactly one chip."""
    columns: tuple[Band, ...]
    rows: tuple[Band, ...]
    """The tokens' band, the layers from 0 up, the answers' band."""
    width: float
    height: float


_Cells = Mapping[tuple[int, int], Sequence[int]]


def layout_graph(
    nodes: Sequence[LayoutNode],
    tokens: Sequence[str],
    n_layers: int,
    width: float,
    height: float,
    keep: Collection[int] = (),
    max_names: int = 36,
) -> GraphLayout:
    """Place ``nodes`` in a picture ``width`` wide and at most ``height`` high, in pixels.

    A small graph takes less height, one whose layers would be lower than a line of text more; a
    prompt with too many tokens takes more width.

    ``tokens`` are all columns, also those without a node. The places in ``keep`` (selected or
    pinned nodes) are never folded and are named first; the ``max_names`` nodes of most influence
    are named where their name can be read.
    """
    kept = set(keep)
    cells = _cells(nodes, kept)
    lines, unit, gap = _line_counts(cells, n_layers, height - TOKEN_BAND - ANSWER_BAND)
    names = [node.name for node in nodes]
    ranked = [i for members in cells.values() for i in members if names[i]]
    ranked.sort(key=lambda i: (i not in kept, nodes[i].is_minor, -nodes[i].influence, i))
    columns = _columns(nodes, cells, tokens, lines, set(ranked[:max_names]), width)
    rows = [Band("tokens", 0.0, TOKEN_BAND)]
    for layer, count in enumerate(lines):
        rows.append(_after(rows[-1], str(layer), count * unit + gap if count else _EMPTY_ROW))
    rows.append(_after(rows[-1], "next token", ANSWER_BAND))
    if columns and columns[-1].stop > width + 1:
        width = columns[-1].stop
    named = _named(nodes, cells, columns, lines, ranked, max_names)
    spines = {nodes[i].position for i in named}
    placed = _tokens(nodes, columns)
    chips: list[Chip] = []
    for (layer, position), members in sorted(cells.items()):
        column, row = columns[position], rows[layer + 1]
        shape = CellShape(
            layer, position, column.start, column.stop, row.middle,
            max(1, lines[layer]), unit, position in spines,
        )  # fmt: skip
        in_cell, folded = fill_cell(shape, names, members, named, kept)
        placed += in_cell
        chips += folded
    answers, folded = _answers(nodes, columns, rows[-1], n_layers, width)
    return GraphLayout(
        (*placed, *answers), (*chips, *folded), tuple(columns), tuple(rows), width, rows[-1].stop
    )


def _after(band: Band, name: str, size: float) -> Band:
    return Band(name, band.stop, band.stop + size)


def _cells(nodes: Sequence[LayoutNode], keep: set[int]) -> dict[tuple[int, int], list[int]]:
    """Nodes by layer and position, the most important first."""
    cells: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, node in enumerate(nodes):
        if node.kind != "logit" and not _is_embedding(node):
            cells[node.layer, node.position].append(i)
    for members in cells.values():
        members.sort(key=lambda i: (i not in keep, nodes[i].is_minor, -nodes[i].influence, i))
    return cells


def _line_counts(cells: _Cells, n_layers: int, available: float) -> tuple[list[int], float, float]:
    """How many lines each layer has, the height of a line, and what a layer gets beyond that."""
    fullest = [0] * n_layers
    for (layer, _), members in cells.items():
        fullest[layer] = max(fullest[layer], len(members))
    lines = [1 if count else 0 for count in fullest]
    empty = _EMPTY_ROW * lines.count(0)
    for crowded, least, most in _MORE_LINES:
        growing = [layer for layer in range(n_layers) if lines[layer]]
        while growing and (sum(lines) + 1) * least + empty <= available:
            layer = max(growing, key=lambda at: fullest[at] / lines[at])
            if fullest[layer] / lines[layer] <= crowded:
                break
            if lines[layer] < most:
                lines[layer] += 1
            else:
                growing.remove(layer)
    unit = (available - empty) / max(1, sum(lines))
    unit = max(_LOWEST_LINE, min(_HIGHEST_LINE, unit))
    spare = available - empty - unit * sum(lines)
    gap = spare / max(1, sum(1 for count in lines if count))
    return lines, unit, max(0.0, min(_LARGEST_GAP, gap))


def _columns(
    nodes: Sequence[LayoutNode],
    cells: _Cells,
    tokens: Sequence[str],
    lines: Sequence[int],
    top: set[int],
    width: float,
) -> list[Band]:
    """Share the width: a floor for each column, then room by how crowded it is."""
    available = width - GUTTER
    texts = [token_text(token) for token in tokens]
    floors: list[float] = []
    for most_dots in (4, 3, 2, 1):  # fewer dots in a line before anything gets too narrow
        floors = [max(_LEAST_COLUMN, min(len(text), 9) * _TOKEN_CHARACTER + 6) for text in texts]
        for (layer, position), members in cells.items():
            shown = min(math.ceil(len(members) / lines[layer]), most_dots)
            chip = CHIP if len(members) > most_dots * lines[layer] else 0.0
            needed = shown * DOT + chip + 2 * PADDING
            floors[position] = max(floors[position], needed)
        if sum(floors) <= 0.62 * available:
            break
    weights, asked = [0.0] * len(texts), list(floors)
    for (layer, position), members in cells.items():
        weights[position] += sum(
            math.sqrt(max(0.0, nodes[i].influence)) + 0.35 * (i in top) for i in members
        )
        widths = {i: name_width(nodes[i].name) for i in members if i in top}
        in_a_line = sum(widths.get(i, DOT) for i in members) / lines[layer]
        wanted = 1.1 * max(in_a_line, max(widths.values(), default=0.0)) + 2 * PADDING
        asked[position] = max(asked[position], wanted)
    if sum(floors) * _SQUEEZE > available:  # a long prompt: wider than the window, and panned
        sizes = _scrolled(asked, {position for _, position in cells}, texts)
    elif sum(floors) > available:
        sizes = [floor * available / sum(floors) for floor in floors]
    else:
        if len(floors) > 1:
            spare = available - sum(floors)
            most = min(asked[-1], _LAST_COLUMN * available, floors[-1] + spare)
            floors[-1] = max(floors[-1], most)
        # damped: the last token has most of the influence, and need not have most of the width
        sizes = _shared(floors, asked, [math.sqrt(weight) for weight in weights], available)
    columns = [Band("", 0.0, GUTTER)]
    for text, size in zip(texts, sizes, strict=True):
        columns.append(_after(columns[-1], text, size))
    return columns[1:]


def _scrolled(asked: Sequence[float], occupied: set[int], texts: Sequence[str]) -> list[float]:
    """Widths of columns that need not share a window: tokens without nodes shrink."""
    return [
        min(size, _WIDEST_COLUMN)
        if position in occupied
        else min(len(texts[position]), 4) * _TOKEN_CHARACTER + 6
        for position, size in enumerate(asked)
    ]


def _shared(
    floors: Sequence[float], asked: Sequence[float], weights: Sequence[float], available: float
) -> list[float]:
    """Grow ``floors`` by ``weights`` until a column has what it asks for; share the rest evenly."""
    sizes = list(floors)
    for _ in sizes:
        room = available - sum(sizes)
        growing = [i for i, size in enumerate(sizes) if size < asked[i] - 0.5 and weights[i] > 0]
        if room < 0.5 or not growing:
            break
        total = sum(weights[i] for i in growing)
        for i in growing:
            sizes[i] += min(room * weights[i] / total, asked[i] - sizes[i])
    factor = max(1.0, available / sum(sizes))
    return [size * factor for size in sizes]


def _named(
    nodes: Sequence[LayoutNode],
    cells: _Cells,
    columns: Sequence[Band],
    lines: Sequence[int],
    ranked: Sequence[int],
    max_names: int,
) -> set[int]:
    """Which nodes are named: by influence, one a line of a cell, two where the column is wide."""
    named: set[int] = set()
    budget = {
        (layer, position): lines[layer]
        * (2 if columns[position].stop - columns[position].start > _TWO_NAMES else 1)
        for layer, position in cells
    }
    for i in ranked:
        if len(named) >= max_names:
            break
        cell = nodes[i].layer, nodes[i].position
        width = columns[cell[1]].stop - columns[cell[1]].start
        least = 2 * PADDING + name_width(nodes[i].name, READABLE)
        if len(cells[cell]) > lines[cell[0]]:
            least += CHIP
        if budget[cell] > 0 and width > least:
            budget[cell] -= 1
            named.add(i)
    return named


def _is_embedding(node: LayoutNode) -> bool:
    return node.kind == "token" or (node.layer < 0 and node.kind != "logit")


def _tokens(nodes: Sequence[LayoutNode], columns: Sequence[Band]) -> list[PlacedNode]:
    """Tokens in the middle of their column; several nodes of one column are side by side."""
    by_column: dict[int, list[int]] = defaultdict(list)
    for i, node in enumerate(nodes):
        if _is_embedding(node):
            by_column[node.position].append(i)
    return [
        PlacedNode(
            i, columns[position].middle + DOT * (number - (len(members) - 1) / 2), TOKEN_BAND - 9
        )
        for position, members in by_column.items()
        for number, i in enumerate(members)
    ]


def _answers(
    nodes: Sequence[LayoutNode], columns: Sequence[Band], row: Band, n_layers: int, width: float
) -> tuple[list[PlacedNode], list[Chip]]:
    """Answers over the last column, likeliest first, in at most two lines; the rest is folded."""
    answers = [i for i, node in enumerate(nodes) if node.kind == "logit"]
    answers.sort(key=lambda i: (-nodes[i].influence, i))
    if not answers or not columns:
        return [], []
    start = min(columns[-1].start + PADDING, max(GUTTER, width - _ANSWER_START))
    placed: list[PlacedNode] = []
    lines = (row.stop - ANSWER_BAND / 4 - 2, row.start + ANSWER_BAND / 4)
    x = start
    for number, y in enumerate(lines):
        x, is_last = start, number == len(lines) - 1
        while len(placed) < len(answers):
            i = answers[len(placed)]
            name = truncate(nodes[i].name, ANSWER_LENGTH)
            size = 22 + len(name) * _ANSWER_CHARACTER
            chip = CHIP if is_last and len(answers) - len(placed) > 1 else 0.0
            if x + size + chip > width and x > start:
                break
            placed.append(PlacedNode(i, x + 7, y, name))
            x += size
    folded = tuple(answers[len(placed) :])
    if not folded:
        return placed, []
    return placed, [Chip(n_layers, len(columns) - 1, x + CHIP / 2, lines[-1], folded)]
