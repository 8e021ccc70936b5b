"""A box for a text of the visitor's own, shaded by a feature's activation on each of its tokens."""

from __future__ import annotations

import streamlit as st

from cache import ActivationsOn, ModelChoice
from charts.palette import Palette
from charts.text import activation_text, token_text
from pages.shared import progress, resources
from pages.shared.escape import plain, sentence, shaded_html
from pages.shared.session import read_session, visitor_id
from tracer.errors import TracerError
from tracer.features.cards import FeatureCard
from tracer.types import FeatureId


def draw(
    feature: FeatureId,
    source: ModelChoice,
    card: FeatureCard | None,
    palette: Palette,
    unless_typed: str = "",
) -> None:
    """Draw the box and the shaded text: what was typed, else ``unless_typed``, else nothing."""
    typed = st.text_area(
        "Try your own text",
        key=f"try {feature}",
        height=80,
        placeholder=read_session().prompt,
        help="Runs the model on the text and shades every token by the feature's activation on it.",
    )
    text = typed or unless_typed
    if not text:
        return
    question = ActivationsOn(feature, text)
    job = resources.backend().questions.activations(source, question, visitor_id())
    progress.wait_for(job, "own text", "Running the feature")
    try:
        example = job.result()
    except TracerError as error:
        st.warning(plain(sentence(error)))
        return
    largest = max(example.activations)
    scale = max(largest, card.act_max if card is not None else 0.0)
    st.html(shaded_html(example, scale, palette))
    peak = token_text(example.tokens[example.activations.index(largest)])
    st.caption(
        plain(f"Fires most at “{peak}”: {activation_text(largest)}.")
        if largest > 0
        else "The feature is not active on this text."
    )
