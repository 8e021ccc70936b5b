"""What the graph shows, how to test it, and what it does not show."""

from pathlib import Path

import streamlit as st

from pages import _session

_session.mirror()
text = Path(__file__).resolve().parent.parent / "docs" / "guide.md"
st.markdown(text.read_text(encoding="utf-8"), width=760)
