"""A visitor's own models: put on their list, and taken off it."""

from __future__ import annotations

from typing import Final

import streamlit as st

from pages.shared.escape import plain
from pages.shared.session import read_session, update_session
from tracer.catalog.registry import ListedModel, add_own, remove_own
from tracer.catalog.user_models import described
from tracer.errors import TracerError
from tracer.paths import user_registry

_SAID: Final = "own model said"


def draw() -> None:
    """The form that adds one."""
    with st.expander("Add your own", expanded=False, key="add your own"):
        st.caption(
            "A model of the hub (org/name, with @revision if you like) or a folder with a Hugging "
            "Face config.json, and a transcoder set in any published layout. It is kept in "
            f"{plain(str(user_registry()))}, which you can edit as well."
        )
        with st.form("own model", border=False, clear_on_submit=False):
            name = st.text_input("Name", key="own name", placeholder="my-gpt2")
            model = st.text_input(
                "Model", key="own reference", placeholder="openai-community/gpt2 or /path/to/model"
            )
            transcoders = st.text_input(
                "Transcoders", key="own set", placeholder="org/name/folder or /path/to/transcoders"
            )
            if st.form_submit_button("Add it"):
                _add(name.strip(), model.strip(), transcoders.strip())
        said = st.session_state.pop(_SAID, None)
        if said is not None:
            (st.success if said[0] else st.error)(plain(said[1]))


def _add(name: str, model: str, transcoders: str) -> None:
    try:
        add_own(described(name, model, transcoders))
    except TracerError as error:
        st.session_state[_SAID] = (False, f"{error}.")
    else:
        st.session_state[_SAID] = (True, f"{name} is on the list.")
        update_session(look=name)
    st.rerun()


def draw_remove(model: ListedModel) -> None:
    """A way off the list, for one that a visitor put there."""
    st.button(
        "Take it off my list",
        key=f"remove {model.name}",
        type="tertiary",
        on_click=_remove,
        args=(model.name,),
        help="Its files stay where they are.",
    )


def _remove(name: str) -> None:
    try:
        remove_own(name)
    except TracerError as error:
        st.session_state[_SAID] = (False, f"{error}.")
    if read_session().look == name:
        update_session(look="")
