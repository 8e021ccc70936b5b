"""Figures of one head: its attention over the prompt, all its queries, and its strongest pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from charts.distributions import common_look
from charts.palette import LIGHT, Palette, translucent
from charts.text import percent, plotly_text, signed, token_text, truncate

if TYPE_CHECKING:
    from tracer.attention.summaries import HeadLook

_ROW = 24
"""Height in px of a source in the figure of pairs."""


def strip_figure(look: HeadLook, palette: Palette = LIGHT) -> go.Figure:
    """Draw where the query looks: one bar per token, the chosen key in another colour.

    ``customdata`` is the position.
    """
    seen = range(look.query + 1)
    names = [plotly_text(truncate(token_text(look.tokens[i]), 10)) for i in seen]
    colours = [palette.selected if i == look.key else palette.feature for i in seen]
    if isinstance(look.versus, int):
        colours[look.versus] = palette.negative
    figure = go.Figure()
    figure.add_bar(
        x=list(seen),
        y=[float(look.pattern[i]) for i in seen],
        marker={"color": colours},
        text=[percent(float(look.pattern[i])) for i in seen],
        textposition="outside",
        cliponaxis=False,
        customdata=list(seen),
        hovertext=[
            f"{plotly_text(token_text(look.tokens[i]))}, position {i}"
            f"<br>attention {float(look.pattern[i]):.3f}"
            for i in seen
        ],
        hovertemplate="%{hovertext}<extra></extra>",
    )
    # without this, Streamlit fades the bars that were not clicked
    figure.update_traces(selected={"marker": {"opacity": 1}}, unselected={"marker": {"opacity": 1}})
    figure.update_layout(
        height=150,
        margin={"l": 4, "r": 4, "t": 18, "b": 4},
        xaxis={
            "tickmode": "array",
            "tickvals": list(seen),
            "ticktext": names,
            "fixedrange": True,
            "showgrid": False,
            "automargin": True,
            "tickfont": {"size": 12, "color": palette.text},
        },
        yaxis={"visible": False, "range": [0, 1.05], "fixedrange": True},
        bargap=0.15,
        **common_look(palette),
    )
    return figure


def pattern_figure(look: HeadLook, palette: Palette = LIGHT) -> go.Figure:
    """Draw the attention of all queries as a heat map: queries down, keys across."""
    names = [plotly_text(truncate(token_text(token), 10)) for token in look.tokens]
    places = list(range(len(names)))
    shown = np.where(np.tri(len(names), dtype=bool), look.patterns, np.nan)
    axis: dict[str, Any] = {
        "tickmode": "array",
        "tickvals": places,
        "ticktext": names,
        "fixedrange": True,
        "showgrid": False,
        "zeroline": False,
        "automargin": True,
    }
    figure = go.Figure()
    figure.add_heatmap(
        z=shown,
        x=places,
        y=places,
        zmin=0,
        zmax=1,
        showscale=False,
        colorscale=[[0, translucent(palette.feature, 0.05)], [1, palette.feature]],
        customdata=[[[token_text(q), token_text(k)] for k in look.tokens] for q in look.tokens],
        hovertemplate="from %{customdata[0]} at %{customdata[1]}: %{z:.3f}<extra></extra>",
    )
    figure.update_layout(
        height=max(160, 20 * len(names) + 60),
        margin={"l": 4, "r": 4, "t": 4, "b": 4},
        xaxis=axis,
        yaxis={**axis, "autorange": "reversed"},
        **common_look(palette),
    )
    return figure


def pairs_figure(
    pairs: Sequence[tuple[str, str, float]], palette: Palette = LIGHT, limit: int = 6
) -> go.Figure:
    """Draw the strongest pairs as ribbons from what the query has to what the key has.

    ``pairs`` are the names of both ends and the weight, strongest first.
    """
    shown = list(pairs)[:limit]
    left = list(dict.fromkeys(query for query, _, _ in shown))
    right = list(dict.fromkeys(key for _, key, _ in shown))
    strongest = max((abs(weight) for *_, weight in shown), default=1.0) or 1.0
    rows = max(len(left), len(right), 1)
    figure = go.Figure()
    for query, key, weight in shown:
        start, end = _spread(left, query, rows), _spread(right, key, rows)
        colour = palette.positive if weight > 0 else palette.negative
        figure.add_scatter(
            x=[0, 0.3, 0.7, 1],
            y=[start, start, end, end],
            mode="lines",
            line={
                "width": 1 + 9 * abs(weight) / strongest,
                "color": translucent(colour, 0.55),
                "shape": "spline",
                "dash": "solid" if weight > 0 else "dash",
            },
            hoverinfo="text",
            text=f"{plotly_text(query)} × {plotly_text(key)}<br>{signed(weight)}",
            showlegend=False,
        )
    for names, x, anchor in ((left, 0, "right"), (right, 1, "left")):
        for name in names:
            figure.add_annotation(
                x=x,
                y=_spread(names, name, rows),
                text=plotly_text(truncate(name, 20)),
                xanchor=anchor,
                xshift=-6 if anchor == "right" else 6,
                showarrow=False,
                font={"size": 12, "color": palette.text},
            )
    figure.update_layout(
        height=_ROW * rows + 16,
        margin={"l": 4, "r": 4, "t": 4, "b": 4},
        xaxis={"visible": False, "range": [-1.1, 2.1], "fixedrange": True},
        yaxis={"visible": False, "range": [rows - 0.5, -0.5], "fixedrange": True},
        **common_look(palette),
    )
    return figure


def _spread(names: Sequence[str], name: str, rows: int) -> float:
    """Return the height of a name, so that the shorter column is centred on the longer one."""
    return names.index(name) + (rows - len(names)) / 2
