"""The guide: what a graph shows, how to test it, and its limits."""

import streamlit as st

from pages.shared.navigation import project_text
from pages.shared.session import mirror_to_url

mirror_to_url()
st.markdown(project_text("guide.md"), width=760)
