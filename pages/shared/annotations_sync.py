"""Keep the session's pins and supernodes in step with those stored with the graph."""

from __future__ import annotations

from typing import Final

import streamlit as st

from cache import Annotations, StoreError
from pages.shared import resources
from pages.shared.escape import plain, sentence
from pages.shared.session import read_session, update_session

_SAVED: Final = "saved annotations"


def sync_annotations(key: str) -> None:
    """Synchronise the session's annotations with those stored with the graph ``key``.

    Annotations carried by a link replace the stored ones; otherwise the stored ones are loaded.
    """
    session = read_session()
    try:
        if session.annotations_of != key:
            if session.annotations:
                resources.backend().save_annotations(key, session.annotations)
            else:
                update_session(annotations=resources.backend().annotations(key))
            update_session(annotations_of=key)
            st.session_state[_SAVED] = read_session().annotations
        elif session.annotations != st.session_state.get(_SAVED, Annotations()):
            resources.backend().save_annotations(key, session.annotations)
            st.session_state[_SAVED] = session.annotations
    except StoreError as error:
        st.warning(plain(sentence(error)))
