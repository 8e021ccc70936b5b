"""Two compared graphs as a merged figure, as dumbbells and as a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from charts.graph_frame import (
    FONT,
    SYMBOLS,
    column_label,
    curves,
    diameter,
    frame,
    node_label,
)
from charts.graph_layout import GraphLayout, LayoutNode, PlacedNode, layout_graph
from charts.palette import LIGHT, Palette, translucent
from charts.text import percent, plotly_text, plural, target_number, token_text, truncate
from tracer.graph.comparison import ComparedNode, Comparison, Side
from tracer.graph.nodes import FloatArray
from tracer.types import NodeId

SIDES: Final[Mapping[Side, str]] = {"both": "both", "left": "left only", "right": "right only"}
STRONGEST_INPUTS: Final = 3
Name = Callable[[ComparedNode], str]


def side_colours(palette: Palette) -> dict[Side, str]:
    """Return the colour of shared nodes, and of those in only one graph."""
    return {"both": palette.text, "left": palette.feature, "right": palette.selected}


def merged_figure(
    comparison: Comparison,
    name: Name,
    palette: Palette = LIGHT,
    width: float = 1050.0,
    max_labels: int = 40,
) -> go.Figure:
    """Draw both graphs in one: columns are aligned tokens, rows are layers, colours the graphs.

    Draws the three strongest inputs of each node, in the colour of the graph they belong to. Every
    marker has the index of its node in ``comparison.nodes`` as ``customdata``.
    """
    layout = _layout(comparison, name, width, max_labels)
    # two tokens of one column are drawn side by side
    at = {placed.node.index: placed for placed in _apart(comparison, layout)}
    figure = go.Figure()
    _add_edges(figure, comparison, at, palette)
    for side, colour in side_colours(palette).items():
        numbers = [i for i, node in enumerate(comparison.nodes) if node.side == side]
        figure.add_scatter(
            x=[at[i].x for i in numbers],
            y=[at[i].y for i in numbers],
            mode="markers",
            name=SIDES[side],
            showlegend=False,
            customdata=numbers,
            hovertext=[_hover(comparison.nodes[i], name) for i in numbers],
            hovertemplate="%{hovertext}<extra></extra>",
            marker={
                "symbol": [SYMBOLS[comparison.nodes[i].kind] for i in numbers],
                "size": [_size(comparison.nodes[i]) for i in numbers],
                "color": colour,
                "line": {"color": palette.background, "width": 1},
            },
        )
    _dress(figure, comparison, layout, at, palette)
    return figure


def _layout(comparison: Comparison, name: Name, width: float, max_labels: int) -> GraphLayout:
    nodes = []
    for number, node in enumerate(comparison.nodes):
        label = name(node) if node.kind in ("feature", "logit") else ""
        if node.kind == "logit":
            label = f"{label} {_probabilities(comparison, node)}"
        own = NodeId(node.kind, node.layer, node.slot, number)
        nodes.append(LayoutNode(own, max(node.influence), label))
    n_layers = max(comparison.left.graph.n_layers, comparison.right.graph.n_layers)
    return layout_graph(nodes, comparison.columns, n_layers, width, max_labels)


def _probabilities(comparison: Comparison, node: ComparedNode) -> str:
    """Return the probabilities of a target, left / right where both graphs have it."""
    shares = []
    for pruned, nodes in ((comparison.left, node.left), (comparison.right, node.right)):
        graph = pruned.graph
        shares += [percent(graph.targets[target_number(graph, n)].probability) for n in nodes]
    return " / ".join(shares)


def _apart(comparison: Comparison, layout: GraphLayout) -> list[PlacedNode]:
    shift = {"both": 0.0, "left": -8.0, "right": 8.0}
    return [
        PlacedNode(p.node, p.x + shift[comparison.nodes[p.node.index].side], p.y, p.label)
        if p.node.kind == "token"
        else p
        for p in layout.nodes
    ]


def _size(node: ComparedNode) -> float:
    return diameter(node.kind, max(node.influence))


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


def _add_edges(
    figure: go.Figure, comparison: Comparison, at: Mapping[int, PlacedNode], palette: Palette
) -> None:
    left, right = comparison.left_weights, comparison.right_weights
    weights: FloatArray = np.where(np.abs(left) >= np.abs(right), left, right)
    chosen = _strongest_inputs(comparison.targets, weights)
    if not len(chosen):
        return
    strongest = np.abs(weights).max()
    colours = side_colours(palette)
    sides = np.where(left == 0, "right", np.where(right == 0, "left", "both"))
    for side, colour in colours.items():
        for positive in (True, False):
            for strong in (False, True):
                part = [
                    i
                    for i in chosen
                    if sides[i] == side
                    and (weights[i] > 0) == positive
                    and (abs(weights[i]) > 0.3 * strongest) == strong
                ]
                if not part:
                    continue
                x, y = curves(
                    [at[int(comparison.sources[i])] for i in part],
                    [at[int(comparison.targets[i])] for i in part],
                )
                figure.add_scatter(
                    x=x,
                    y=y,
                    mode="lines",
                    hoverinfo="skip",
                    showlegend=False,
                    line={
                        "color": translucent(colour, 0.75 if strong else 0.35),
                        "width": 2.2 if strong else 1.0,
                        "dash": "solid" if positive else "4px,3px",
                    },
                )


def _strongest_inputs(targets: np.ndarray, weights: FloatArray) -> list[int]:
    seen: dict[int, int] = {}
    chosen = []
    for edge in np.argsort(-np.abs(weights), kind="stable"):
        target = int(targets[edge])
        if seen.get(target, 0) < STRONGEST_INPUTS:
            seen[target] = seen.get(target, 0) + 1
            chosen.append(int(edge))
    return chosen


def _dress(
    figure: go.Figure,
    comparison: Comparison,
    layout: GraphLayout,
    at: Mapping[int, PlacedNode],
    palette: Palette,
) -> None:
    labels = [
        column_label(layout, number, truncate(_column_text(tokens, " / "), 22), palette)
        for number, tokens in enumerate(comparison.columns)
    ]
    for placed in at.values():
        if placed.label:
            size = _size(comparison.nodes[placed.node.index])
            labels.append(node_label(placed, size, palette))
    frame(figure, layout, labels, palette)


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
                else f" · {_column_text(columns[node.slot])}"
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


def _column_text(column: str, between: str = "/") -> str:
    return between.join(token_text(part) for part in column.split(" / "))


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
                "" if anywhere else _column_text(comparison.columns[node.slot]) for node in features
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
