"""Small figures: next-token probabilities before and after an edit, a feature's histogram."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import isnan
from typing import Any, Final

import plotly.graph_objects as go

from charts.graph_figure import FONT
from charts.palette import LIGHT, Palette, translucent
from charts.text import percent, plotly_text, token_text, truncate
from tracer.types import TokenProbability

_BAR: Final = 27
"""Height of a bar in px; a pair gets one and a half times as much."""


def token_figure(
    tokens: Sequence[TokenProbability], palette: Palette = LIGHT, limit: int = 5
) -> go.Figure:
    """Draw the most likely next tokens as horizontal bars, most likely first.

    The figure is shared by all that ask for the same tokens: do not change it.
    """
    return _token_figure(tuple(tokens[:limit]), palette)


@lru_cache(maxsize=64)
def _token_figure(shown: tuple[TokenProbability, ...], palette: Palette) -> go.Figure:
    figure = go.Figure()
    figure.add_bar(
        x=[entry.probability for entry in shown],
        y=list(range(len(shown))),
        orientation="h",
        marker={"color": palette.feature},
        text=[percent(entry.probability) for entry in shown],
        **_bar_text(palette),
        hovertext=[
            f"{plotly_text(token_text(entry.token))}<br>probability {entry.probability:.4f}"
            + ("" if isnan(entry.logit) else f"<br>logit {entry.logit:.2f}")
            for entry in shown
        ],
        hovertemplate="%{hovertext}<extra></extra>",
    )
    _bars_layout(figure, [entry.token for entry in shown], palette, _BAR * len(shown) + 8)
    return figure


def comparison_figure(
    changes: Sequence[Any], palette: Palette = LIGHT, limit: int = 5, edited: bool = True
) -> go.Figure:
    """Draw next-token probabilities before (pale) and after (solid) an edit.

    ``changes`` have ``token``, ``before`` and ``after``, like those of
    ``InterventionResult.compare``. Without ``edited`` only those before are drawn.
    """
    shown = list(changes)[:limit]
    figure = go.Figure()
    # on a reversed axis, Plotly draws the bars of a group from the top down: before above after
    pale = translucent(palette.feature, 0.35) if edited else palette.feature
    sides = [("before", pale, [entry.before for entry in shown])]
    if edited:
        sides.append(("after", palette.selected, [entry.after for entry in shown]))
    for name, colour, values in sides:
        figure.add_bar(
            x=values,
            y=list(range(len(shown))),
            name=name,
            orientation="h",
            marker={"color": colour},
            text=[percent(value) for value in values],
            **_bar_text(palette),
            hovertext=[
                f"{plotly_text(token_text(entry.token))}<br>before {entry.before:.4f}"
                f"<br>after {entry.after:.4f}"
                for entry in shown
            ],
            hovertemplate="%{hovertext}<extra></extra>",
        )
    _bars_layout(
        figure, [entry.token for entry in shown], palette, int(_BAR * 1.5 * len(shown)) + 30
    )
    figure.update_layout(
        barmode="group",
        bargroupgap=0.08,
        showlegend=edited,
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.0, "yanchor": "bottom"},
        margin={"t": 22},
    )
    return figure


def histogram_figure(
    counts: Sequence[int], top: float, palette: Palette = LIGHT, activation: float | None = None
) -> go.Figure:
    """Draw a feature's activation histogram: equal bins from 0 to ``top``, logarithmic counts.

    ``activation`` marks the feature's activation on the traced prompt.
    """
    figure = go.Figure()
    step = top / len(counts) if counts else 1.0
    centres = [step * (number + 0.5) for number in range(len(counts))]
    figure.add_bar(
        x=centres,
        y=list(counts),
        width=step * 0.92,
        marker={"color": translucent(palette.feature, 0.75)},
        hovertemplate="activation %{x:.2f}: %{y} tokens<extra></extra>",
    )
    if activation is not None:
        figure.add_vline(x=activation, line={"color": palette.selected, "width": 2})
    figure.update_layout(
        height=110,
        margin={"l": 34, "r": 6, "t": 4, "b": 22},
        xaxis={
            "gridcolor": palette.grid,
            "zeroline": False,
            "showgrid": False,
            "range": [0, max(top, activation or 0.0) * 1.04 or 1.0],
            "nticks": 6,
        },
        yaxis={"type": "log", "gridcolor": palette.grid, "nticks": 4, "dtick": 1},
        **common_look(palette),
    )
    return figure


def _bar_text(palette: Palette) -> dict[str, Any]:
    return {
        "textposition": "outside",
        "textfont": {"size": 12, "color": palette.text},
        "cliponaxis": False,
    }


def _bars_layout(figure: go.Figure, tokens: Sequence[str], palette: Palette, height: int) -> None:
    names = [plotly_text(truncate(token_text(token), 16)) for token in tokens]
    figure.update_layout(
        height=height,
        margin={"l": 4, "r": 4, "t": 2, "b": 2},
        xaxis={"visible": False, "range": [0, 1.18], "fixedrange": True},
        yaxis={
            "tickmode": "array",
            "tickvals": list(range(len(names))),
            "ticktext": names,
            "range": [len(names) - 0.5, -0.5],
            "automargin": True,
            "fixedrange": True,
            "zeroline": False,
            "showgrid": False,
            "ticklabelstandoff": 4,
            "tickfont": {"size": 13, "color": palette.text},
        },
        bargap=0.28,
        **common_look(palette),
    )


def common_look(palette: Palette) -> dict[str, Any]:
    """Return the layout options all small figures share."""
    return {
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FONT, "size": 11, "color": palette.muted},
        "hoverlabel": {
            "bgcolor": palette.background,
            "bordercolor": palette.grid,
            "font": {"family": FONT, "size": 12.5, "color": palette.text},
        },
        "template": "none",
        "dragmode": False,
    }
