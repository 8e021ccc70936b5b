"""Outcomes of scenarios side by side, with the same tokens and axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import plotly.graph_objects as go

from charts.distributions import comparison_figure
from charts.graph_figure import FONT
from charts.palette import LIGHT, Palette, translucent
from charts.text import percent, plotly_text, token_text, truncate
from tracer.types import NodeId

if TYPE_CHECKING:
    from tracer.interventions.run import Outcome

LINES: tuple[str, ...] = ("#4a6fa5", "#e08a00", "#12876b", "#cc4a26", "#8a63a8", "#6b7280")


class _Change(NamedTuple):
    token: str
    before: float
    after: float


def shared_tokens(outcomes: Sequence[Outcome], limit: int = 6) -> list[tuple[int, str]]:
    """Return ids and strings of the tokens most likely in any outcome, in the baseline's order."""
    best: dict[int, tuple[float, str]] = {}
    for outcome in outcomes:
        for entry in outcome.next_tokens:
            if entry.probability > best.get(entry.token_id, (0.0, ""))[0]:
                best[entry.token_id] = (entry.probability, entry.token)
    strongest = sorted(best, key=lambda token: -best[token][0])[:limit]
    baseline = outcomes[0]
    strongest.sort(key=lambda token: -baseline.probability(token))
    return [(token, best[token][1]) for token in strongest]


def outcome_figure(
    baseline: Outcome,
    outcome: Outcome | None,
    tokens: Sequence[tuple[int, str]],
    palette: Palette = LIGHT,
) -> go.Figure:
    """Draw the probabilities of ``tokens`` in the baseline (pale) and in one scenario (solid).

    Without an ``outcome``, draw the baseline alone with the same layout.
    """
    after = outcome or baseline
    changes = [
        _Change(name, baseline.probability(token), after.probability(token))
        for token, name in tokens
    ]
    figure = comparison_figure(changes, palette, len(changes), edited=outcome is not None)
    figure.update_xaxes(range=[0, 1.45])  # room for the longest label in a narrow column
    return figure


def activation_figure(
    groups: Mapping[str, Sequence[NodeId]],
    baseline: Outcome,
    outcome: Outcome,
    palette: Palette = LIGHT,
) -> go.Figure:
    """Draw the remaining activation of each group as a dumbbell that starts at 100 %.

    A group's activation is the sum over its features, which must have been watched.
    """
    names = list(groups)
    left = [_share_left(groups[name], baseline, outcome) for name in names]
    places = list(range(len(names)))
    figure = go.Figure()
    for place, share in zip(places, left, strict=True):
        figure.add_scatter(
            x=[1, share],
            y=[place, place],
            mode="lines",
            line={
                "width": 3,
                "color": translucent(palette.positive if share > 1 else palette.negative, 0.6),
            },
            hoverinfo="skip",
        )
    figure.add_scatter(
        x=[1] * len(names),
        y=places,
        mode="markers",
        marker={"size": 9, "color": translucent(palette.feature, 0.45)},
        hoverinfo="skip",
    )
    figure.add_scatter(
        x=left,
        y=places,
        mode="markers+text",
        marker={"size": 10, "color": palette.selected},
        text=[_times(share) for share in left],
        textposition="top center",
        textfont={"size": 11, "color": palette.text},
        cliponaxis=False,
        hovertext=[
            f"{plotly_text(name)}: {_times(share)}{'' if share != share else ' of its activation'}"
            for name, share in zip(names, left, strict=True)
        ],
        hovertemplate="%{hovertext}<extra></extra>",
    )
    edges = [min(0.0, *left), max(1.0, *left)]
    room = 0.12 * (edges[1] - edges[0])
    figure.update_layout(
        height=36 * len(names) + 40,
        margin={"l": 4, "r": 26, "t": 8, "b": 22},
        xaxis={
            "range": [edges[0] - room, edges[1] + room],
            "tickformat": ".0%",
            "gridcolor": palette.grid,
            "zeroline": False,
            "nticks": 4,
        },
        yaxis={
            "tickmode": "array",
            "tickvals": places,
            "ticktext": [plotly_text(truncate(name, 18)) for name in names],
            "range": [len(names) - 0.4, -0.7],
            "automargin": True,
            "showgrid": False,
            "zeroline": False,
            "tickfont": {"size": 12, "color": palette.text},
            "ticklabelstandoff": 4,
        },
        showlegend=False,
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": FONT, "size": 11, "color": palette.muted},
        dragmode=False,
    )
    return figure


