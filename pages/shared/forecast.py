"""What a trace will take, said before it runs: its tokens, memory and time."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Final

import streamlit as st

from cache import Forecast, StoreError, TraceRequest
from charts.text import plural
from pages.shared import progress, resources
from pages.shared.escape import plain
from pages.shared.session import read_session, update_session, visitor_id
from tracer.errors import TracerError
from tracer.files import format_bytes

_AGREED: Final = "agreed to trace"
_LONG_TEXT: Final = 300
"""Characters from which a prompt may be a long one, whatever the model."""
_TOKEN_CHARACTERS: Final = 3
_FEWER: Final = 1000
_SOON: Final = 0.05


def agreed(request: TraceRequest) -> bool:
    """Return whether a trace can start: it is short, known, or the visitor has agreed to it.

    Otherwise draw what it takes, and the choice.
    """
    if st.session_state.get(_AGREED) == request or not _may_be_long(request):
        return True
    job = resources.backend().forecast(request, visitor_id())
    progress.wait_for(job, "forecast", "Estimating")
    try:
        forecast = job.result()
    except TracerError:
        return True  # the trace fails with the same sentence
    if not forecast.is_long:
        return True
    st.info(plain(f"This is a long trace: {sentence(forecast)}."))
    with st.container(horizontal=True):
        st.button("Trace it", key="agree", type="primary", on_click=_agree, args=(request,))
        if request.max_features is None or request.max_features > _FEWER:
            st.button(
                f"Expand only {_FEWER:,} features",
                key="fewer features",
                on_click=_fewer,
                help="The most influential features are expanded first.",
            )
    return False


def sentence(forecast: Forecast) -> str:
    """Say what a trace takes.

    >>> sentence(Forecast(212, 5_200_000_000, 9_000_000_000, 190.0))
    '212 tokens, about 5.2 GB of 9.0 GB and 3 minutes'
    >>> sentence(Forecast(212, 5_200_000_000, 9_000_000_000, None))
    '212 tokens, at least 5.2 GB of 9.0 GB; the first trace of a model measures its speed'
    """
    tokens = plural(forecast.n_tokens, "token")
    memory = f"{format_bytes(forecast.n_bytes)} of {format_bytes(forecast.free_bytes)}"
    if forecast.seconds is None:
        return f"{tokens}, at least {memory}; the first trace of a model measures its speed"
    return f"{tokens}, about {memory} and {duration(forecast.seconds)}"


def duration(seconds: float) -> str:
    """Return a time in rounded words.

    >>> [duration(value) for value in (0.2, 7, 75, 190, 5400, 20000)]
    ['1 second', '7 seconds', '75 seconds', '3 minutes', '90 minutes', '6 hours']
    """
    if seconds < 90:
        return plural(max(1, round(seconds)), "second")
    if seconds < 2 * 3600:
        return plural(round(seconds / 60), "minute")
    return plural(round(seconds / 3600), "hour")


def draw(request: TraceRequest) -> None:
    """Draw what a trace takes where that can be told at once: its model is open."""
    backend = resources.backend()
    if request.choice not in backend.library.opened:
        return
    job = backend.forecast(request, visitor_id())
    if not job.wait(_SOON):
        return
    with contextlib.suppress(TracerError):  # said in place of the graph
        st.caption(plain(f"A trace of this prompt: {sentence(job.result())}."))


def _may_be_long(request: TraceRequest) -> bool:
    """Tell without the model whether a trace may be long."""
    backend = resources.backend()
    try:
        if backend.key_of(request) is not None:
            return False
    except StoreError:
        pass  # whether it is stored is not known; the trace says so
    return len(request.prompt) >= _LONG_TEXT or backend.may_take_long(
        request, len(request.prompt) // _TOKEN_CHARACTERS
    )


def _agree(request: TraceRequest) -> None:
    st.session_state[_AGREED] = request


def _fewer() -> None:
    session = read_session()
    update_session(explain=replace(session.explain, max_features=_FEWER))
