"""The Diagnostics panel: what a bug report needs, copied with one click."""

from __future__ import annotations

import json

import streamlit as st

from pages.shared import resources
from tracer.errors import TracerError


@st.fragment
def panel() -> None:
    """Draw a closed panel with the state of the server as JSON. No prompt is in it.

    The facts are collected only while the panel is open.
    """
    expander = st.expander("Diagnostics", key="diagnostics", on_change="rerun")
    if not expander.open:
        return
    with expander:
        st.caption("For a bug report: copy it with the button in its corner. It has no prompts.")
        try:
            facts = resources.backend().diagnostics()
        except TracerError as error:
            facts = {"error": str(error)}
        st.code(json.dumps(facts, indent=1, ensure_ascii=False), language="json")
