"""The sidebar: which transcoders, the prompts to click through, and what the machine is doing."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

import streamlit as st

from cache import ModelChoice, StoreError
from pages.shared import resources
from pages.shared.escape import plain
from pages.shared.model_choices import sets_of, short
from pages.shared.session import read_session, update_session
from pages.shared.session_state import Session
from tracer.atlas.gallery import gallery
from tracer.catalog.resolve import ATLAS


def draw(trace_page: st.Page, models_page: st.Page, stays: bool) -> None:
    """Draw it; called on every page. A prompt that is clicked leads to the Trace page, unless the
    page ``stays`` because it shows the prompt itself."""
    session = read_session()
    with st.sidebar:
        st.markdown("#### Prompts")
        st.caption("Click one, or type your own on the right.")
        for group, entries in groupby(gallery(), key=lambda entry: entry.group):
            prompts = list(entries)
            here = not session.graph and any(e.prompt == session.prompt for e in prompts)
            first = group == gallery()[0].group
            with st.expander(group, expanded=here or first), st.container(gap=None):
                for entry in prompts:
                    clicked = st.button(
                        plain(entry.title),
                        key=f"gallery {entry.prompt}",
                        type="primary" if here and entry.prompt == session.prompt else "tertiary",
                        on_click=update_session,
                        kwargs={"prompt": entry.prompt},
                    )
                    if clicked and not stays:
                        st.switch_page(trace_page)
        st.markdown("#### Model")
        _choose_transcoders(session)
        _machine()
        st.page_link(models_page, label="Other models", icon=":material/deployed_code:")


def _choose_transcoders(session: Session) -> None:
    choice = session.choice
    sets, key = sets_of(choice), f"transcoders of {choice.model}: {choice.transcoders}"
    st.segmented_control(
        f"{short(choice.model)}, with transcoders",
        sets,
        format_func=short,
        default=choice.transcoders,
        required=True,
        key=key,
        on_change=_transcoders_chosen,
        args=(key, choice),
        help="Per-layer features write to their own layer only; cross-layer features write to "
        "all later ones too, so a chain of copies becomes one node.",
    )


def _transcoders_chosen(key: str, shown: ModelChoice) -> None:
    # The browser may tell of a control of another model, which a click elsewhere has replaced.
    chosen = st.session_state.get(key)
    if chosen is not None and read_session().choice == shown:
        update_session(choice=replace(shown, transcoders=chosen))


def _machine() -> None:
    try:
        backend = resources.backend()
    except StoreError as error:
        st.error(plain(str(error)))
        return
    device, queue = backend.device, backend.queue
    state = f"on {device}" if device else "not loaded yet"
    work = f" · {len(queue)} in the queue" if queue else ""
    kind = "Embedded model" if read_session().choice.model == ATLAS else "Model"
    st.caption(f"{kind}, {state}{work}")
