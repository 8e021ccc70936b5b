"""Pinned nodes and supernodes as a flow diagram: boxes, and curves for direct effects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import plotly.graph_objects as go

from charts.edit_groups import lone_names
from charts.graph_cells import CHARACTER
from charts.graph_edges import group_colour
from charts.graph_figure import FONT
from charts.graph_view import GraphView
from charts.legend import group_of
from charts.palette import LIGHT, Palette, translucent
from charts.text import percent, place, plotly_text, signed, token_text, truncate
from tracer.types import Supernode

_ROW: Final = 74.0
_SAME_ROW: Final = 0.75
"""Groups whose mean layers are closer than this share a row."""
_NAME_LENGTH: Final = 26
_GAP: Final = 26.0
_VISIBLE: Final = 0.02
"""Share of the strongest edge below which an edge is too faint to see."""
HALF: Final = 17.0
"""Half the height of a box."""
COLOURS: Final = ("#c2410c", "#7c3aed", "#0e7490", "#a16207", "#be185d", "#4d7c0f")
"""Colours of supernodes that were given none, in turn."""


@dataclass(frozen=True)
class FlowBox:
    """A group with its note, and the centre and width of its box in pixels."""

    group: Supernode
    note: str
    x: float
    y: float
    width: float


def flow_groups(view: GraphView, supernodes: Sequence[Supernode]) -> tuple[Supernode, ...]:
    """Return supernodes, the other pinned nodes each alone, and the likeliest answer.

    An expanded supernode gives a box for each member, in its colour.
    """
    index = view.pruned.graph.index
    groups: list[Supernode] = []
    for number, group in enumerate(supernodes):
        nodes = tuple(node for node in group.nodes if node in index)
        colour = group.colour or COLOURS[number % len(COLOURS)]
        if group.is_expanded:
            names = lone_names(view, nodes)
            groups += [Supernode(names[node], (node,), colour) for node in nodes]
        elif nodes:
            groups.append(Supernode(group.name, nodes, colour))
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
    boxes = place_boxes(view, groups, width, left or {})
    figure, edges = go.Figure(), _strengths(view, groups)
    for (source, target), (weight, strength) in edges.items():
        a, b = boxes[source], boxes[target]
        x, y = _curve(a.x, a.y + HALF, b.x, b.y - HALF)
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
            hovertext=plotly_text(_edge_text(groups, source, target, weight)),
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


def _strengths(
    view: GraphView, groups: Sequence[Supernode]
) -> dict[tuple[int, int], tuple[float, float]]:
    """Return the weight of each visible edge and its share of the strongest, weakest first."""
    edges = flow_edges(view, groups)
    strongest = max(map(abs, edges.values()), default=1.0) or 1.0
    shares = {edge: (weight, abs(weight) / strongest) for edge, weight in edges.items()}
    visible = {edge: found for edge, found in shares.items() if found[1] >= _VISIBLE}
    return dict(sorted(visible.items(), key=lambda entry: entry[1][1]))


def _curve(x0: float, y0: float, x1: float, y1: float) -> tuple[list[float], list[float]]:
    """Return points of a Bézier curve that leaves upwards and arrives from below."""
    t = np.linspace(0.0, 1.0, 14)
    bend = 0.5 * abs(y1 - y0)
    basis = ((1 - t) ** 3, 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3)
    x = x0 * (basis[0] + basis[1]) + x1 * (basis[2] + basis[3])
    y = y0 * basis[0] + (y0 + bend) * basis[1] + (y1 - bend) * basis[2] + y1 * basis[3]
    return x.round(1).tolist(), y.round(1).tolist()


def _edge_text(groups: Sequence[Supernode], source: int, target: int, weight: float) -> str:
    return f"{groups[source].name} → {groups[target].name}: {signed(weight)}"


def flow_data(
    view: GraphView,
    groups: Sequence[Supernode],
    positions: Mapping[str, tuple[float, float]],
    width: float = 700.0,
    left: Mapping[str, float] | None = None,
    off: str | None = None,
) -> dict[str, Any]:
    """Return the diagram for the browser, where boxes can be dragged; JSON values.

    ``positions`` are those of boxes that were moved: the share of the width, and pixels from the
    top. ``left`` and ``off`` are those of :func:`flow_figure`.
    """
    left = left or {}
    boxes = place_boxes(view, groups, width, left)
    height = max(box.y for box in boxes) + HALF + 18
    shown = []
    for box in boxes:
        x, y = box.x, height - box.y
        if box.group.name in positions:
            share, y = positions[box.group.name]
            x = share * width
        node = box.group.nodes[0]
        shown.append(
            {
                "key": box.group.name,
                "name": truncate(_box_name(box.group), _NAME_LENGTH),
                "note": "off" if box.group.name == off else box.note,
                "share": 0.0 if box.group.name == off else _share(left.get(box.group.name)),
                "dashed": box.group.name == off or _share(left.get(box.group.name)) < 0.5,
                "text": f"{box.group.name}: {_members(view, box.group)}",
                "x": round(min(max(x, box.width / 2), width - box.width / 2), 1),
                "y": round(min(max(y, HALF + 2.0), height - HALF - 2.0), 1),
                "width": round(box.width, 1),
                "colour": box.group.colour,
                "id": str(node) if len(box.group.nodes) == 1 else "",
            }
        )
    edges = [
        {
            "source": source,
            "target": target,
            "weight": round(weight, 5),
            "strength": round(strength, 4),
            "text": _edge_text(groups, source, target, weight),
        }
        for (source, target), (weight, strength) in _strengths(view, groups).items()
    ]
    names = ", ".join(group.name for group in groups)
    return {
        "width": width,
        "height": round(height, 1),
        "boxes": shown,
        "edges": edges,
        "summary": f"Flow diagram of {names}",
        "colours": {
            "positive": LIGHT.positive, "negative": LIGHT.negative, "feature": LIGHT.feature,
        },
    }  # fmt: skip


def place_boxes(
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
    return max(96.0, min(len(_box_name(group)), _NAME_LENGTH) * (CHARACTER + 1.3) + 22)


def _box_name(group: Supernode) -> str:
    """Return the name in the box; a single node's place is in the note instead."""
    name = group.name.split(" · ")[0] if len(group.nodes) == 1 else group.name
    return token_text(name)


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


