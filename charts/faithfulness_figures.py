"""Measured effects of switching features off, next to what the graph's edges predict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import plotly.graph_objects as go

from charts.distributions import common_look
from charts.palette import LIGHT, Palette
from charts.text import plotly_text, signed, truncate
from tracer.graph.nodes import FloatArray
from tracer.interventions.faithfulness import EffectCheck

_NAME: Final = 34


def ranked_figure(check: EffectCheck, palette: Palette = LIGHT) -> go.Figure:
    """Draw measured effects as bars, largest first, with a tick at each prediction."""
    order = np.argsort(-np.abs(check.measured), kind="stable")
    places = list(range(len(order)))
    measured = check.measured[order]
    figure = go.Figure()
    figure.add_bar(
        x=measured,
        y=places,
        orientation="h",
        name="measured",
        marker={"color": [palette.positive if v > 0 else palette.negative for v in measured]},
        hovertemplate="measured %{x:+.3f}<extra></extra>",
    )
    figure.add_scatter(
        x=check.predicted[order],
        y=places,
        mode="markers",
        name="predicted by the edges",
        marker={
            "symbol": "line-ns-open",
            "size": 15,
            "color": palette.text,
            "line": {"width": 2.5, "color": palette.text},
        },
        hovertemplate="predicted %{x:+.3f}<extra></extra>",
    )
    figure.update_layout(
        height=24 * len(order) + 66,
        margin={"l": 4, "r": 8, "t": 26, "b": 36},
        xaxis={
            "title": {"text": f"change in {plotly_text(check.unit)}", "standoff": 6},
            "gridcolor": palette.grid,
            "zerolinecolor": palette.muted,
            "zerolinewidth": 1,
        },
        yaxis={
            "tickmode": "array",
            "tickvals": places,
            "ticktext": [plotly_text(truncate(check.names[i], _NAME)) for i in order],
            "range": [len(order) - 0.5, -0.5],
            "automargin": True,
            "showgrid": False,
            "zeroline": False,
            "tickfont": {"size": 12, "color": palette.text},
            "ticklabelstandoff": 4,
        },
        bargap=0.3,
        **common_look(palette),
        legend={"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom"},
    )
    return figure


def scatter_figure(check: EffectCheck, palette: Palette = LIGHT, ideal: bool = True) -> go.Figure:
    """Draw a dot per effect, measured against predicted; on the dotted line they agree."""
    figure = go.Figure()
    ends = [
        float(min(check.predicted.min(), check.measured.min())),
        float(max(check.predicted.max(), check.measured.max())),
    ]
    if ideal:
        figure.add_scatter(
            x=ends,
            y=ends,
            mode="lines",
            name="perfect agreement",
            line={"color": palette.muted, "width": 1, "dash": "dot"},
            hoverinfo="skip",
        )
    slope = check.slope
    if np.isfinite(slope):
        middle = float(check.measured.mean() - slope * check.predicted.mean())
        across = [float(check.predicted.min()), float(check.predicted.max())]
        figure.add_scatter(
            x=across,
            y=[middle + slope * x for x in across],
            mode="lines",
            name="least-squares fit",
            line={"color": palette.selected, "width": 2},
            hoverinfo="skip",
        )
    figure.add_scatter(
        x=check.predicted,
        y=check.measured,
        mode="markers",
        name="switched off",
        showlegend=False,
        marker={"size": 9, "color": palette.feature, "opacity": 0.85},
        hovertext=[
            f"{plotly_text(truncate(name, 60))}<br>predicted {signed(float(p))}"
            f"<br>measured {signed(float(m))}"
            for name, p, m in zip(check.names, check.predicted, check.measured, strict=True)
        ],
        hovertemplate="%{hovertext}<extra></extra>",
    )
    unit = plotly_text(check.unit)
    axis = {
        "gridcolor": palette.grid,
        "zeroline": True,
        "zerolinecolor": palette.muted,
        "zerolinewidth": 1,
        "automargin": True,
    }
    figure.update_layout(
        height=340,
        margin={"l": 50, "r": 8, "t": 26, "b": 40},
        xaxis={**axis, "title": {"text": f"predicted by the edges ({unit})", "standoff": 6}},
        yaxis={**axis, "title": {"text": "measured", "standoff": 6}},
        **common_look(palette),
        legend={"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom"},
    )
    return figure


def group_check(names: Sequence[str], predicted: FloatArray, measured: FloatArray) -> EffectCheck:
    """Return the effects of groups on each other, from the ``(n, n)`` shares of ``check_groups``.

    Leaves out pairs without an effect by construction (a group and itself, or one below it).
    """
    pairs = [
        (i, j)
        for i in range(len(names))
        for j in range(len(names))
        if np.isfinite(predicted[i, j]) and (predicted[i, j] != 1 or measured[i, j] != 1)
    ]
    at = tuple(np.array(pairs, int).reshape(-1, 2).T)
    return EffectCheck(
        tuple(f"{names[j]} with {names[i]} off" for i, j in pairs),
        predicted[at] - 1,
        measured[at] - 1,
        "relative change in activation",
    )


def check_sentence(check: EffectCheck) -> str:
    """Describe the fit: ``"Correlation r = 0.98, slope 0.62."``"""
    if not np.isfinite(check.correlation):
        return "Too few distinct effects for a correlation."
    return f"Correlation r = {check.correlation:.2f}, slope {check.slope:.2f}."
