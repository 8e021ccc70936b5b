"""The main script: page configuration, navigation and sidebar. Nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

import streamlit as st

NAME = "Tracer"
ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from pages.shared import later, progress  # noqa: E402
from pages.shared.graph_component import draw_loader  # noqa: E402
from pages.shared.navigation import page_script  # noqa: E402
from pages.shared.session import note_the_end  # noqa: E402
from pages.shell import sidebar, style, tour  # noqa: E402

IMAGES = Path(__file__).with_name("images")
st.set_page_config(
    page_title=NAME,
    page_icon=str(IMAGES / "mark.svg"),
    layout="wide",
    initial_sidebar_state="expanded",
)
st.logo(str(IMAGES / "wordmark.svg"), size="medium", icon_image=str(IMAGES / "mark.svg"))
trace = st.Page(page_script("trace"), title="Trace", default=True, url_path="start")
models = st.Page(page_script("models"), title="Models", url_path="models")
page = st.navigation(
    [
        trace,
        # Streamlit serves its default page only at /, so /trace has to be a separate page.
        st.Page(page_script("trace"), title="Trace", url_path="trace", visibility="hidden"),
        st.Page(page_script("interventions"), title="Interventions", url_path="interventions"),
        st.Page(page_script("compare"), title="Compare", url_path="compare"),
        st.Page(page_script("features"), title="Features", url_path="features"),
        st.Page(page_script("library"), title="Library", url_path="library"),
        models,
        st.Page(page_script("guide"), title="How to read a graph", url_path="guide"),
        st.Page(page_script("about"), title="About", url_path="about"),
    ],
    position="top",
)
later.begin()
style.draw()
acts = page.title in ("Trace", "Interventions", "Compare", "Features")
later.draw_later(st.sidebar, lambda: sidebar.draw(trace, models, acts))
sidebar.link_problems()
page.run()
later.draw_the_rest()
draw_loader()
with st.sidebar:  # what is on the page itself would be below the sidebar, and hidden by it
    tour.draw()
progress.cancel_abandoned()
note_the_end()
