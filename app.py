"""The dashboard: ``streamlit run app.py``.

The main script stands in a folder of its own, so that Streamlit never takes the `pages/` beside
this file for its legacy pages: a deep link to a cold server would run one without the shell.
"""

from pathlib import Path

import streamlit as st

app = st.App(Path(__file__).parent / "pages" / "shell" / "main.py")
