"""Keep the session's pins and supernodes in step with those stored with the graph."""

from __future__ import annotations

import streamlit as st

from cache import Annotations, StoreError
from pages.shared import resources
from pages.shared.escape import plain
from pages.shared.session import read_session, update_session


def sync_annotations(key: str) -> None:
    """Bring the session's marks and those kept with the graph ``key`` together.

    A link that carries marks wins over what was kept; otherwise what was kept comes back.
    """
    session = read_session()
    try:
        if session.marks_of != key:
            if session.marks:
                resources.backend().save_annotations(key, session.marks)
            else:
                update_session(marks=resources.backend().annotations(key))
            update_session(marks_of=key)
            st.session_state["saved marks"] = read_session().marks
        elif session.marks != st.session_state.get("saved marks", Annotations()):
            resources.backend().save_annotations(key, session.marks)
            st.session_state["saved marks"] = session.marks
    except StoreError as error:
        st.warning(plain(str(error)))
