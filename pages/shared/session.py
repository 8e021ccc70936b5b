"""One visitor's session: a frozen value under one key, mirrored in the address bar."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import streamlit as st

from cache import Annotations
from pages.shared.session_state import Session
from pages.shared.url_state import from_query, to_query
from tracer.types import Thresholds

_KEY: Final = "session"


def read_session() -> Session:
    """The visitor's session; at their first run, what the address bar asks for."""
    if _KEY not in st.session_state:
        st.session_state[_KEY] = from_query(st.query_params.to_dict())
    session: Session = st.session_state[_KEY]
    return session


def update_session(**changes: Any) -> None:
    """Replace parts of the session; a new prompt, model or stored graph drops what was selected in
    the old, and a new prompt or model closes the stored graph."""
    session = read_session()
    if {"prompt", "choice", "graph"} & changes.keys():
        dropped: dict[str, Any] = {
            "selected": None,
            "edits": (),
            "scenarios": (),
            "annotations": Annotations(),
            "annotations_of": "",
        }
        dropped["graph"] = ""
        if session.graph:  # its thresholds were chosen for it
            dropped["thresholds"] = Thresholds()
        changes = {**dropped, **changes}
    st.session_state[_KEY] = replace(session, **changes)


def set_widget(key: str, value: Any) -> None:
    """Have the widget of this key, which comes next, show ``value``.

    Said in every run: the browser remembers what was last done to a widget of the same key, so a
    default would not do, and what a run said that another one overtook may never have arrived.
    """
    st.session_state[key] = value


def set_text_widget(key: str, text: str) -> None:
    """As :func:`set_widget` for a box that a person may be typing into.

    Only where it differs, and once more in the next run.
    """
    again = f"{key}, once more"
    differs = st.session_state.get(key) != text
    if differs or st.session_state.get(again):
        st.session_state[key] = text
    st.session_state[again] = differs


def mirror_to_url() -> None:
    """Bring the address bar up to date, so that it can be copied as a link."""
    wanted = to_query(read_session())
    if st.query_params.to_dict() != wanted:
        st.query_params.from_dict(wanted)
