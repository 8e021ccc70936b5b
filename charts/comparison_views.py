"""Two compared graphs as a merged figure, as dumbbells and as a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from charts.comparison_drawing import column_text
from charts.graph_figure import FONT
from charts.palette import LIGHT, Palette
from charts.text import percent, plotly_text, plural, truncate
from tracer.graph.comparison import ComparedNode, Comparison, Side

SIDES: Final[Mapping[Side, str]] = {"both": "both", "left": "left only", "right": "right only"}
Name = Callable[[ComparedNode], str]


def side_colours(palette: Palette) -> dict[Side, str]:
    """Return the colour of shared nodes, and of those in only one graph."""
    return {"both": palette.text, "left": palette.feature, "right": palette.selected}


def _hover(node: ComparedNode, name: Name) -> str:
    lines = [f"<b>{plotly_text(truncate(name(node), 60))}</b>", SIDES[node.side]]
    if node.kind == "feature":
        lines[1] += f" · layer {node.layer} · feature {node.index}"
        lines.append(f"activation {_number(node.activation[0])} → {_number(node.activation[1])}")
    if node.kind != "token":
        lines.append(f"influence {percent(node.influence[0])} → {percent(node.influence[1])}")
    return "<br>".join(lines)


def _number(activation: float) -> str:
    return "unknown" if np.isnan(activation) else f"{activation:.2f}"


def difference_figure(
    comparison: Comparison, name: Name, palette: Palette = LIGHT, limit: int = 14
) -> go.Figure:
    """Draw the features whose influence differs most: a dot per graph."""
    features = [node for node in comparison.nodes if node.kind == "feature"]
    features.sort(key=lambda node: -abs(node.influence[1] - node.influence[0]))
    shown = features[:limit]
    places = list(range(len(shown)))
    figure = go.Figure()
    lines_x: list[float | None] = []
    lines_y: list[float | None] = []
    for place, node in zip(places, shown, strict=True):
        lines_x += [*node.influence, None]
        lines_y += [place, place, None]
    figure.add_scatter(
        x=lines_x,
        y=lines_y,
        mode="lines",
        line={"color": palette.grid, "width": 3},
        hoverinfo="skip",
        showlegend=False,
    )
    colours = side_colours(palette)
    for side, which in (("left", 0), ("right", 1)):
        figure.add_scatter(
            x=[node.influence[which] for node in shown],
            y=places,
            mode="markers",
            name=side,
            marker={"color": colours["left" if which == 0 else "right"], "size": 10},
            cliponaxis=False,
            hovertext=[_hover(node, name) for node in shown],
            hovertemplate="%{hovertext}<extra></extra>",
        )
    columns = comparison.columns
    names = [
        plotly_text(
            truncate(name(node), 28)
            + (
                ""
                if comparison.alignment == "feature"
                else f" · {column_text(columns[node.slot], '/')}"
            )
        )
        for node in shown
    ]
    figure.update_layout(
        height=24 * len(shown) + 64,
        margin={"l": 4, "r": 8, "t": 24, "b": 36},
        xaxis={
            "title": {"text": "influence", "standoff": 6},
            "tickformat": ".0%",
            "gridcolor": palette.grid,
            "zeroline": False,
            "rangemode": "tozero",
        },
        yaxis={
            "tickmode": "array",
            "tickvals": places,
            "ticktext": names,
            "range": [len(shown) - 0.5, -0.5],
            "automargin": True,
            "zeroline": False,
            "showgrid": False,
            "ticklabelstandoff": 10,
            "tickfont": {"size": 12, "color": palette.text},
        },
        legend={"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom"},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": FONT, "size": 12, "color": palette.muted},
        template="none",
        dragmode=False,
    )
    return figure


def comparison_table(comparison: Comparison, name: Name) -> pd.DataFrame:
    """Return a row per feature of either graph: place, activations and influences."""
    features = [node for node in comparison.nodes if node.kind == "feature"]
    features.sort(key=lambda node: -abs(node.influence[1] - node.influence[0]))
    anywhere = comparison.alignment == "feature"
    return pd.DataFrame(
        {
            "feature": [name(node) for node in features],
            "graph": [SIDES[node.side] for node in features],
            "token": [
                "" if anywhere else column_text(comparison.columns[node.slot], "/")
                for node in features
            ],
            "layer": [node.layer for node in features],
            "index": [node.index for node in features],
            "activation left": [node.activation[0] for node in features],
            "activation right": [node.activation[1] for node in features],
            "influence left": [node.influence[0] for node in features],
            "influence right": [node.influence[1] for node in features],
        }
    )


def comparison_sentence(comparison: Comparison) -> str:
    """Count features: ``"34 features in both graphs, 12 only left, 15 only right."``"""
    counts = {side: len(comparison.features(side)) for side in SIDES}
    return (
        f"{plural(counts['both'], 'feature')} in both graphs, {counts['left']:,} only left, "
        f"{counts['right']:,} only right."
    )


def edge_sentence(comparison: Comparison) -> str:
    """Say which share of the merged graph's edge weight both graphs have."""
    both = np.minimum(np.abs(comparison.left_weights), np.abs(comparison.right_weights)).sum()
    either = np.maximum(np.abs(comparison.left_weights), np.abs(comparison.right_weights)).sum()
    share = float(both / either) if either else 0.0
    return f"{percent(share)} of the edge weight is shared."
