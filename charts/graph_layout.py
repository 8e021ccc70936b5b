"""Where every node of a graph is drawn: pure geometry, in pixels, without Plotly.

Columns are tokens, rows are layers; embeddings stand at the bottom, logits on top. Inside a cell an
important node has a line of its own with its label beside it, the others are packed in rows, so
that nothing can overlap: a column is as wide as its longest line and a row as tall as its fullest
cell. Columns without nodes shrink to their token.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from charts.text import token_text, truncate
from tracer.types import NodeId

LINE: Final = 25.0
"""Height of a line of a cell: the largest node and a little air."""
DOT: Final = 21.0
"""Pitch of packed nodes."""
CHARACTER: Final = 6.1
"""Mean width of a character at the size of the labels."""
_BOLD_CHARACTER: Final = 7.4
"""The same for the answers, which are bold and larger."""
GUTTER: Final = 62.0
"""Room for the layers' names, left of the first column."""
STAGGER: Final = 9.0
"""Every second line of a cell is indented, so that edges do not run through a whole stack."""
_CELL_PADDING: Final = 8.0
_ROW_PADDING: Final = 13.0
_EMPTY_ROW: Final = 24.0
_TOKEN_BAND: Final = 56.0
_LABEL_GAP: Final = 13.0
_LABEL_LENGTHS: Final = (34, 30, 26, 23, 20, 17, 14, 12, 10)
_READABLE: Final = 20
"""Characters of a label that should be seen at least."""
_PACKED: Final = (8, 4, 3, 2)
"""Nodes without a label that stand side by side at most; fewer where labels need the width."""
_TOKEN_LENGTH: Final = 14


@dataclass(frozen=True)
class LayoutNode:
    """A node to place, how much it matters, and the text that should stand beside it."""

    node: NodeId
    influence: float
    label: str


@dataclass(frozen=True)
class PlacedNode:
    """A node at the pixel ``(x, y)`` of its centre; ``label`` is empty where none is drawn."""

    node: NodeId
    x: float
    y: float
    label: str


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
    columns: tuple[Band, ...]
    rows: tuple[Band, ...]
    """From the embeddings to the logits."""
    width: float
    height: float


Cell = tuple[int, int]


@dataclass(frozen=True)
class _CellLines:
    """One cell: nodes that get a line and a label, and nodes that are packed."""

    labelled: tuple[LayoutNode, ...]
    packed: tuple[LayoutNode, ...]

    def height(self, per_line: int) -> float:
        return LINE * len(self.labelled) + DOT * math.ceil(len(self.packed) / per_line)


