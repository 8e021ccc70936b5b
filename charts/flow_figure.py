"""Pinned nodes and supernodes as a flow diagram: boxes, and curves for direct effects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import plotly.graph_objects as go

from charts.edit_groups import lone_names
from charts.graph_frame import FONT, curves
from charts.graph_layout import CHARACTER, PlacedNode
from charts.graph_view import GraphView
from charts.palette import LIGHT, Palette, translucent
from charts.text import percent, place, plotly_text, signed, token_text, truncate
from tracer.types import Supernode

_ROW: Final = 74.0
_SAME_ROW: Final = 0.75
"""Groups whose mean layers are closer than this share a row."""
_NAME_LENGTH: Final = 26
_GAP: Final = 26.0


@dataclass(frozen=True)
class FlowBox:
    """A group with its note, and the centre and width of its box in pixels."""

    group: Supernode
    note: str
    x: float
    y: float
    width: float


def flow_groups(view: GraphView, supernodes: Sequence[Supernode]) -> tuple[Supernode, ...]:
    """Return supernodes, other pinned nodes as groups of one, and the top target."""
    index = view.pruned.graph.index
    groups = [
        Supernode(group.name, nodes)
        for group in supernodes
        if (nodes := tuple(node for node in group.nodes if node in index))
    ]
    grouped = {node for group in groups for node in group.nodes}
    alone = lone_names(view, sorted(view.pinned - grouped))
    groups += [Supernode(name, (node,)) for node, name in alone.items()]
    top = index.node(index.logit_rows.start)
    if not any(top in group.nodes for group in groups):
        groups.append(Supernode(view.name(top), (top,)))
    return tuple(groups)


def flow_edges(view: GraphView, groups: Sequence[Supernode]) -> dict[tuple[int, int], float]:
    """Sum the direct effects of one group on another; keys are indices into ``groups``.

    Read from the unpruned graph, as pinned nodes may have been pruned.
    """
    graph = view.pruned.graph
    owner = np.full(graph.n_nodes, -1)
    for number, group in enumerate(groups):
        owner[[graph.index.row(node) for node in group.nodes]] = number
    sources, targets = owner[graph.sources], owner[graph.rows]
    chosen = (sources >= 0) & (targets >= 0) & (sources != targets)
    edges: dict[tuple[int, int], float] = {}
    for source, target, weight in zip(
        sources[chosen], targets[chosen], graph.weights[chosen], strict=True
    ):
        edge = (int(source), int(target))
        edges[edge] = edges.get(edge, 0.0) + float(weight)
    return edges


def flow_figure(
    view: GraphView,
    groups: Sequence[Supernode],
    palette: Palette = LIGHT,
    width: float = 760.0,
    left: Mapping[str, float] | None = None,
    off: str | None = None,
) -> go.Figure:
    """Draw boxes in rows by layer, tokens at the bottom; green curves raise, red curves lower.

    ``left`` maps group names to the share of activation that remains while the group ``off`` is
    switched off. It is written into the box; a box that lost its activation is pale.
    """
    boxes = _place(view, groups, width, left or {})
    figure = go.Figure()
    edges = flow_edges(view, groups)
    strongest = max(map(abs, edges.values()), default=1.0)
    for (source, target), weight in sorted(edges.items(), key=lambda edge: abs(edge[1])):
        strength = abs(weight) / strongest
        if strength < 0.02:
            continue  # too faint to see
        a, b = boxes[source], boxes[target]
        dummy = groups[source].nodes[0]
        x, y = curves(
            [PlacedNode(dummy, a.x, a.y + 17, "")], [PlacedNode(dummy, b.x, b.y - 19, "")]
        )
        colour = palette.positive if weight > 0 else palette.negative
        figure.add_scatter(
            x=x,
            y=y,
            mode="lines",
            showlegend=False,
            line={
                "color": translucent(colour, 0.3 + 0.6 * strength),
                "width": 1.2 + 4 * strength,
                "dash": "solid" if weight > 0 else "4px,3px",
            },
            hoverinfo="text",
            hovertext=plotly_text(
                f"{groups[source].name} → {groups[target].name}: {signed(weight)}"
            ),
        )
    for box in boxes:
        _add_box(figure, view, box, palette, (left or {}).get(box.group.name), off)
    height = max(box.y for box in boxes) + 40
    axis = {"visible": False, "zeroline": False, "showgrid": False, "fixedrange": True}
    figure.update_layout(
        xaxis={**axis, "range": [0, max(width, max(b.x + b.width / 2 for b in boxes) + 8)]},
        yaxis={**axis, "range": [0, height]},
        height=round(height),
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": FONT, "color": palette.text},
        hovermode="closest",
        dragmode=False,
        template="none",
    )
    return figure


def _place(
    view: GraphView, groups: Sequence[Supernode], width: float, left: Mapping[str, float]
) -> list[FlowBox]:
    """Arrange boxes in rows by mean layer, bottom up, and in a row by mean position."""
    layers = [float(np.mean([node.layer for node in group.nodes])) for group in groups]
    places = [float(np.mean([node.position for node in group.nodes])) for group in groups]
    order = sorted(range(len(groups)), key=lambda i: (layers[i], places[i]))
    rows: list[list[int]] = []
    for i in order:
        fits = rows and layers[i] - layers[rows[-1][0]] < _SAME_ROW
        wide = fits and sum(_width(groups[j]) + _GAP for j in (*rows[-1], i)) > width
        if not fits or wide:
            rows.append([])
        rows[-1].append(i)
    boxes: dict[int, FlowBox] = {}
    for number, row in enumerate(rows):
        row.sort(key=lambda i: places[i])
        taken = sum(_width(groups[i]) for i in row)
        gap = max(_GAP, (width - taken) / (len(row) + 1))
        x = gap if len(row) > 1 or taken < width else 4.0
        for i in row:
            size = _width(groups[i])
            note = _note(view, groups[i], left.get(groups[i].name))
            boxes[i] = FlowBox(groups[i], note, x + size / 2, 34 + _ROW * number, size)
            x += size + gap
    return [boxes[i] for i in range(len(groups))]


def _width(group: Supernode) -> float:
    return max(96.0, min(len(group.name), _NAME_LENGTH) * (CHARACTER + 0.9) + 22)


def _note(view: GraphView, group: Supernode, left: float | None) -> str:
    if left is not None and not np.isnan(left):
        share = percent(max(left, 0.0)) if left < 9.995 else f"{left:.0f}×"
        return f"activation {share}"
    count = len(group.nodes)
    if count > 1:
        return f"{count} nodes"
    node = group.nodes[0]
    graph = view.pruned.graph
    if node.kind == "logit":
        number = graph.index.row(node) - graph.index.logit_rows.start
        return percent(graph.targets[number].probability)
    return place(graph, node)


def _add_box(
    figure: go.Figure,
    view: GraphView,
    box: FlowBox,
    palette: Palette,
    left: float | None,
    off: str | None,
) -> None:
    gone = box.group.name == off
    share = 1.0 if left is None or np.isnan(left) else min(1.0, max(0.0, left))
    kind = box.group.nodes[0].kind
    colour = palette.feature if kind == "feature" else palette.anchor
    name = box.group.name.split(" · ")[0] if len(box.group.nodes) == 1 else box.group.name
    figure.add_shape(
        type="rect",
        x0=box.x - box.width / 2,
        x1=box.x + box.width / 2,
        y0=box.y - 17,
        y1=box.y + 17,
        fillcolor=palette.background,
        line={"width": 0},
        layer="above",
    )
    figure.add_shape(
        type="rect",
        x0=box.x - box.width / 2,
        x1=box.x + box.width / 2,
        y0=box.y - 17,
        y1=box.y + 17,
        fillcolor=translucent(colour, 0.04 + 0.2 * (0.0 if gone else share)),
        line={
            "color": palette.negative if gone else colour,
            "width": 1.4,
            "dash": "dash" if gone or share < 0.5 else "solid",
        },
        layer="above",
    )
    figure.add_annotation(
        x=box.x,
        y=box.y,
        text=f"<b>{plotly_text(truncate(token_text(name), _NAME_LENGTH))}</b><br>"
        f"<span style='font-size:10.5px'>{'off' if gone else plotly_text(box.note)}</span>",
        showarrow=False,
        font={"size": 12, "color": palette.text},
        hovertext=plotly_text(_members(view, box.group)),
    )


def _members(view: GraphView, group: Supernode) -> str:
    lines = [f"{view.name(node)}, {place(view.pruned.graph, node)}" for node in group.nodes[:8]]
    more = len(group.nodes) - len(lines)
    return "; ".join(lines) + (f"; {more} more" if more else "")
