"""The layout of the Models page: a list of models, and details of the selected one next to it."""

from __future__ import annotations

import streamlit as st

from cache import Machine, ModelChoice, StoreError
from charts.text import count_text
from pages.models import add_model, device_choice, model_card
from pages.shared import model_choices, resources
from pages.shared.escape import plain, sentence
from pages.shared.session import mirror_to_url, read_session, update_session
from tracer.catalog.embedded import installed
from tracer.catalog.registry import ListedModel, memory
from tracer.files import format_bytes
from tracer.hub import network_allowed


def draw() -> None:
    """Draw the page for the current session."""
    session = read_session()
    mirror_to_url()
    st.markdown("#### Models")
    try:
        machine = resources.backend().library.machine()
    except StoreError as error:
        st.error(plain(sentence(error)))
        return
    _this_machine(machine)
    device_choice.draw()
    _open_now()
    listed, trouble = model_choices.models()
    if trouble:
        st.error(plain(sentence(trouble)))
    shown = session.look or session.choice.model
    left, right = st.columns([1, 1.7], gap="large")
    with left:
        st.markdown("##### Available models")
        _list(listed, shown, machine)
    with right:
        model_card.draw(shown, session, machine)
    add_model.draw()


def _this_machine(machine: Machine) -> None:
    parts = [
        f"**{format_bytes(machine.free_memory)}** of {format_bytes(machine.memory)} RAM free",
        f"**{format_bytes(machine.free_disk)}** of disk space free for downloads",
    ]
    if machine.gpu is not None:
        gpu = machine.gpu
        parts.insert(
            0,
            f"**{format_bytes(gpu.free)}** of {format_bytes(gpu.memory)} free on {plain(gpu.name)}",
        )
    if not network_allowed():
        parts.append("offline (CIRCUIT\\_OFFLINE or HF\\_HUB\\_OFFLINE is set)")
    st.caption("This machine: " + " · ".join(parts))


def _open_now() -> None:
    opened = resources.backend().library.opened
    if not opened:
        return
    with st.container(border=True, key="open now"):
        for choice in reversed(opened):
            with st.container(horizontal=True, vertical_alignment="center"):
                name = plain(model_choices.short(choice.model))
                st.markdown(
                    f"**{name}** :gray[with {plain(model_choices.short(choice.transcoders))}, "
                    f"{choice.dtype}, in memory]",
                    width="stretch",
                )
                st.button(
                    "Unload",
                    key=f"unload {choice}",
                    on_click=resources.backend().library.unload,
                    args=(choice,),
                    help="Frees its memory. The model is loaded again when it is needed.",
                )


def _list(listed: tuple[ListedModel, ...], shown: str, machine: Machine) -> None:
    with st.container(gap=None):
        for embedded in installed():
            _entry(embedded.name, ":gray[embedded]", shown == embedded.name)
        own = [model for model in listed if model.own]
        for model in (*own, *(m for m in listed if not m.own)):
            selected = shown in (model.name, model.reference)
            _entry(model.name, _summary(model, machine), selected)


def _entry(name: str, summary: str, selected: bool) -> None:
    st.button(
        f"**{plain(name)}**  {summary}" if not selected else plain(name),
        key=f"look at {name}",
        type="primary" if selected else "tertiary",
        on_click=update_session,
        kwargs={"look": name},
    )


def _summary(model: ListedModel, machine: Machine) -> str:
    """Return a model's size, and whether it fits with its smallest transcoder set in bfloat16."""
    if any(
        resources.backend().library.is_here(ModelChoice(model.name, entry.name))
        for entry in model.sets
    ):
        return ":green[on this disk]"
    needs = [memory(model, entry, "bfloat16") for entry in model.sets]
    known = [size for need in needs if (size := need.least or need.model) is not None]
    parts = []
    if model.parameters:
        parts.append(count_text(model.parameters))
    if known and min(known) > machine.room:
        parts.append("too large for this machine")
    elif model.gated:
        parts.append("gated")
    return f":gray[{plain(' · '.join(parts))}]" if parts else ""
