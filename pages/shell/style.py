"""CSS that Streamlit's theme options do not cover."""

from __future__ import annotations

import streamlit as st

_CSS = """
<style>
.stMainBlockContainer { padding: 3.4rem 1.4rem 2rem; max-width: 1900px; }
[data-testid="stSidebar"][data-collapsed="false"] { min-width: 230px; max-width: 230px; }
:root { --circuit-positive: #12876b; --circuit-negative: #cc4a26; --circuit-feature: #4a6fa5; }
[data-testid="stSidebarUserContent"] { padding-top: 0.5rem; }
/* Buttons in the first line of a page stay clear of the header. */
.st-key-page-top, .st-key-prompt-bar, .st-key-link-problems { margin-top: 0.6rem; }
/* An element that only carries data takes no room. */
.st-key-beads-trace, .st-key-panels-ahead, [class*='st-key-graph-first-'] { display: none; }
/* Lists of links: left-aligned and close together. */
button[data-testid="stBaseButton-tertiary"] { min-height: 1.9rem; padding: 0.1rem 0; }
button[data-testid="stBaseButton-tertiary"] p { text-align: left; }
/* Graph and panel side by side; in a narrow window the panel is below the graph. */
@media (max-width: 1200px) {
  .st-key-workspace > [data-testid="stLayoutWrapper"] > [data-testid="stHorizontalBlock"] {
    flex-wrap: wrap;
  }
  .st-key-workspace > [data-testid="stLayoutWrapper"] > [data-testid="stHorizontalBlock"]
    > [data-testid="stColumn"] { min-width: 100%; }
}
</style>
"""


def draw() -> None:
    """Apply the CSS to the page."""
    st.html(_CSS)
