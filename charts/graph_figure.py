"""A drawing of a graph as a Plotly figure: columns are tokens, rows are layers.

The figure is pure: the same drawing and size give the same figure. It shows the graph at rest, or
with one node selected, for every place where nothing interactive can be shown (exports, tests,
``st.plotly_chart``). The interactive component draws the resting figure once and answers clicks
itself, without redrawing it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import plotly.graph_objects as go

from charts.drawing import Drawing, DrawnNode
from charts.graph_edges import Placement, edge_shapes, group_colour, placement
from charts.graph_layout import TOKEN_BAND, GraphLayout
from charts.legend import symbol_of
from charts.palette import LIGHT, Palette
from charts.text import percent, plotly_text, truncate
from tracer.graph.generic import is_error_kind
from tracer.graph.kinds import kind_name
from tracer.types import COMPUTED_KINDS

_LEGEND: Final = 34
"""Height in pixels of the legend below the figure."""
_GENERIC: Final = "kind "
"""Before the name of a kind that could be any word, also one that names another trace."""
FONT: Final = '"Source Sans", "Source Sans Pro", system-ui, sans-serif'


def graph_figure(
    drawing: Drawing,
    palette: Palette = LIGHT,
    width: float = 930.0,
    height: float = 720.0,
    max_names: int = 36,
    show_choice: bool = True,
) -> go.Figure:
    """Return the figure of ``drawing`` in a picture of ``width`` times ``height`` pixels.

    Circles are features, diamonds errors, squares tokens and answers; size grows with influence.
    Kinds that only other tools compute have symbols of their own, and a legend names all kinds.
    Edges are green and solid where positive, red and dashed where negative.
    Every marker carries its node's id as ``customdata``. With ``show_choice`` the selected node's
    own edges take the place of the resting ones and pinned nodes have a ring.

    >>> import numpy as np
    >>> from charts.drawing import Drawing, DrawnNode
    >>> token = DrawnNode("token--1-0-7", "token", -1, 0, 0.5, "the", "", "position 0", "token")
    >>> import numpy as np
    >>> none = np.zeros(0, int)
    >>> figure = graph_figure(Drawing((token,), ("the",), 2, none, none, np.zeros(0)))
    >>> [trace.name for trace in figure.data]
    ['token', 'labels', 'answers', 'axis', 'axis']
    """
    layout = drawing.layout(width, height, max_names)
    spec = figure_spec(drawing, layout, palette, show_choice)
    if any(node.kind not in COMPUTED_KINDS for node in drawing.nodes):
        _add_legend(spec, palette)
    return go.Figure(spec)


def _add_legend(spec: dict[str, Any], palette: Palette) -> None:
    """Name the kinds of nodes below the figure, each once."""
    named: set[str] = set()
    for trace in spec["data"]:
        kind = trace["name"].removeprefix(_GENERIC)
        is_first = trace["mode"] == "markers" and kind not in named
        trace["showlegend"] = is_first
        if is_first:
            named.add(kind)
            trace["name"] = "answers" if kind == "logit" else plotly_text(kind_name(kind, 2))
    layout = spec["layout"]
    layout["height"] += _LEGEND
    layout["margin"] = {**layout["margin"], "b": _LEGEND}
    layout["showlegend"] = True
    layout["legend"] = {
        "orientation": "h", "x": 0, "y": 0, "yanchor": "top",
        "itemsizing": "constant", "font": {"size": 12, "color": palette.text},
    }  # fmt: skip


def figure_spec(
    drawing: Drawing, layout: GraphLayout, palette: Palette, show_choice: bool = True
) -> dict[str, Any]:
    """Return the figure as plain JSON values, which is a tenth of the work of a ``go.Figure``."""
    at = placement(drawing, layout)
    selected = drawing.selected if show_choice else None
    edges, dim = edge_shapes(drawing, at, palette, selected), _dimmed(drawing, selected)
    data = [
        _markers(drawing, at, palette, look, nodes, dim, show_choice)
        for look, nodes in _by_look(drawing, at).items()
    ]
    data += _chips(layout, palette)
    data += _names(drawing, at, palette, dim)
    data += _axes(layout, palette)
    axis = {"visible": False, "zeroline": False, "showgrid": False}
    return {
        "data": data,
        "layout": {
            "shapes": [*_bands(layout, palette), *edges],
            "xaxis": {**axis, "range": [0, layout.width]},
            "yaxis": {**axis, "range": [0, layout.height]},
            "margin": {"l": 0, "r": 0, "t": 0, "b": 0},
            "width": round(layout.width),
            "height": round(layout.height),
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "hovermode": "closest",
            "hoverlabel": hover_label(palette),
            "dragmode": "pan",
            "showlegend": False,
            "template": "none",
            "uirevision": f"{layout.width:.0f}x{layout.height:.0f}",
            "clickmode": "event+select",
            "font": {"family": FONT, "color": palette.text},
        },
    }


def diameter(kind: str, influence: float) -> float:
    """Return the diameter of a node's marker in px; a feature's grows with its influence, 0..1."""
    if is_error_kind(kind):
        return 6.0
    fixed = {"token": 8.0, "logit": 9.0}
    return fixed.get(kind) or round(5.0 + 26.0 * min(0.2, max(0.0, influence)) ** 0.5, 1)


def hover_label(palette: Palette) -> dict[str, Any]:
    """Return how Plotly's hover boxes look."""
    return {
        "bgcolor": palette.background,
        "bordercolor": palette.grid,
        "font": {"family": FONT, "size": 12.5, "color": palette.text},
        "align": "left",
    }


