"""Plain text on transcoders that were trained on chats: it is refused, and traced on request."""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from pages.shared.escape import plain
from pages.shared.session import read_session, update_session
from pages.shared.session_state import Session


def ask_for_chat(session: Session) -> None:
    """Say why the prompt of the session is refused, and offer to trace it as it is."""
    st.error(
        plain(
            f"The transcoders of {session.choice.model} were trained on chats, and this prompt "
            "does not begin one: features of its first words would be lost. Write it as a chat "
            "under Options, or trace it as it is."
        )
    )
    st.button(
        "Trace it as it is",
        key="trace without chat",
        type="primary",
        on_click=_force,
        args=(session.prompt,),
        help="The graph has no features at its first tokens, where transcoders of a chat model "
        "have none.",
    )


def _force(prompt: str) -> None:
    explain = read_session().explain
    update_session(prompt=prompt, explain=replace(explain, forced=prompt))
