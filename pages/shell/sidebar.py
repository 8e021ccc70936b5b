"""The sidebar: prompts to choose from, the transcoders, and the state of the model."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

import streamlit as st

from cache import ModelChoice, StoreError
from charts.text import plural
from pages.shared import diagnostics, resources
from pages.shared.escape import plain, sentence
from pages.shared.model_choices import sets_of, short
from pages.shared.session import read_session, update_session
from pages.shared.session_state import Session
from tracer.atlas.gallery import gallery
from tracer.catalog.resolve import ATLAS


def draw(trace_page: st.Page, models_page: st.Page, stays: bool) -> None:
    """Draw the sidebar, which every page has.

    Clicking a prompt leads to the Trace page, unless the page ``stays`` because it shows the
    prompt itself.
    """
    session = read_session()
    with st.sidebar:
        st.markdown("#### Prompts")
        st.caption("Choose one, or type your own at the top of the page.")
        for group, entries in groupby(gallery(), key=lambda entry: entry.group):
            prompts = list(entries)
            current = not session.graph and any(e.prompt == session.prompt for e in prompts)
            first = group == gallery()[0].group
            with st.expander(group, expanded=current or first), st.container(gap=None):
                for entry in prompts:
                    chosen = current and entry.prompt == session.prompt
                    clicked = st.button(
                        plain(entry.title),
                        key=f"gallery {entry.prompt}",
                        type="primary" if chosen else "tertiary",
                        on_click=update_session,
                        kwargs={"prompt": entry.prompt},
                    )
                    if clicked and not stays:
                        st.switch_page(trace_page)
        st.markdown("#### Model")
        _choose_transcoders(session)
        _machine()
        st.page_link(models_page, label="All models", icon=":material/deployed_code:")


def _choose_transcoders(session: Session) -> None:
    choice = session.choice
    sets, key = sets_of(choice), f"transcoders of {choice.model}: {choice.transcoders}"
    st.segmented_control(
        f"Transcoders for {short(choice.model)}",
        sets,
        format_func=short,
        default=choice.transcoders,
        required=True,
        key=key,
        on_change=_transcoders_chosen,
        args=(key, choice),
        help="Transcoders imitate the MLPs with sparse features, which become the nodes of the "
        "graph. A per-layer feature writes to its own layer only. A cross-layer feature also "
        "writes to all later layers, so a chain of copies becomes one node.",
    )


def _transcoders_chosen(key: str, shown: ModelChoice) -> None:
    # The event may belong to a control of another model, which a click elsewhere has replaced.
    chosen = st.session_state.get(key)
    if chosen is not None and read_session().choice == shown:
        update_session(choice=replace(shown, transcoders=chosen))


def _machine() -> None:
    try:
        backend = resources.backend()
    except StoreError as error:
        st.error(plain(sentence(error)))
        return
    if backend.store_problem:
        st.warning(plain(sentence(backend.store_problem)))
    kind = "Embedded model" if read_session().choice.model == ATLAS else "Model"
    state = f"on {backend.device}" if backend.device and backend.library.opened else "not loaded"
    queue = backend.queue
    work = f" · {plural(len(queue), 'job')} in the queue" if queue else ""
    st.caption(f"{kind}, {state}{work}")
    diagnostics.panel()
