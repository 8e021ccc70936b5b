"""The dashboard: ``streamlit run app.py``.

The main script is in another folder. Otherwise Streamlit would take the `pages/` folder next to
this file for its legacy pages, and a deep link to a cold server would run one without the shell.
"""

from pathlib import Path

import streamlit as st

app = st.App(Path(__file__).parent / "pages" / "shell" / "main.py")
