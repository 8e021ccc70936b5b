"""The options of a trace next to the prompt: what to explain, how much, its tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, get_args

import streamlit as st

from cache import StoreError
from charts.palette import palette
from charts.text import plural
from pages.shared import chat_panel, forecast, many_prompts, resources, token_chips
from pages.shared.explaining import LOGIT_MASS, MOST_FEATURES, Kind
from pages.shared.session import (
    heard,
    hidden_text_box,
    read_session,
    set_widget,
    typed_text,
    update_session,
)
from pages.shared.session_state import Session
from pages.shared.token_bytes import with_bytes
from tracer.errors import TracerError

_KINDS: Final[dict[Kind, str]] = {
    "likeliest": "Likeliest tokens",
    "token": "A token",
    "contrast": "One token against another",
    "feature": "A feature",
}


def draw(session: Session) -> None:
    """Draw the popover with the options."""
    changed = bool(session.explain.sentence())
    with st.popover("Options •" if changed else "Options", key="trace options"):
        _explained(session)
        forecast.draw(session.request)
        _tokens(session)
        many_prompts.draw_input()
        chat_panel.draw(session)


def _explained(session: Session) -> None:
    explain = session.explain
    set_widget("explain kind", explain.kind)
    st.selectbox(
        "Explain",
        get_args(Kind),
        key="explain kind",
        format_func=_KINDS.__getitem__,
        on_change=heard("explain kind", _changed),
    )
    if explain.kind in ("token", "contrast"):
        box = hidden_text_box("explain first", explain.first)
        st.text_input(
            "Token",
            value=box.text,
            key=box.key,
            on_change=_changed,
            help="Most tokens begin with a space: “ Austin”.",
        )
    if explain.kind == "contrast":
        box = hidden_text_box("explain second", explain.second)
        st.text_input("Against the token", value=box.text, key=box.key, on_change=_changed)
    if explain.kind == "feature":
        box = hidden_text_box("explain first", explain.first)
        st.text_input(
            "Feature",
            value=box.text,
            key=box.key,
            on_change=_changed,
            placeholder="L3/417 @ 7",
            help="Layer, number, and the position of the token it fires at; without a position, "
            "the last one.",
        )
    if explain.is_incomplete:
        st.caption("Not complete yet: the likeliest tokens are explained until it is.")
    if explain.kind == "likeliest":
        set_widget("explain mass", explain.logit_mass)
        st.slider(
            "Probability they reach together",
            0.5,
            0.99,
            step=0.01,
            key="explain mass",
            on_change=heard("explain mass", _changed),
            help="The fewest likeliest tokens with this probability are explained, at most 10.",
        )
    set_widget("explain features", explain.max_features)
    st.number_input(
        "Features to expand (0 for all)",
        0,
        MOST_FEATURES,
        step=500,
        key="explain features",
        on_change=heard("explain features", _changed),
        help="The most influential features are expanded first. Fewer take less time and memory.",
    )


def _changed() -> None:
    state, before = st.session_state, read_session().explain
    explain = replace(
        before,
        kind=state["explain kind"],
        first=typed_text("explain first", before.first),
        second=typed_text("explain second", before.second),
        max_features=int(state.get("explain features") or 0),
        logit_mass=round(float(state.get("explain mass", LOGIT_MASS)), 3),
    )
    if explain != before:
        update_session(explain=explain)


def _tokens(session: Session) -> None:
    """Draw the tokens of the prompt, once they are known from its trace."""
    try:
        key = resources.backend().key_of(session.request)
    except StoreError:
        return
    graph = resources.backend().graph(key) if key else None
    if graph is None:
        return
    st.markdown(f"**Tokens** :gray[{plural(len(graph.tokens), 'token')}, with their ids]")
    theme = palette(st.context.theme.type)
    tokens = graph.tokens
    try:
        folder = resources.backend().library.source(session.choice).model_folder
        tokens = with_bytes(tokens, graph.token_ids, folder)
    except TracerError:
        pass  # the model is gone: its bytes stay unnamed
    st.html(token_chips.chips(tokens, graph.token_ids, theme))
