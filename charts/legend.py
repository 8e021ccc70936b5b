"""What the marks of a graph stand for: a symbol and a name for every kind of node."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from charts.graph_edges import group_colour
from charts.palette import LIGHT, Palette
from tracer.graph.generic import is_error_kind
from tracer.graph.kinds import kind_counts
from tracer.graph.pruning import PrunedGraph
from tracer.types import COMPUTED_KINDS

_SYMBOLS: Final = {
    "feature": "circle",
    "error": "diamond",
    "token": "square",
    "logit": "square",
    "lorsa": "hexagon",
    "bias": "triangle-up",
}
_OTHER_SYMBOL: Final = "pentagon"
_CORNERS: Final = {"triangle-up": 3, "diamond": 4, "pentagon": 5, "hexagon": 6}


@dataclass(frozen=True)
class LegendEntry:
    """A kind of node in a graph, and how it is drawn."""

    kind: str
    name: str
    """In the plural: ``attention features (Lorsa)``."""
    symbol: str
    """As Plotly calls it."""
    group: str
    """What its colour stands for; see :func:`charts.graph_edges.group_colour`."""
    kept: int
    total: int
    is_error: bool
    is_generic: bool
    """Whether only other tools compute it."""


def symbol_of(kind: str) -> str:
    """Return the Plotly symbol of a kind of node; errors of every kind are diamonds.

    >>> symbol_of("feature"), symbol_of("lorsa"), symbol_of("lorsa error"), symbol_of("crosscoder")
    ('circle', 'hexagon', 'diamond', 'pentagon')
    """
    if kind in _SYMBOLS:
        return _SYMBOLS[kind]
    return "diamond" if is_error_kind(kind) else _OTHER_SYMBOL


def group_of(kind: str) -> str:
    """Return the group whose colour a kind of node has.

    >>> group_of("logit"), group_of("lorsa")
    ('logit', 'other')
    """
    return kind if kind in COMPUTED_KINDS else "other"


def legend(pruned: PrunedGraph) -> tuple[LegendEntry, ...]:
    """Return an entry for every kind of node that a graph has."""
    return tuple(
        LegendEntry(
            entry.kind,
            "answers" if entry.kind == "logit" else entry.name,
            symbol_of(entry.kind),
            group_of(entry.kind),
            entry.kept,
            entry.total,
            entry.is_error,
            entry.is_generic,
        )
        for entry in kind_counts(pruned)
    )


def legend_html(entries: Sequence[LegendEntry], palette: Palette = LIGHT) -> str:
    """Return the legend on one line that wraps: symbol, name, and how many are kept."""
    return _line(
        (_mark(entry.symbol, group_colour(entry.group, palette)), entry.name, _count(entry))
        for entry in entries
    )


def symbols_html(graphs: Sequence[PrunedGraph], palette: Palette = LIGHT) -> str:
    """Return the symbols of all kinds in several graphs, for a figure whose colours mean sides."""
    entries = {entry.kind: entry for pruned in graphs for entry in legend(pruned)}
    return _line((_mark(entry.symbol, palette.muted), entry.name, "") for entry in entries.values())


def _count(entry: LegendEntry) -> str:
    return f"{entry.kept:,}" + (f" of {entry.total:,}" if entry.kept != entry.total else "")


def _line(parts: Iterable[tuple[str, str, str]]) -> str:
    spans = (
        f'<span style="white-space:nowrap;margin-right:1.1em">{symbol} {html.escape(name)} '
        f'<span style="opacity:0.65">{count}</span></span>'
        for symbol, name, count in parts
    )
    return f'<div style="font-size:0.82rem;line-height:1.7">{"".join(spans)}</div>'


def _mark(symbol: str, colour: str) -> str:
    """Return a symbol as a clipped box: pages remove SVG from HTML, and fonts lack some shapes."""
    corners = _CORNERS.get(symbol)
    shape = "border-radius:50%" if symbol == "circle" else ""
    if corners:
        points = ", ".join(
            f"{50 + 50 * math.sin(turn):.0f}% {50 - 50 * math.cos(turn):.0f}%"
            for turn in (2 * math.pi * corner / corners for corner in range(corners))
        )
        shape = f"clip-path:polygon({points})"
    size = 9 if symbol in ("circle", "square") else 11
    return (
        f'<span style="display:inline-block;width:{size}px;height:{size}px;background:{colour};'
        f'{shape}"></span>'
    )
