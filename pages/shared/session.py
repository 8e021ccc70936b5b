"""One visitor's session: a frozen value under one key, mirrored in the address bar."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from time import monotonic
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
_ECHO_SECONDS: Final = 3.0
"""An event that the browser sends this long after a value was replaced may still have the old."""
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
    default is not enough, and an interrupted run may not have delivered its value. The widget's
    callback must be wrapped in :func:`heard`.
    """
    _note_replaced(key, value)
    st.session_state[key] = value


def set_text_widget(key: str, text: str) -> None:
    """Like :func:`set_widget`, for a box the visitor may be typing into.

    Sets the text only where it differs, and once more in the next run.
    """
    again = f"{key}, once more"
    differs = _note_replaced(key, text)
    if differs or st.session_state.get(again):
        st.session_state[key] = text
    st.session_state[again] = differs


def heard(key: str, callback: Callable[..., None]) -> Callable[..., None]:
    """Return ``callback`` for the widget with this key, deaf to echoes.

    The browser sends the values of all widgets with every event. One that it sends before a value
    set here has reached it has the replaced value, which looks as if the visitor had put it back:
    a click on the next prompt, and the graph's report of its size right after it, would end at the
    first prompt again.
    """

    def call(*args: Any, **kwargs: Any) -> None:
        if not _is_echo(key):
            callback(*args, **kwargs)

    return call


def _note_replaced(key: str, value: Any) -> bool:
    """Remember what the widget showed if that is not ``value``; return whether it is not."""
    differs = key not in st.session_state or bool(st.session_state[key] != value)
    if differs and key in st.session_state and not _is_echo(key):
        st.session_state[f"{key}, replaced"] = (st.session_state[key], monotonic())
    return differs


def _is_echo(key: str) -> bool:
    """Return whether the widget reports the value that was replaced moments ago."""
    replaced, since = st.session_state.get(f"{key}, replaced", (None, -_ECHO_SECONDS))
    is_recent = monotonic() - since < _ECHO_SECONDS
    return is_recent and bool(st.session_state.get(key) == replaced)


def mirror_to_url() -> None:
    """Update the address bar, so that it can be copied as a link."""
    query = to_query(read_session())
    if st.query_params.to_dict() != query:
        st.query_params.from_dict(query)
