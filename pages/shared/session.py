"""One visitor's session: a frozen value under one key, mirrored in the address bar."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final
from uuid import uuid4

import streamlit as st
from streamlit import runtime
from streamlit.runtime.scriptrunner import get_script_run_ctx

from cache import Annotations
from pages.shared.link_problems import link_problems
from pages.shared.session_state import Session
from pages.shared.url_state import from_query, to_query
from tracer.types import Thresholds

_KEY: Final = "session"
_VISITOR: Final = "visitor"
PROBLEMS: Final = "link problems"
"""Where the sentences about the visitor's link are, until they are closed."""
_connections: Final[dict[str, str]] = {}
"""Streamlit's session of every visitor of this process, by visitor id."""


def visitor_id() -> str:
    """Return this visitor's id, which the backend tells visitors apart by. A reload makes a new
    one."""
    if _VISITOR not in st.session_state:
        st.session_state[_VISITOR] = uuid4().hex
        context = get_script_run_ctx(suppress_warning=True)
        if context is not None:
            _connections[st.session_state[_VISITOR]] = context.session_id
    visitor: str = st.session_state[_VISITOR]
    return visitor


def departed_visitors() -> list[str]:
    """Return the ids of visitors whose page was closed or reloaded."""
    if not runtime.exists():
        return []
    is_active = runtime.get_instance().is_active_session
    return [visitor for visitor, session in list(_connections.items()) if not is_active(session)]


def read_session() -> Session:
    """Return the visitor's session, which starts as the address bar describes it."""
    if _KEY not in st.session_state:
        query = st.query_params.to_dict()
        st.session_state[_KEY] = from_query(query)
        st.session_state[PROBLEMS] = link_problems(query)
    session: Session = st.session_state[_KEY]
    return session


def update_session(**changes: Any) -> None:
    """Replace parts of the session.

    A new prompt, model, target or stored graph drops selection, edits, scenarios and annotations,
    and filters of features that depend on the prompt; all but the last also close the stored graph.
    """
    session = read_session()
    if {"prompt", "choice", "graph", "explain"} & changes.keys():
        dropped: dict[str, Any] = {
            "selected": None,
            "edits": (),
            "scenarios": (),
            "annotations": Annotations(),
            "annotations_of": "",
            "heads": replace(session.heads, head=None, key=None, versus=None),
        }
        dropped["graph"] = ""
        kept = {"position": None, "layers": None}
        if "choice" in changes and changes["choice"] != session.choice:
            kept["feature"] = None  # the number means another feature there
        dropped["finding"] = replace(session.finding, **kept)  # type: ignore[arg-type]
        if session.graph:  # its thresholds were chosen for it
            dropped["thresholds"] = Thresholds()
        dropped["as_stored"] = False
        changes = {**dropped, **changes}
    st.session_state[_KEY] = replace(session, **changes)


def set_widget(key: str, value: Any) -> None:
    """Make the widget with this key, which is drawn next, show ``value``.

    Repeated in every run: the browser remembers the last input to a widget of the same key, so a
    default is not enough, and an interrupted run may not have delivered its value.
    """
    st.session_state[key] = value


def set_text_widget(key: str, text: str) -> None:
    """Like :func:`set_widget`, for a box the visitor may be typing into.

    Sets the text only where it differs, and once more in the next run.
    """
    again = f"{key}, once more"
    differs = st.session_state.get(key) != text
    if differs or st.session_state.get(again):
        st.session_state[key] = text
    st.session_state[again] = differs


def mirror_to_url() -> None:
    """Update the address bar, so that it can be copied as a link."""
    query = to_query(read_session())
    if st.query_params.to_dict() != query:
        st.query_params.from_dict(query)
