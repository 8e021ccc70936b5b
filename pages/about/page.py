"""The method, its limits and the papers."""

import streamlit as st

from pages.shared.navigation import project_text
from pages.shared.session import mirror_to_url

mirror_to_url()
st.markdown(project_text("about.md").replace("# ", "### "), width=760)