def _dimmed(drawing: Drawing, selected: int | None) -> frozenset[int]:
    """Nodes that fade because they have no edge with the selected one."""
    if selected is None:
        return frozenset()
    edges = drawing.own_edges(selected)
    lit = {selected, *drawing.sources[edges].tolist(), *drawing.targets[edges].tolist()}
    return frozenset(set(range(len(drawing.nodes))) - lit)


def _by_look(drawing: Drawing, at: Placement) -> dict[tuple[str, str], list[int]]:
    """Drawn nodes by kind and group, a trace each."""
    found: dict[tuple[str, str], list[int]] = {}
    for i, node in enumerate(drawing.nodes):
        if at.home[i] < 0:
            found.setdefault((node.kind, node.group), []).append(i)
    return dict(sorted(found.items()))


def _markers(
    drawing: Drawing,
    at: Placement,
    palette: Palette,
    look: tuple[str, str],
    chosen: Sequence[int],
    dim: frozenset[int],
    show_choice: bool,
) -> dict[str, Any]:
    kind, group = look
    nodes = [drawing.nodes[i] for i in chosen]
    colour = group_colour(group, palette)
    is_off = [node.is_off and show_choice for node in nodes]
    rings = [_ring(drawing, i, palette, show_choice) for i in chosen]
    return {
        "type": "scatter",
        "x": at.x[chosen].round(1).tolist(),
        "y": at.y[chosen].round(1).tolist(),
        "mode": "markers",
        "name": kind if kind in COMPUTED_KINDS else f"{_GENERIC}{kind}",
        "customdata": [node.id for node in nodes],
        "hovertext": [_hover(node) for node in nodes],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "marker": {
            "symbol": symbol_of(kind),
            "size": [diameter(node.kind, node.influence) for node in nodes],
            "color": [palette.background if off else colour for off in is_off],
            "opacity": [0.3 if i in dim else 1.0 for i in chosen],
            "line": {"color": [ring[0] for ring in rings], "width": [ring[1] for ring in rings]},
        },
    }


def _ring(drawing: Drawing, node: int, palette: Palette, show_choice: bool) -> tuple[str, float]:
    """Colour and width in px of the line around a node."""
    if show_choice and node == drawing.selected:
        return palette.selected, 3.0
    if show_choice and drawing.nodes[node].is_off:
        return palette.negative, 2.0
    if show_choice and node in drawing.pinned:
        return palette.text, 2.0
    return palette.background, 1.0


def _hover(node: DrawnNode) -> str:
    lines = [f"<b>{plotly_text(truncate(node.name, 60))}</b>", plotly_text(node.place)]
    if node.kind != "logit":
        lines.append(f"influence {percent(node.influence)}")
    return "<br>".join(lines)


