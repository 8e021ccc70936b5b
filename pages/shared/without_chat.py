"""Plain text on transcoders that were trained on chats: it is refused, and traced on request."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import streamlit as st

from cache import ModelChoice, TraceRequest
from pages.shared.escape import plain
from pages.shared.session_state import Session

_FORCED: Final = "prompts without a chat"


def forced(request: TraceRequest) -> TraceRequest:
    """Return the request; forced where the visitor asked for its prompt and model as it is."""
    wanted = (request.prompt, request.choice) in st.session_state.get(_FORCED, set())
    return replace(request, force=True) if wanted else request


def ask_for_chat(session: Session) -> None:
    """Say why the prompt of the session is refused, and offer to trace it as it is."""
    st.error(
        plain(
            f"The transcoders of {session.choice.model} were trained on chats, and this prompt "
            "does not begin one: features of its first words would be lost. Write it as a chat, "
            "with the model's own template, or trace it as it is."
        )
    )
    st.button(
        "Trace it as it is",
        key="trace without chat",
        type="primary",
        on_click=_force,
        args=(session.prompt, session.choice),
        help="The graph has no features at its first tokens, where the transcoders of a chat "
        "model carry none.",
    )


def _force(prompt: str, choice: ModelChoice) -> None:
    st.session_state[_FORCED] = {*st.session_state.get(_FORCED, set()), (prompt, choice)}
