"""What the browser needs to draw a graph and to answer clicks by itself, as bytes.

The bytes are 16 hexadecimal digits, a digest of the rest, and then JSON. The component compares the
digest before it parses, so a rerun that changes nothing costs nothing; and Streamlit sends bytes
far faster than a dict, which it would serialise twice.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields, replace
from typing import Any, Final

import numpy as np

from charts.drawing import Drawing
from charts.graph_edges import group_colour, placement
from charts.graph_figure import diameter, figure_spec
from charts.graph_layout import GraphLayout
from charts.legend import symbol_of
from charts.palette import DARK, LIGHT, Palette

DIGEST_LENGTH: Final = 16


def graph_payload(
    drawing: Drawing, width: float, height: float, max_names: int = 36, **extra: Any
) -> bytes:
    """Return the resting figure of ``drawing`` and a table of its nodes and edges.

    The figure is always drawn for a light page; a table of colours lets the browser turn it dark,
    so a change of theme needs no rerun. What is selected, pinned or switched off is not in it, so
    that a click changes nothing that has to be sent again. ``extra`` is passed on (JSON values).
    """
    layout = replace(drawing, selected=None, pinned=frozenset()).layout(width, height, max_names)
    content = {
        "figure": figure_spec(drawing, layout, LIGHT, show_choice=False),
        "side": _side(drawing, layout, [width, height]),
        "dark": _dark_colours(),
        **extra,
    }
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    return hashlib.sha256(text).hexdigest()[:DIGEST_LENGTH].encode() + text


def _side(drawing: Drawing, layout: GraphLayout, asked: list[float]) -> dict[str, Any]:
    """Nodes and edges, a list for each of their properties; edges strongest first."""
    at = placement(drawing, layout)
    order = np.argsort(-np.abs(drawing.weights), kind="stable")
    nodes = drawing.nodes
    colours = {group: group_colour(group, LIGHT) for group in {*(n.group for n in nodes)}}
    return {
        "id": [node.id for node in nodes],
        "kind": [node.kind for node in nodes],
        "symbol": [symbol_of(node.kind) for node in nodes],
        "layer": [node.layer for node in nodes],
        "position": [node.position for node in nodes],
        "name": [node.name for node in nodes],
        "place": [node.place for node in nodes],
        "influence": [round(node.influence, 5) for node in nodes],
        "size": [diameter(node.kind, node.influence) for node in nodes],
        "colour": [colours[node.group] for node in nodes],
        "x": at.x.round(1).tolist(),
        "y": at.y.round(1).tolist(),
        "chip_of": at.home.tolist(),
        "named": [bool(name) for name in at.names],
        "chips": [
            {
                "x": round(chip.x, 1),
                "y": round(chip.y, 1),
                "layer": chip.layer,
                "position": chip.position,
                "members": list(chip.members),
            }
            for chip in layout.chips
        ],
        "columns": [[c.name, round(c.start, 1), round(c.stop, 1)] for c in layout.columns],
        "rows": [[r.name, round(r.start, 1), round(r.stop, 1)] for r in layout.rows[1:-1]],
        "source": drawing.sources[order].tolist(),
        "target": drawing.targets[order].tolist(),
        "weight": [float(f"{weight:.4g}") for weight in drawing.weights[order]],
        "edge_colour": _edge_colours(drawing, order),
        "width": round(layout.width, 1),
        "height": round(layout.height, 1),
        "asked": asked,
        "palette": {field.name: getattr(LIGHT, field.name) for field in fields(Palette)},
    }


def _edge_colours(drawing: Drawing, order: np.ndarray) -> list[str]:
    """The colour of every edge where it is not its sign; empty where it is."""
    groups = drawing.edge_groups
    return [group_colour(groups[i], LIGHT) for i in order] if groups else []


def _dark_colours() -> dict[str, str]:
    """Every colour of the light palette and the one that takes its place on a dark page."""
    return {getattr(LIGHT, field.name): getattr(DARK, field.name) for field in fields(Palette)}