def _share(left: float | None) -> float:
    """Return the remaining activation, 0..1; 1 where it is unknown."""
    return 1.0 if left is None or np.isnan(left) else round(min(1.0, max(0.0, left)), 3)


def _add_box(
    figure: go.Figure,
    view: GraphView,
    box: FlowBox,
    palette: Palette,
    left: float | None,
    off: str | None,
) -> None:
    gone = box.group.name == off
    share = _share(left)
    colour = box.group.colour or group_colour(group_of(box.group.nodes[0].kind), palette)
    figure.add_shape(
        type="rect",
        x0=box.x - box.width / 2,
        x1=box.x + box.width / 2,
        y0=box.y - HALF,
        y1=box.y + HALF,
        fillcolor=palette.background,
        line={"width": 0},
        layer="above",
    )
    figure.add_shape(
        type="rect",
        x0=box.x - box.width / 2,
        x1=box.x + box.width / 2,
        y0=box.y - HALF,
        y1=box.y + HALF,
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
        text=f"<b>{plotly_text(truncate(_box_name(box.group), _NAME_LENGTH))}</b><br>"
        f"<span style='font-size:10.5px'>{'off' if gone else plotly_text(box.note)}</span>",
        showarrow=False,
        font={"size": 12, "color": palette.text},
        hovertext=plotly_text(_members(view, box.group)),
    )


def _members(view: GraphView, group: Supernode) -> str:
    lines = [f"{view.name(node)}, {place(view.pruned.graph, node)}" for node in group.nodes[:8]]
    more = len(group.nodes) - len(lines)
    return "; ".join(lines) + (f"; {more} more" if more else "")
