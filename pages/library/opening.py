"""Open a stored graph on the Trace page."""

from __future__ import annotations

from typing import NoReturn

import streamlit as st

from pages.shared import stored_graph
from pages.shared.navigation import page_script


def open_graph(key: str) -> NoReturn:
    """Open a graph and leave for the Trace page."""
    stored_graph.open_in_session(key)
    st.switch_page(page_script("trace"))
    raise AssertionError("switch_page leaves this run")
