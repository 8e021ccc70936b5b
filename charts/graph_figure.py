"""The attribution graph as a Plotly figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import plotly.graph_objects as go

from charts.graph_frame import SYMBOLS, column_label, curves, diameter, frame, node_label
from charts.graph_layout import GraphLayout, LayoutNode, PlacedNode, layout_graph
from charts.graph_view import GraphView
from charts.palette import LIGHT, Palette, translucent
from charts.text import (
    activation_text,
    percent,
    place,
    plotly_text,
    signed,
    token_text,
    truncate,
)
from tracer.types import NodeId

_LEGEND: Final = {"feature": "feature", "error": "error", "token": "token", "logit": "next token"}
_STRENGTHS: Final = ((0.0, 0.9, 0.35), (0.3, 1.7, 0.5), (0.62, 3.0, 0.75))
"""Buckets of edges: lower bound as a share of the strongest weight, line width in px, opacity."""
_HOVER_NEIGHBOURS: Final = 3


def graph_figure(
    view: GraphView, palette: Palette = LIGHT, width: float = 760.0, max_labels: int = 32
) -> go.Figure:
    """Draw a view: columns are tokens, rows are layers.

    Circles are features, diamonds are errors, squares are tokens and logits. Node area grows with
    influence. Positive edges are green and solid, negative ones red and dashed; strong edges are
    wide. Every marker and label has its node's id (``str(NodeId)``) as ``customdata`` or ``name``.
    Axes are in pixels; ``figure.layout.meta`` has the natural size.
    """
    layout = layout_view(view, width, max_labels)
    at = {view.pruned.graph.index.row(p.node): p for p in layout.nodes}
    figure = go.Figure()
    _add_edges(figure, view, at, palette)
    for kind in SYMBOLS:
        _add_nodes(figure, view, [p for p in layout.nodes if p.node.kind == kind], palette)
    _dress(figure, view, layout, palette)
    return figure


def layout_view(view: GraphView, width: float = 760.0, max_labels: int = 32) -> GraphLayout:
    """Lay out the drawn nodes of a view."""
    graph = view.pruned.graph
    nodes = []
    for row in view.rows:
        node = graph.index.node(row)
        label = ""
        if node.kind == "logit":
            target = graph.targets[row - graph.index.logit_rows.start]
            label = f"{truncate(token_text(target.label), 24)} {percent(target.probability)}"
        elif node.kind == "feature" and node.feature in view.names:
            label = view.names[node.feature]
        elif node.kind == "feature" and not view.names:
            label = f"{node.index}"  # a graph without names: show feature numbers
        nodes.append(LayoutNode(node, view.influence(node), label))
    return layout_graph(nodes, graph.tokens, graph.n_layers, width, max_labels)


def _add_edges(
    figure: go.Figure, view: GraphView, at: dict[int, PlacedNode], palette: Palette
) -> None:
    """Add edges as a few NaN-separated traces; one trace per edge would take seconds to draw."""
    sources, targets, weights = view.edges
    if not len(weights):
        return
    strength = np.abs(weights) / np.abs(weights).max()
    selected = view.selected_row
    own = np.full(len(weights), selected is None)
    if selected is not None:
        own = (sources == selected) | (targets == selected)
    bounds = [bucket[0] for bucket in _STRENGTHS]
    buckets = np.searchsorted(bounds, strength, side="right") - 1
    for emphasis in (False, True):
        for positive in (True, False):
            colour = palette.positive if positive else palette.negative
            for number, (_, width, opacity) in enumerate(_STRENGTHS):
                chosen = (own == emphasis) & ((weights > 0) == positive) & (buckets == number)
                if not chosen.any():
                    continue
                x, y = curves(
                    [at[int(s)] for s in sources[chosen]], [at[int(t)] for t in targets[chosen]]
                )
                look = (width, opacity)
                if selected is not None:
                    look = (width + 0.5, 0.9) if emphasis else (0.9, 0.13)
                figure.add_scatter(
                    x=x,
                    y=y,
                    mode="lines",
                    hoverinfo="skip",
                    showlegend=False,
                    name=("positive" if positive else "negative") + " effects",
                    line={
                        "color": translucent(colour, look[1]),
                        "width": look[0],
                        "dash": "solid" if positive else "4px,3px",
                    },
                )


def _add_nodes(
    figure: go.Figure, view: GraphView, placed: Sequence[PlacedNode], palette: Palette
) -> None:
    if not placed:
        return
    kind = placed[0].node.kind
    base = {"feature": palette.feature, "error": palette.error}.get(kind, palette.anchor)
    connected = _connected(view)
    figure.add_scatter(
        x=[round(p.x, 1) for p in placed],
        y=[round(p.y, 1) for p in placed],
        mode="markers",
        name=_LEGEND[kind],
        showlegend=False,
        customdata=[str(p.node) for p in placed],
        hovertext=[_hover(view, p.node) for p in placed],
        hovertemplate="%{hovertext}<extra></extra>",
        marker={
            "symbol": SYMBOLS[kind],
            "size": [_size(view, p.node) for p in placed],
            "color": [palette.background if p.node in view.off else base for p in placed],
            "opacity": [1.0 if p.node in connected else 0.35 for p in placed],
            "line": {
                "color": [_ring(view, p.node, palette)[0] for p in placed],
                "width": [_ring(view, p.node, palette)[1] for p in placed],
            },
        },
    )


def _ring(view: GraphView, node: NodeId, palette: Palette) -> tuple[str, float]:
    """Return colour and width in px of the line around a node."""
    if node == view.selected:
        return palette.selected, 3.0
    if node in view.off:
        return palette.negative, 2.0
    return (palette.text, 2.5) if node in view.pinned else (palette.background, 1.0)


def _connected(view: GraphView) -> set[NodeId]:
    """Return the selected node and its neighbours; all nodes while none is selected."""
    index = view.pruned.graph.index
    if view.selected_row is None:
        return {index.node(row) for row in view.rows}
    sources, targets, _ = view.edges
    own = (sources == view.selected_row) | (targets == view.selected_row)
    rows = {view.selected_row, *map(int, sources[own]), *map(int, targets[own])}
    return {index.node(row) for row in rows}


def _size(view: GraphView, node: NodeId) -> float:
    return diameter(node.kind, view.influence(node))


def _hover(view: GraphView, node: NodeId) -> str:
    graph = view.pruned.graph
    lines = [
        f"<b>{plotly_text(truncate(view.name(node), 60))}</b>",
        plotly_text(place(graph, node)),
    ]
    if node.kind == "feature":
        activation = float(graph.activations[graph.index.row(node)])
        lines[1] += f" · {node.feature} · activation {activation_text(activation)}"
    if node.kind == "logit":
        number = graph.index.row(node) - graph.index.logit_rows.start
        lines.append(f"probability {percent(graph.targets[number].probability)}")
    else:
        lines.append(f"influence {percent(view.influence(node))}")
    for title, neighbours in (
        ("input:", view.inputs(node, _HOVER_NEIGHBOURS)),
        ("output:", view.outputs(node, _HOVER_NEIGHBOURS)),
    ):
        lines += [
            f"{title} {plotly_text(truncate(n.name, 40))} {signed(n.weight)}" for n in neighbours
        ]
    return "<br>".join(lines)


def _dress(figure: go.Figure, view: GraphView, layout: GraphLayout, palette: Palette) -> None:
    """Add axes, layer bands and labels. Labels can be clicked like their nodes."""
    connected, graph = _connected(view), view.pruned.graph
    labels = []
    for position, token in enumerate(graph.tokens):
        node = NodeId("token", -1, position, graph.token_ids[position])
        label = column_label(layout, position, truncate(token_text(token), 14), palette)
        opacity = 1.0 if node in connected else 0.45
        labels.append(label | {"captureevents": True, "name": str(node), "opacity": opacity})
    for p in layout.nodes:
        if p.label:
            strong = p.node.kind == "logit" or p.node == view.selected
            label = node_label(p, _size(view, p.node), palette, strong)
            opacity = 1.0 if p.node in connected else 0.4
            labels.append(label | {"captureevents": True, "name": str(p.node), "opacity": opacity})
    frame(figure, layout, labels, palette)
    figure.update_layout(clickmode="event+select", uirevision="graph")