def _chips(layout: GraphLayout, palette: Palette) -> list[dict[str, Any]]:
    if not layout.chips:
        return []
    texts = [f"+{len(chip.members)}" for chip in layout.chips]
    x, y = [chip.x for chip in layout.chips], [chip.y for chip in layout.chips]
    trace = _text_trace("chips", x, y, texts, "middle center", 9, palette.text)
    marker = {
        "symbol": "circle",
        "size": [19 if len(chip.members) > 9 else 16 for chip in layout.chips],
        "color": palette.background,
        "opacity": 1,
        "line": {"color": palette.muted, "width": 1},
    }
    return [trace | {"mode": "markers+text", "marker": marker}]


def _names(
    drawing: Drawing, at: Placement, palette: Palette, dim: frozenset[int]
) -> list[dict[str, Any]]:
    """Names of features, and answers; the likeliest answer is bold."""
    named = [i for i, name in enumerate(at.names) if name and i not in dim]
    inner = [i for i in named if drawing.nodes[i].kind != "logit"]
    answers = [i for i in named if drawing.nodes[i].kind == "logit"]
    first = max(answers, key=lambda i: drawing.nodes[i].influence, default=None)
    texts = [plotly_text(at.names[i]) for i in answers]
    pairs = zip(answers, texts, strict=True)
    texts = [f"<b>{text}</b>" if i == first else text for i, text in pairs]
    x = [
        at.x[i] + diameter(drawing.nodes[i].kind, drawing.nodes[i].influence) / 2 + 1 for i in inner
    ]
    shown = [plotly_text(at.names[i]) for i in inner]
    right = "middle right"
    return [
        _text_trace("labels", x, at.y[inner].tolist(), shown, right, 11, palette.text),
        _text_trace(
            "answers", (at.x[answers] + 7).tolist(), at.y[answers].tolist(), texts, right, 12,
            palette.text,
        ),
    ]  # fmt: skip


def _axes(layout: GraphLayout, palette: Palette) -> list[dict[str, Any]]:
    """Names of the columns and numbers of the layers."""
    columns, rows = layout.columns, [r for r in layout.rows[1:-1] if r.stop - r.start > 9]
    lengths = [max(1, int((c.stop - c.start) / 6.3)) for c in columns]
    tokens = [
        plotly_text(truncate(column.name, length))
        for column, length in zip(columns, lengths, strict=True)
    ]
    x, y = [c.middle for c in columns], [TOKEN_BAND - 25] * len(columns)
    middle = "middle center"
    numbers = [row.name for row in rows]
    heights = [row.middle for row in rows]
    return [
        _text_trace("axis", x, y, tokens, middle, 12, palette.text),
        _text_trace("axis", [20.0] * len(rows), heights, numbers, middle, 10, palette.muted),
    ]


def _text_trace(
    name: str,
    x: Sequence[float],
    y: Sequence[float],
    texts: Sequence[str],
    position: str,
    size: int,
    colour: str,
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "x": [round(value, 1) for value in x],
        "y": [round(value, 1) for value in y],
        "mode": "text",
        "name": name,
        "hoverinfo": "skip",
        "text": list(texts),
        "textposition": position,
        "textfont": {"size": size, "color": colour},
    }


def _bands(layout: GraphLayout, palette: Palette) -> list[dict[str, Any]]:
    """Every second layer shaded, a thin line between columns."""
    start = layout.columns[0].start if layout.columns else 0.0
    bands = [
        {
            "type": "rect",
            "layer": "below",
            "x0": start,
            "x1": layout.width,
            "y0": row.start,
            "y1": row.stop,
            "fillcolor": palette.band,
            "line": {"width": 0},
        }
        for row in layout.rows[1::2]
    ]
    lines = [
        {
            "type": "line",
            "layer": "below",
            "x0": column.start,
            "x1": column.start,
            "y0": 0,
            "y1": layout.rows[-1].start,
            "line": {"color": palette.grid, "width": 1},
        }
        for column in layout.columns[1:]
    ]
    return [*bands, *lines]
