"""The main script: page configuration, sidebar and navigation. Nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

import streamlit as st

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from pages import _sidebar, _style  # noqa: E402

st.set_page_config(page_title="Circuit tracing", layout="wide", initial_sidebar_state="expanded")
PAGES = ROOT / "pages"
trace = st.Page(PAGES / "trace.py", title="Trace", default=True, url_path="start")
models = st.Page(PAGES / "models.py", title="Models", url_path="models")
page = st.navigation(
    [
        trace,
        # Streamlit serves its default page at / alone: /trace has to be a page of its own.
        st.Page(PAGES / "trace.py", title="Trace", url_path="trace", visibility="hidden"),
        st.Page(PAGES / "interventions.py", title="Interventions", url_path="interventions"),
        st.Page(PAGES / "compare.py", title="Compare", url_path="compare"),
        st.Page(PAGES / "library.py", title="Library", url_path="library"),
        models,
        st.Page(PAGES / "guide.py", title="How to read a graph", url_path="guide"),
    ],
    position="top",
)
_style.draw()
_sidebar.draw(trace, models, stays=page.title in ("Trace", "Interventions", "Compare"))
page.run()
