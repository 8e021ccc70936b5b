"""What all drawings of a graph share: layer bands, labels, curves, pixel axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import plotly.graph_objects as go

from charts.graph_layout import GraphLayout, PlacedNode
from charts.palette import Palette, translucent
from charts.text import plotly_text
from tracer.graph.nodes import FloatArray
from tracer.types import NodeKind

FONT: Final = '"Source Sans", "Source Sans Pro", system-ui, sans-serif'
SYMBOLS: Final = {"feature": "circle", "error": "diamond", "token": "square", "logit": "square"}
_CURVE_POINTS: Final = 12


def diameter(kind: NodeKind, influence: float) -> float:
    """Return the diameter of a node's marker in px; its area grows with influence (0..1)."""
    if kind in ("token", "logit"):
        return 9.0 if kind == "token" else 12.0
    return float(round(7.0 + 12.0 * min(1.0, influence) ** 0.5, 1))


def curves(
    sources: Sequence[PlacedNode], targets: Sequence[PlacedNode]
) -> tuple[FloatArray, FloatArray]:
    """Return Bézier curves that leave upwards and arrive from below, separated by NaN."""
    t = np.linspace(0.0, 1.0, _CURVE_POINTS)
    ends = np.array([[s.x, s.y, e.x, e.y] for s, e in zip(sources, targets, strict=True)])
    x0, y0, x1, y1 = (ends[:, i : i + 1] for i in range(4))
    bend = 0.5 * np.abs(y1 - y0)
    basis = ((1 - t) ** 3, 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3)
    x = x0 * basis[0] + x0 * basis[1] + x1 * basis[2] + x1 * basis[3]
    y = y0 * basis[0] + (y0 + bend) * basis[1] + (y1 - bend) * basis[2] + y1 * basis[3]
    gap = np.full((len(ends), 1), np.nan)
    return (
        np.hstack([x, gap]).round(1).astype(np.float32).ravel(),
        np.hstack([y, gap]).round(1).astype(np.float32).ravel(),
    )


def column_label(layout: GraphLayout, number: int, text: str, palette: Palette) -> dict[str, Any]:
    """Return the annotation that names a column, below its token's square."""
    return {
        "x": layout.columns[number].middle,
        "y": layout.rows[0].stop - 38.0,
        "text": plotly_text(text),
        "showarrow": False,
        "font": {"size": 13, "color": palette.text},
    }


def node_label(
    placed: PlacedNode, size: float, palette: Palette, strong: bool = False
) -> dict[str, Any]:
    """Return the annotation that names a node, to the right of its marker of ``size`` px."""
    text = plotly_text(placed.label)
    return {
        "x": placed.x,
        "y": placed.y,
        "xshift": size / 2 + 3,
        "text": f"<b>{text}</b>" if strong else text,
        "showarrow": False,
        "xanchor": "left",
        "align": "left",
        "bgcolor": translucent(palette.background, 0.72),
        "borderpad": 1,
        "font": {"size": 13 if placed.node.kind == "logit" else 12, "color": palette.text},
    }


def frame(
    figure: go.Figure, layout: GraphLayout, labels: Sequence[dict[str, Any]], palette: Palette
) -> None:
    """Add layer bands, layer names and labels to a figure, and set its axes to pixels."""
    shapes = [
        {
            "type": "rect",
            "layer": "below",
            "xref": "paper",
            "x0": 0,
            "x1": 1,
            "y0": row.start,
            "y1": row.stop,
            "fillcolor": palette.band,
            "line": {"width": 0},
        }
        for row in layout.rows[1::2]
    ]
    rows = [
        {
            "x": 2,
            "y": row.middle if row is not layout.rows[0] else row.stop - 17.0,
            "text": row.name,
            "showarrow": False,
            "xanchor": "left",
            "font": {"size": 11, "color": palette.muted},
        }
        for row in layout.rows
    ]
    axis = {"visible": False, "zeroline": False, "showgrid": False}
    figure.update_layout(
        shapes=shapes,
        annotations=[*rows, *labels],
        xaxis={**axis, "range": [0, layout.width]},
        yaxis={**axis, "range": [0, layout.height]},
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        height=round(layout.height),
        meta={"width": round(layout.width), "height": round(layout.height)},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": FONT, "color": palette.text},
        hoverlabel={
            "bgcolor": palette.background,
            "bordercolor": palette.grid,
            "font": {"family": FONT, "size": 12.5, "color": palette.text},
            "align": "left",
        },
        hovermode="closest",
        hoverdistance=12,
        dragmode="pan",
        showlegend=False,
        template="none",
    )
