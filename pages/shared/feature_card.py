"""A feature card: distribution, promoted and suppressed tokens, examples by quantile."""

from __future__ import annotations

from typing import Final

import streamlit as st

from charts.distributions import histogram_figure
from charts.palette import Palette
from pages.shared.escape import chips_html, example_html, plain
from tracer.features.cards import FeatureCard

STATIC: Final = {"displayModeBar": False, "staticPlot": False}


def draw(card: FeatureCard, palette: Palette, activation: float | None = None) -> None:
    """Draw a card; ``activation`` marks a value in the distribution."""
    if card.histogram:
        st.markdown(
            "**Activation distribution**",
            help="How many tokens of the index's corpus have which activation, on a logarithmic "
            "scale.",
        )
        figure = histogram_figure(card.histogram, card.histogram_top, palette, activation)
        st.plotly_chart(figure, key="histogram", theme=None, config=STATIC)
    if card.promoted:
        help_text = "The tokens whose logits the feature raises and lowers most through its direct "
        st.markdown("**Promoted and suppressed tokens**", help=f"{help_text}path to the output.")
        st.html(chips_html(card.promoted, palette.positive))
        st.html(chips_html(card.suppressed, palette.negative))
    groups = [group for group in card.groups if group.examples]
    if not groups:
        return
    st.markdown("**Examples**")
    for tab, group in zip(st.tabs([plain(group.name) for group in groups]), groups, strict=True):
        strongest = max(max(example.activations) for example in group.examples)
        html = "".join(
            example_html(example, card.act_max or strongest, palette, around=24)
            for example in group.examples
        )
        tab.html(html)
