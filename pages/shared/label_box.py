"""A box to label a feature, and where the name it has now is from."""

from __future__ import annotations

import streamlit as st

from cache import ModelChoice, Published, StoreError
from pages.shared import resources
from pages.shared.escape import plain, sentence
from tracer.errors import TracerError
from tracer.features.from_neuronpedia import neuronpedia_page
from tracer.features.names import LONGEST_LABEL
from tracer.graph.graph import AttributionGraph
from tracer.types import FeatureId


def draw(feature: FeatureId, where: AttributionGraph | ModelChoice | Published) -> None:
    """Draw the box; ``where`` says which dictionary the feature belongs to."""
    own = resources.own_labels(where).get(feature, "")
    key = f"label of {feature}"
    st.text_input(
        "Your label",
        own,
        max_chars=LONGEST_LABEL,
        key=key,
        placeholder="Name this feature",
        help="Kept for this feature in all graphs of its dictionary, and exported with them. "
        "Clear it to get the original name back.",
        on_change=_labelled,
        args=(key, where, feature),
    )
    trouble = st.session_state.pop(f"{key} trouble", "")
    if trouble:
        st.error(plain(sentence(trouble)))


def _labelled(
    key: str, where: AttributionGraph | ModelChoice | Published, feature: FeatureId
) -> None:
    try:
        resources.set_label(where, feature, str(st.session_state[key] or ""))
    except StoreError as error:
        st.session_state[f"{key} trouble"] = str(error)


def published_page(feature: FeatureId, source: resources.FeatureSource | None) -> str:
    """Return the address of the feature on Neuronpedia; empty where it is not there."""
    if isinstance(source, Published):
        place = source.neuronpedia
        return neuronpedia_page(*place, feature) if place else ""
    try:
        place = resources.backend().library.recent_source(source).neuronpedia if source else None
    except TracerError:
        return ""
    return neuronpedia_page(*place, feature) if place else ""