def layout_graph(
    nodes: Sequence[LayoutNode],
    tokens: Sequence[str],
    n_layers: int,
    width: float = 760.0,
    max_labels: int = 32,
) -> GraphLayout:
    """Place ``nodes``; ``tokens`` are all columns, also those without a node.

    ``width`` is what the layout tries to stay within by shortening labels; a prompt with very many
    tokens becomes wider. The ``max_labels`` features of most influence are labelled.
    """
    cells = _cells(nodes, max_labels)
    for most_packed in _PACKED:
        limits = _label_limits(cells, tokens, width - GUTTER, most_packed)
        if not _is_cut_short(cells, limits):
            break
    widths = _column_widths(cells, tokens, limits, most_packed)
    logits = sorted(
        (n for n in nodes if n.node.kind == "logit"), key=lambda n: (-n.influence, n.label)
    )
    total = max(width, GUTTER + sum(widths))
    _widen(widths, total - GUTTER, _occupied(cells))
    columns = _stack([token_text(token) for token in tokens], widths, GUTTER)

    per_line = [max(1, int((w - _CELL_PADDING) // DOT)) for w in widths]
    heights = _row_heights(cells, per_line, n_layers)
    logit_lines = _logit_lines(logits, total, columns[-1].start if columns else GUTTER)
    names = ["tokens", *(f"layer {layer}" for layer in range(n_layers)), "next token"]
    rows = _stack(
        names, [_TOKEN_BAND, *heights, max(1, len(logit_lines)) * LINE + _ROW_PADDING], 0.0
    )

    placed = [
        PlacedNode(n.node, columns[n.node.position].middle, rows[0].stop - 17.0, "")
        for n in nodes
        if n.node.kind == "token"
    ]
    for (layer, position), cell in cells.items():
        placed += _place_cell(
            cell, columns[position], rows[layer + 1], per_line[position], limits[position]
        )
    for number, line in enumerate(logit_lines):
        y = rows[-1].stop - _ROW_PADDING / 2 - LINE * (number + 0.5)
        placed += [PlacedNode(n.node, x, y, n.label) for n, x in line]
    return GraphLayout(tuple(placed), columns, rows, total, rows[-1].stop)


def _cells(nodes: Sequence[LayoutNode], max_labels: int) -> dict[Cell, _CellLines]:
    inner = [n for n in nodes if n.node.kind in ("feature", "error")]
    inner.sort(key=lambda n: (-n.influence, n.node))
    features = [n for n in inner if n.node.kind == "feature" and n.label]
    labelled = {n.node for n in features[:max_labels]}
    by_cell: dict[Cell, list[LayoutNode]] = defaultdict(list)
    for node in inner:
        by_cell[node.node.layer, node.node.position].append(node)
    return {
        cell: _CellLines(
            tuple(n for n in members if n.node in labelled),
            tuple(n for n in members if n.node not in labelled),
        )
        for cell, members in by_cell.items()
    }


def _label_limits(
    cells: Mapping[Cell, _CellLines], tokens: Sequence[str], available: float, most_packed: int
) -> list[int]:
    """Longest label per column: one that fits everywhere, then more where labels are still cut."""

    def fits(limits: list[int]) -> bool:
        return sum(_column_widths(cells, tokens, limits, most_packed)) <= available

    limits = [_LABEL_LENGTHS[-1]] * len(tokens)
    for length in reversed(_LABEL_LENGTHS):
        if fits([length] * len(tokens)):
            limits = [length] * len(tokens)
    cut: dict[int, int] = defaultdict(int)
    for (_, position), cell in cells.items():
        cut[position] += sum(len(n.label) > limits[position] for n in cell.labelled)
    for position in sorted(cut, key=lambda position: -cut[position]):
        for length in _LABEL_LENGTHS:
            longer = [*limits[:position], length, *limits[position + 1 :]]
            if length > limits[position] and fits(longer):
                limits = longer
                break
    return limits


def _is_cut_short(cells: Mapping[Cell, _CellLines], limits: Sequence[int]) -> bool:
    """Whether a label loses more than a person can do without."""
    return any(
        limits[position] < min(len(node.label), _READABLE)
        for (_, position), cell in cells.items()
        for node in cell.labelled
    )


def _column_widths(
    cells: Mapping[Cell, _CellLines],
    tokens: Sequence[str],
    limits: Sequence[int],
    most_packed: int,
) -> list[float]:
    widths = [
        len(truncate(token_text(token), _TOKEN_LENGTH)) * CHARACTER + 10.0 for token in tokens
    ]
    for (_, position), cell in cells.items():
        limit = limits[position]
        longest = max((len(truncate(n.label, limit)) for n in cell.labelled), default=0)
        line = longest and STAGGER + DOT / 2 + _LABEL_GAP + longest * CHARACTER
        # squarish where nothing is labelled: as many columns as lines, roughly
        packed = DOT * min(most_packed, math.ceil(math.sqrt(len(cell.packed))))
        widths[position] = max(widths[position], line + _CELL_PADDING, packed + _CELL_PADDING)
    return widths


def _occupied(cells: Mapping[Cell, _CellLines]) -> list[int]:
    return sorted({position for _, position in cells})


def _widen(widths: list[float], available: float, occupied: Sequence[int]) -> None:
    """Share, in place, what room is left: a little to every column, most to those with nodes."""
    left = available - sum(widths)
    if left <= 0 or not widths:
        return
    chosen = occupied or range(len(widths))
    share = left * (0.5 if occupied else 0.0) / len(widths)
    widths[:] = [w + share for w in widths]
    rest = (available - sum(widths)) / len(chosen)
    for position in chosen:
        widths[position] += rest


def _row_heights(
    cells: Mapping[Cell, _CellLines], per_line: Sequence[int], n_layers: int
) -> list[float]:
    heights = [_EMPTY_ROW] * n_layers
    for (layer, position), cell in cells.items():
        needed = cell.height(per_line[position]) + _ROW_PADDING
        heights[layer] = max(heights[layer], needed)
    return heights


def _stack(names: Sequence[str], sizes: Sequence[float], start: float) -> tuple[Band, ...]:
    bands = []
    for name, size in zip(names, sizes, strict=True):
        bands.append(Band(name, start, start + size))
        start += size
    return tuple(bands)


def _place_cell(
    cell: _CellLines, column: Band, row: Band, per_line: int, limit: int
) -> list[PlacedNode]:
    """Labelled nodes from the top down, packed ones below them, centred in the row."""
    placed = []
    y = row.middle + cell.height(per_line) / 2
    longest = max((len(truncate(n.label, limit)) for n in cell.labelled), default=0)
    block = STAGGER + DOT / 2 + _LABEL_GAP + longest * CHARACTER if longest else 0.0
    left = column.middle - block / 2 + DOT / 2
    for number, node in enumerate(cell.labelled):
        y -= LINE
        x = left + STAGGER * (number % 2)
        placed.append(PlacedNode(node.node, x, y + LINE / 2, truncate(node.label, limit)))
    for start in range(0, len(cell.packed), per_line):
        y -= DOT
        line = cell.packed[start : start + per_line]
        first = left if cell.labelled else column.middle - DOT * (len(line) - 1) / 2
        # under labels the row starts where the stack does, but must not leave the column
        first = min(first, column.stop - DOT * (len(line) - 0.5))
        first = max(first, column.start + DOT / 2)
        placed += [
            PlacedNode(node.node, first + DOT * number, y + DOT / 2, "")
            for number, node in enumerate(line)
        ]
    return placed


def _logit_lines(
    logits: Sequence[LayoutNode], width: float, preferred: float
) -> list[list[tuple[LayoutNode, float]]]:
    """Logits from left to right, over the last column if they fit, in as few lines as possible."""
    lines: list[list[tuple[LayoutNode, float]]] = [[]]
    x = GUTTER
    for node in logits:
        size = DOT + _LABEL_GAP + len(node.label) * _BOLD_CHARACTER
        if lines[-1] and x + size > width:
            lines.append([])
            x = GUTTER
        lines[-1].append((node, x + DOT / 2))
        x += size
    if len(lines) == 1 and lines[0]:
        shift = min(max(preferred - GUTTER, 0.0), max(width - x, 0.0))
        lines[0] = [(node, at + shift) for node, at in lines[0]]
    return [line for line in lines if line]
