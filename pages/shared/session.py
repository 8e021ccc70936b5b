"""One visitor's session: a frozen value under one key, mirrored in the address bar."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf
from time import monotonic
from typing import Any, Final, NamedTuple
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
_AGAIN: Final = ", once more"
_VERSION: Final = ", version"
_HEARD: Final = ", heard"
_MOVING_SECONDS: Final = 3.0
"""For this time after an event, the browser may show what the server has not heard of yet."""
_SEEN_SECONDS: Final = 3.0
"""After this time, even a busy browser has drawn what a run has sent."""
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
    callback must be wrapped in :func:`heard`. Not repeated while the visitor is moving the widget:
    a slider would jump back to where it was when this run began.
    """
    moved = st.session_state.get(f"{key}{_HEARD}", -inf)
    shows = key in st.session_state and st.session_state[key] == value
    if shows and monotonic() - moved < _MOVING_SECONDS:
        return
    if not shows:
        st.session_state.pop(f"{key}{_HEARD}", None)
    _note_replaced(key, value)
    st.session_state[key] = value


def set_text_widget(key: str, text: str) -> None:
    """Like :func:`set_widget`, for a visible box that the visitor may be typing into.

    Sets the text where it differs, and again in the next run if this one does not reach its end
    (:func:`note_the_end`) or has only just done so: a busy browser draws two runs at once, and then
    sees only the second. Later, it would wipe out what is being typed.
    """
    again = f"{key}{_AGAIN}"
    differs = key not in st.session_state or st.session_state[key] != text
    until = st.session_state.get(again, 0.0)
    if differs or monotonic() < until:
        set_widget(key, text)
    if differs:
        st.session_state[again] = inf


class TextBox(NamedTuple):
    """How to draw a text box: its key, and the text it starts with."""

    key: str
    text: str


def hidden_text_box(name: str, text: str) -> TextBox:
    """Return the box called ``name``, showing ``text``, for a place that opens later: a popover.

    A text that is set reaches only boxes that are on the screen in that run. So this one starts
    with its text, and is another box, with another key, when the page replaces the text. (Streamlit
    shows the old and the new one together until the run ends, so this is not for visible boxes.)
    """
    version, first = st.session_state.get(f"{name}{_VERSION}", (0, text))
    if st.session_state.get(_box_key(name, version), first) != text:
        version, first = version + 1, text
    st.session_state[f"{name}{_VERSION}"] = (version, first)
    return TextBox(_box_key(name, version), first)


def typed_text(name: str, otherwise: str) -> str:
    """Return what the hidden box ``name`` shows, or ``otherwise`` if it is not on the page."""
    version, _ = st.session_state.get(f"{name}{_VERSION}", (0, ""))
    return str(st.session_state.get(_box_key(name, version), otherwise) or "")


def _box_key(name: str, version: int) -> str:
    return f"{name} {version}" if version else name


def heard(key: str, callback: Callable[..., None]) -> Callable[..., None]:
    """Return ``callback`` for the widget with this key, deaf to echoes.

    The browser sends the values of all widgets with every event. One that it sends before a value
    set here has reached it has the replaced value, which looks as if the visitor had put it back.
    """

    def call(*args: Any, **kwargs: Any) -> None:
        if not _is_echo(key):
            st.session_state[f"{key}{_HEARD}"] = monotonic()
            callback(*args, **kwargs)

    return call


def _note_replaced(key: str, value: Any) -> None:
    """Remember what the widget showed if that is not ``value``."""
    if key in st.session_state and st.session_state[key] != value and not _is_echo(key):
        st.session_state[f"{key}, replaced"] = (st.session_state[key], monotonic())


def _is_echo(key: str) -> bool:
    """Return whether the widget reports the value that was replaced moments ago."""
    replaced, since = st.session_state.get(f"{key}, replaced", (None, -_ECHO_SECONDS))
    is_recent = monotonic() - since < _ECHO_SECONDS
    return is_recent and bool(st.session_state.get(key) == replaced)


def note_the_end() -> None:
    """Note that everything this run has drawn is on its way to the browser. A run ends with it."""
    for key in [key for key in st.session_state if str(key).endswith(_AGAIN)]:
        st.session_state[key] = min(st.session_state[key], monotonic() + _SEEN_SECONDS)


def mirror_to_url() -> None:
    """Update the address bar, so that it can be copied as a link."""
    query = to_query(read_session())
    if st.query_params.to_dict() != query:
        st.query_params.from_dict(query)
