"""A small picture of a pruned graph, to recognise it by in a list."""

from __future__ import annotations

from typing import Final

import numpy as np

from charts.graph_edges import group_colour
from charts.legend import group_of
from charts.palette import LIGHT, Palette
from tracer.graph.pruning import PrunedGraph

WIDTH: Final = 132
HEIGHT: Final = 84
_EDGE: Final = 6
_EDGES: Final = 60
_SMALLEST, _LARGEST = 1.1, 4.2


def thumbnail_svg(pruned: PrunedGraph, palette: Palette = LIGHT) -> str:
    """Return an SVG of the kept nodes by token and layer, and of the strongest edges.

    The area of a dot grows with the node's influence. The picture has no text.
    """
    graph = pruned.graph
    rows = [int(row) for row in pruned.rows]
    nodes = [graph.index.node(row) for row in rows]
    places = {
        row: _place(node.layer, node.position, graph.n_layers, len(graph.tokens), node.index)
        for row, node in zip(rows, nodes, strict=True)
    }
    influence = np.sqrt(np.maximum(pruned.influence[rows], 0.0)) if rows else np.zeros(0)
    largest = float(influence.max()) if rows and float(influence.max()) > 0 else 1.0
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}">'
    ]
    sources, targets, weights = pruned.edges
    for edge in np.argsort(-np.abs(weights), kind="stable")[:_EDGES]:
        (x1, y1), (x2, y2) = places[int(sources[edge])], places[int(targets[edge])]
        colour = palette.positive if weights[edge] > 0 else palette.negative
        parts.append(
            f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="{colour}" '
            'stroke-opacity="0.3" stroke-width="0.8" fill="none"/>'
        )
    for row, node, size in zip(rows, nodes, influence.tolist(), strict=True):
        x, y = places[row]
        radius = _SMALLEST + (_LARGEST - _SMALLEST) * size / largest
        colour = group_colour(group_of(node.kind), palette)
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{colour}" '
            'fill-opacity="0.85"/>'
        )
    return "".join([*parts, "</svg>"])


def _place(
    layer: int, position: int, n_layers: int, n_positions: int, index: int
) -> tuple[float, float]:
    """Return where a node is: tokens at the bottom, logits at the top, columns by position."""
    column = (WIDTH - 2 * _EDGE) / max(1, n_positions)
    spread = ((index * 0.618034) % 1.0 - 0.5) * 0.8  # nodes of one cell side by side
    x = _EDGE + column * (position + 0.5 + spread)
    y = HEIGHT - _EDGE - (HEIGHT - 2 * _EDGE) * (layer + 1) / (n_layers + 1)
    return x, y
