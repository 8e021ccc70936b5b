"""The Models page: a list to choose from, and beside it what the chosen one is and takes."""

from __future__ import annotations

import streamlit as st

from cache import Machine, ModelChoice, StoreError
from charts.text import count_text
from pages.models import add_model, device_choice, model_card
from pages.shared import model_choices, resources
from pages.shared.escape import plain
from pages.shared.session import mirror_to_url, read_session, update_session
from tracer.catalog.registry import ListedModel, memory
from tracer.catalog.resolve import ATLAS
from tracer.files import format_bytes
from tracer.hub import network_allowed


def draw() -> None:
    """Draw the page for the session as it stands."""
    session = read_session()
    mirror_to_url()
    st.markdown("#### Models")
    try:
        machine = resources.backend().library.machine()
    except StoreError as error:
        st.error(plain(str(error)))
        return
    _this_machine(machine)
    device_choice.draw()
    _open_now()
    listed, trouble = model_choices.models()
    if trouble:
        st.error(plain(trouble))
    looked_at = session.look or session.choice.model
    left, right = st.columns([1, 1.7], gap="large")
    with left:
        st.markdown("##### Choose one")
        _list(listed, looked_at, machine)
    with right:
        model_card.draw(looked_at, session, machine)
    add_model.draw()


def _this_machine(machine: Machine) -> None:
    parts = [
        f"**{format_bytes(machine.free_memory)}** of {format_bytes(machine.memory)} memory free",
        f"**{format_bytes(machine.free_disk)}** free on the disk that downloads go to",
    ]
    if machine.gpu is not None:
        gpu = machine.gpu
        parts.insert(
            0,
            f"{plain(gpu.name)}, **{format_bytes(gpu.free)}** of {format_bytes(gpu.memory)} free",
        )
    elif machine.device:
        parts.insert(0, f"models run on the **{plain(machine.device)}**")
    if not network_allowed():
        parts.append("the network is switched off (CIRCUIT\\_OFFLINE or HF\\_HUB\\_OFFLINE)")
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
                    help="Gives its memory back; it is opened again when it is asked for.",
                )


def _list(listed: tuple[ListedModel, ...], looked_at: str, machine: Machine) -> None:
    with st.container(gap=None):
        _entry(ATLAS, ":gray[embedded, always here]", looked_at == ATLAS)
        own = [model for model in listed if model.own]
        for model in (*own, *(m for m in listed if not m.own)):
            here = looked_at in (model.name, model.reference)
            _entry(model.name, _summary(model, machine), here)


def _entry(name: str, about: str, chosen: bool) -> None:
    st.button(
        f"**{plain(name)}**  {about}" if not chosen else plain(name),
        key=f"look at {name}",
        type="primary" if chosen else "tertiary",
        on_click=update_session,
        kwargs={"look": name},
    )


def _summary(model: ListedModel, machine: Machine) -> str:
    """Its size, and whether its smallest set fits here in the narrower data type."""
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
        parts.append("too large here")
    elif model.gated:
        parts.append("gated")
    return f":gray[{plain(' · '.join(parts))}]" if parts else ""
