"""The layout of the Features page: the open trace's features, the dictionary, or one feature."""

from __future__ import annotations

import streamlit as st

from charts.palette import palette
from pages.features import active, dictionary, feature_page
from pages.features.open_trace import known_trace
from pages.features.state import change
from pages.shared import prompt_bar
from pages.shared.session import heard, mirror_to_url, read_session, set_widget

_TRACE, _DICTIONARY = "Active in this trace", "Complete dictionary"


def draw() -> None:
    """Draw the page for the current session."""
    session = read_session()
    if session.finding.feature is not None:
        mirror_to_url()
        theme = palette(st.context.theme.type)
        feature_page.draw(session.finding.feature, session, known_trace(session), theme)
        return
    shown = _DICTIONARY if session.finding.in_dictionary else _TRACE
    set_widget("features of", shown)
    with st.container(horizontal=True, vertical_alignment="center", key="page top"):
        st.markdown("#### Features", width="content")
        st.segmented_control(
            "Features of",
            [_TRACE, _DICTIONARY],
            key="features of",
            required=True,
            label_visibility="collapsed",
            on_change=heard("features of", _chosen),
        )
    if session.finding.in_dictionary:
        mirror_to_url()
        dictionary.draw(session, known_trace(session))
        return
    job = prompt_bar.traced()
    mirror_to_url()
    trace = known_trace(read_session()) if job is not None else None
    if trace is not None:
        active.draw(trace, read_session())


def _chosen() -> None:
    change(in_dictionary=st.session_state["features of"] == _DICTIONARY)
