"""The card of the selected feature, arranged for the panel next to the graph."""

from __future__ import annotations

from typing import Any, Final

import streamlit as st

from charts.palette import Palette
from pages.shared import feature_card
from pages.shared.escape import plain
from tracer.features.cards import FeatureCard

_TOKENS: Final = 6


def strongest(card: FeatureCard, palette: Palette) -> dict[str, Any] | None:
    """Return the group of examples with the highest activations, for ``draw_neighbours``."""
    groups = feature_card.groups_of(card)
    return feature_card.group_data(card, groups[0], palette) if groups else None


def draw_rest(card: FeatureCard, activation: float, palette: Palette) -> None:
    """Draw everything else; ``activation`` is the feature's activation in this prompt."""
    for group in feature_card.groups_of(card)[1:]:
        with st.expander(plain(group.name)):
            st.html(feature_card.group_html(card, group, palette))
    feature_card.draw_tokens(card, palette, _TOKENS)
    feature_card.draw_distribution(card, palette, activation, " :gray[the line marks this prompt]")
