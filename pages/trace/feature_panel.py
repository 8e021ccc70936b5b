"""The card of the selected feature: examples, promoted tokens, activation distribution."""

from __future__ import annotations

import math

import streamlit as st

from charts.distributions import histogram_figure
from charts.palette import Palette
from pages.shared.escape import chips_html, example_html, plain
from pages.trace.next_token import STATIC
from tracer.features.cards import FeatureCard


def draw(card: FeatureCard, activation: float, palette: Palette) -> None:
    """Draw a feature card; ``activation`` is the feature's activation in this prompt."""
    groups = [group for group in card.groups if group.examples]
    for number, group in enumerate(groups):
        strongest = max(max(example.activations) for example in group.examples)
        html = "".join(
            example_html(example, card.act_max or strongest, palette) for example in group.examples
        )
        if number == 0:
            st.markdown(f"**{plain(group.name)}**")
            st.html(html)
        else:
            with st.expander(plain(group.name)):
                st.html(html)
    if card.promoted:
        st.markdown(
            "**Promoted and suppressed tokens**",
            help="The tokens whose logits the feature raises and lowers most through its direct "
            "path to the output.",
        )
        st.html(chips_html(card.promoted[:6], palette.positive))
        st.html(chips_html(card.suppressed[:6], palette.negative))
    if card.histogram:
        st.markdown(
            "**Activation distribution** :gray[the line marks this prompt]",
            help="How many tokens of the index's corpus have which activation, on a logarithmic "
            "scale.",
        )
        marked = None if math.isnan(activation) else activation
        figure = histogram_figure(card.histogram, card.histogram_top, palette, marked)
        st.plotly_chart(figure, key="histogram", theme=None, config=STATIC)
