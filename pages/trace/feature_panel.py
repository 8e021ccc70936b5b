"""The card of the selected feature, arranged for the panel next to the graph."""

from __future__ import annotations

from typing import Final

import streamlit as st

from charts.palette import Palette
from pages.shared import feature_card
from pages.shared.escape import plain
from tracer.features.cards import FeatureCard

_TOKENS: Final = 6


def draw(card: FeatureCard, activation: float, palette: Palette) -> None:
    """Draw a feature card; ``activation`` is the feature's activation in this prompt."""
    for number, group in enumerate(feature_card.groups_of(card)):
        html = feature_card.group_html(card, group, palette)
        if number == 0:
            st.markdown(f"**{plain(group.name)}**")
            st.html(html)
        else:
            with st.expander(plain(group.name)):
                st.html(html)
    feature_card.draw_tokens(card, palette, _TOKENS)
    feature_card.draw_distribution(card, palette, activation, " :gray[the line marks this prompt]")
