"""The parts of a feature card: distribution, promoted and suppressed tokens, examples.

The feature's own page shows all of them at full size; the panel of a graph arranges them in its
narrow column.
"""

from __future__ import annotations

import math
from typing import Any, Final

import streamlit as st

from charts.distributions import histogram_figure
from charts.palette import Palette
from pages.shared.escape import chips_html, example_html, plain
from pages.shared.example_parts import example_parts
from pages.shared.graph_component import draw_chart
from tracer.features.cards import ExampleGroup, FeatureCard

_AROUND: Final = 24
"""Tokens shown on either side of an example's strongest one on a page; half in the panel."""


def draw(card: FeatureCard, palette: Palette) -> None:
    """Draw the complete card, groups of examples as tabs."""
    draw_distribution(card, palette)
    draw_tokens(card, palette)
    groups = groups_of(card)
    if not groups:
        return
    st.markdown("**Examples**")
    for tab, group in zip(st.tabs([plain(group.name) for group in groups]), groups, strict=True):
        tab.html(group_html(card, group, palette, _AROUND))


def groups_of(card: FeatureCard) -> list[ExampleGroup]:
    """Return the groups of a card that have examples."""
    return [group for group in card.groups if group.examples]


def group_html(
    card: FeatureCard, group: ExampleGroup, palette: Palette, around: int = _AROUND // 2
) -> str:
    """Return the examples of a group, shaded by activation."""
    most = _strongest(card, group)
    return "".join(example_html(example, most, palette, around) for example in group.examples)


def group_data(card: FeatureCard, group: ExampleGroup, palette: Palette) -> dict[str, Any]:
    """Return the examples of a group in the form that ``draw_neighbours`` takes."""
    return {
        "name": group.name,
        "largest": round(_strongest(card, group), 4),
        "colour": palette.selected,
        "examples": [example_parts(example, _AROUND // 2) for example in group.examples],
    }


def _strongest(card: FeatureCard, group: ExampleGroup) -> float:
    strongest = max(max(example.activations) for example in group.examples)
    return float(card.act_max or strongest)


def draw_distribution(
    card: FeatureCard, palette: Palette, activation: float = math.nan, note: str = ""
) -> None:
    """Draw the histogram of activations; ``activation`` is marked unless it is NaN."""
    if not card.histogram:
        return
    st.markdown(
        f"**Activation distribution**{note}",
        help="How many tokens of the index's corpus have which activation, on a logarithmic scale.",
    )
    marked = None if math.isnan(activation) else activation
    figure = histogram_figure(card.histogram, card.histogram_top, palette, marked)
    draw_chart(figure, "histogram")


def draw_tokens(card: FeatureCard, palette: Palette, limit: int | None = None) -> None:
    """Draw the tokens that the feature promotes and suppresses, at most ``limit`` of each."""
    if not card.promoted:
        return
    st.markdown(
        "**Promoted and suppressed tokens**",
        help="The tokens whose logits the feature raises and lowers most through its direct path "
        "to the output.",
    )
    st.html(chips_html(card.promoted[:limit], palette.positive))
    st.html(chips_html(card.suppressed[:limit], palette.negative))
