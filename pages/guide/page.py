"""The guide: what a graph shows, how to test it, and its limits."""

from pathlib import Path

import streamlit as st

from pages.shared.session import mirror_to_url

mirror_to_url()
text = Path(__file__).resolve().parents[2] / "docs" / "guide.md"
st.markdown(text.read_text(encoding="utf-8"), width=760)
