"""The edges of a drawing as Plotly shapes: a few paths, one for each colour and width.

Thousands of curves in one path are one element for the browser; as traces they would be thousands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from charts.drawing import Drawing
from charts.graph_layout import GraphLayout
from charts.palette import Palette
from tracer.graph.nodes import FloatArray, IntArray

_BUCKETS: Final = ((0.0, 0.8, 0.25), (0.08, 1.3, 0.35), (0.2, 2.0, 0.45))
"""Share of its target's input from which on an edge is drawn so wide (px) and so opaque."""
_OWN_BUCKETS: Final = ((0.0, 0.9, 0.3), (0.2, 1.8, 0.6), (0.5, 3.2, 0.9))
"""The same for the edges of the selected node, by share of its strongest one."""
_MOST_DASHED: Final = 400
"""Dashes in one long path are slow to draw; beyond this many edges all are solid."""
_SAME_COLUMN: Final = 14.0
_LARGEST_BOW: Final = 34.0


@dataclass(frozen=True)
class Placement:
    """Where every node of a drawing ended up, folded ones at their chip."""

    x: FloatArray
    y: FloatArray
    home: IntArray
    """The chip a node is folded into, -1 where it is drawn."""
    names: tuple[str, ...]
    """What is written next to it, perhaps cut short; empty for nothing."""


def placement(drawing: Drawing, layout: GraphLayout) -> Placement:
    """Return the pixel of every node."""
    count = len(drawing.nodes)
    x, y, home = np.zeros(count), np.zeros(count), np.full(count, -1)
    names = [""] * count
    for placed in layout.nodes:
        x[placed.index], y[placed.index] = placed.x, placed.y
        names[placed.index] = placed.name
    for number, chip in enumerate(layout.chips):
        members = list(chip.members)
        x[members], y[members], home[members] = chip.x, chip.y, number
    return Placement(x, y, home, tuple(names))


def group_colour(group: str, palette: Palette) -> str:
    """Return the colour of a group of nodes: of a kind, or of a side of a comparison."""
    colours: Mapping[str, str] = {
        "feature": palette.feature,
        "error": palette.error,
        "both": palette.text,
        "left": palette.feature,
        "right": palette.selected,
        "other": palette.other,
    }
    return colours.get(group, palette.anchor)


def bezier_path(x0: FloatArray, y0: FloatArray, x1: FloatArray, y1: FloatArray) -> str:
    """Return one SVG path of curves that leave upwards and arrive from below.

    An edge that stays in its column bows out to the left, or it would run through the nodes between
    its ends. Thousands of curves in one path are one element for the browser.
    """
    bend = np.abs(y1 - y0) / 2
    bow = np.where(np.abs(x1 - x0) < _SAME_COLUMN, np.minimum(_LARGEST_BOW, 5 + 0.18 * bend), 0.0)
    points = np.stack([x0, y0, x0 - bow, y0 + bend, x1 - bow, y1 - bend, x1, y1], 1).round(1)
    return "".join("M{:g},{:g}C{:g},{:g},{:g},{:g},{:g},{:g}".format(*row) for row in points)


def edge_shapes(
    drawing: Drawing, at: Placement, palette: Palette, selected: int | None
) -> list[dict[str, Any]]:
    """Paths of the resting edges, or of the selected node's own: one for each colour and width."""
    if selected is None:
        edges, buckets, strength = drawing.resting, _BUCKETS, drawing.shares
    else:
        edges, buckets = drawing.own_edges(selected), _OWN_BUCKETS
        largest = float(np.abs(drawing.weights[edges]).max(initial=0.0))
        strength = np.abs(drawing.weights) / max(largest, 1e-12)
    apart = (at.home[drawing.sources[edges]] != at.home[drawing.targets[edges]]) | (
        at.home[drawing.sources[edges]] < 0
    )
    edges = edges[apart]  # two nodes of one chip have no distance between them
    levels = np.searchsorted([bucket[0] for bucket in buckets], strength[edges], "right") - 1
    shapes = []
    for colour, dashed, chosen in _edge_colours(drawing, edges, palette):
        for level, (_, width, opacity) in enumerate(buckets):
            part = edges[chosen & (levels == level)]
            if not len(part):
                continue
            source, target = drawing.sources[part], drawing.targets[part]
            dash = "4px,3px" if dashed and len(edges) <= _MOST_DASHED else "solid"
            shapes.append(
                {
                    "type": "path",
                    "path": bezier_path(at.x[source], at.y[source], at.x[target], at.y[target]),
                    "layer": "below",
                    "name": "edges",
                    "opacity": opacity,
                    "fillcolor": "rgba(0,0,0,0)",
                    "line": {"color": colour, "width": width, "dash": dash},
                }
            )
    return shapes


def _edge_colours(
    drawing: Drawing, edges: IntArray, palette: Palette
) -> list[tuple[str, bool, np.ndarray]]:
    """Colour, whether it is dashed, and which of ``edges`` have it."""
    if drawing.edge_groups:
        groups = np.array(drawing.edge_groups)[edges]
        return [
            (group_colour(group, palette), False, groups == group)
            for group in sorted(set(drawing.edge_groups))
        ]
    positive = drawing.weights[edges] > 0
    return [(palette.negative, True, ~positive), (palette.positive, False, positive)]