def _share_left(nodes: Sequence[NodeId], baseline: Outcome, outcome: Outcome) -> float:
    before = sum(baseline.activations[node] for node in nodes)
    after = sum(outcome.activations[node] for node in nodes)
    return after / before if before else float("nan")


def _times(share: float) -> str:
    if share != share:  # it was not active before
        return "not active before"
    return percent(share) if 0 <= share < 9.995 else f"{share:.1f}×".replace("-", "−")


def dose_figure(
    factors: Sequence[float],
    outcomes: Sequence[Outcome],
    tokens: Sequence[tuple[int, str]],
    palette: Palette = LIGHT,
) -> go.Figure:
    """Draw each token's probability against steering strength; mark where the top token flips."""
    figure = go.Figure()
    for number, (token, name) in enumerate(tokens):
        figure.add_scatter(
            x=list(factors),
            y=[outcome.probability(token) for outcome in outcomes],
            name=plotly_text(token_text(name)),
            mode="lines+markers",
            line={"color": LINES[number % len(LINES)], "width": 2},
            marker={"size": 5},
            hovertemplate="%{x:g}×: %{y:.1%}<extra>%{fullData.name}</extra>",
        )
    for number, place in enumerate(flips(outcomes)):
        middle = (factors[place - 1] + factors[place]) / 2
        first = outcomes[place].next_tokens[0]
        figure.add_vline(
            x=middle,
            line={"color": palette.muted, "width": 1, "dash": "dot"},
            annotation={
                "text": f"→ {plotly_text(token_text(first.token))}",
                "font": {"size": 11, "color": palette.muted},
                "yshift": -14 * (number % 3),  # keeps neighbouring labels apart
            },
        )
    figure.update_layout(
        height=280,
        margin={"l": 44, "r": 8, "t": 24, "b": 40},
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": FONT, "size": 12, "color": palette.text},
        xaxis={
            "title": {"text": "steering strength (× activation)", "standoff": 8},
            "gridcolor": palette.grid,
            "zeroline": False,
            "autorange": "reversed",
            "tickvals": [factor for factor in factors if factor == int(factor)],
            "ticktext": [
                "off" if factor == 0 else f"{factor:g}×".replace("-", "−")
                for factor in factors
                if factor == int(factor)
            ],
        },
        yaxis={"tickformat": ".0%", "range": [-0.02, 1.05], "gridcolor": palette.grid},
        legend={"orientation": "h", "y": 1.14, "x": 0},
        dragmode=False,
    )
    return figure


def flips(outcomes: Sequence[Outcome]) -> list[int]:
    """Return the indices (>= 1) at which the top token differs from the one before."""
    first = [outcome.next_tokens[0].token_id for outcome in outcomes]
    return [place for place in range(1, len(first)) if first[place] != first[place - 1]]


def continuation_parts(outcome: Outcome) -> tuple[str, str, str]:
    """Split a continuation: shared with the baseline, first token that differs, the rest."""
    tokens, at = outcome.continuation_tokens, outcome.differs_at
    if at is None or at >= len(tokens):
        return "".join(tokens), "", ""
    return "".join(tokens[:at]), tokens[at], "".join(tokens[at + 1 :])


def outcome_sentence(baseline: Outcome, outcome: Outcome) -> str:
    """Describe an outcome: ``"Austin 99.9 % → 12 %; top token: Sacramento (61 %)."``"""
    was, now = baseline.next_tokens[0], outcome.next_tokens[0]
    after = outcome.probability(was.token_id)
    moved = f"{token_text(was.token)} {percent(was.probability)} → {percent(after)}"
    if now.token_id == was.token_id:
        return f"{moved}, still the top token."
    return f"{moved}; top token: {token_text(now.token)} ({percent(now.probability)})."
