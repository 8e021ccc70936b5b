"""The user's own models: add one to the list, or remove it."""

from __future__ import annotations

from typing import Final

import streamlit as st

from pages.shared.escape import plain, sentence
from pages.shared.session import read_session, update_session
from tracer.catalog.registry import ListedModel, add_own, remove_own
from tracer.catalog.user_models import described
from tracer.errors import TracerError
from tracer.paths import user_registry

_MESSAGE: Final = "own model message"


def draw() -> None:
    """Draw the form that adds a model."""
    with st.expander("Add your own model", expanded=False, key="add your own"):
        st.caption(
            "A model from the Hugging Face Hub (org/name or org/name@revision) or a folder with a "
            "config.json, and a transcoder set in any published layout. The entry is saved in "
            f"{plain(str(user_registry()))}, which you can also edit by hand."
        )
        with st.form("own model", border=False, clear_on_submit=False):
            name = st.text_input("Name", key="own name", placeholder="my-gpt2")
            model = st.text_input(
                "Model", key="own reference", placeholder="openai-community/gpt2 or /path/to/model"
            )
            transcoders = st.text_input(
                "Transcoders", key="own set", placeholder="org/name/folder or /path/to/transcoders"
            )
            if st.form_submit_button("Add model"):
                _add(name.strip(), model.strip(), transcoders.strip())
        message = st.session_state.pop(_MESSAGE, None)
        if message is not None:
            succeeded, text = message
            (st.success if succeeded else st.error)(plain(text))


def _add(name: str, model: str, transcoders: str) -> None:
    try:
        add_own(described(name, model, transcoders))
    except TracerError as error:
        st.session_state[_MESSAGE] = (False, sentence(error))
    else:
        st.session_state[_MESSAGE] = (True, f"{name} was added to the list.")
        update_session(look=name)
    st.rerun()


def draw_remove(model: ListedModel) -> None:
    """Draw the button that removes a model the user added."""
    st.button(
        "Remove from my list",
        key=f"remove {model.name}",
        type="tertiary",
        on_click=_remove,
        args=(model.name,),
        help="Does not delete its files.",
    )


def _remove(name: str) -> None:
    try:
        remove_own(name)
    except TracerError as error:
        st.session_state[_MESSAGE] = (False, sentence(error))
    if read_session().look == name:
        update_session(look="")
