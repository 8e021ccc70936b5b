"""The device that models run on: what this machine has, and which one is used."""

from __future__ import annotations

import streamlit as st

from cache import Device
from pages.shared import progress, resources
from pages.shared.escape import plain, sentence
from pages.shared.session import set_widget
from tracer.errors import TracerError

_KEY = "device"


def draw() -> None:
    """Draw the choice; a first look at the devices takes seconds and does not block the page."""
    try:
        devices = resources.devices(timeout=0.05)
    except TracerError as error:
        st.error(plain(sentence(error)))
        return
    if devices is None:
        _looking()
        return
    chosen = resources.backend().device_name
    names = [device.name for device in devices]
    set_widget(_KEY, chosen if chosen in names else None)
    st.segmented_control(
        "Device",
        names,
        key=_KEY,
        required=True,
        on_change=_chosen,
        help="Where models run. Applies to everyone who uses this server: open models are "
        "unloaded, and opened again on the new device when they are next needed.",
    )
    st.caption(plain(device_sentence(devices, chosen)))


def device_sentence(devices: tuple[Device, ...], chosen: str) -> str:
    """Say what the chosen device is, and of ``auto`` why it chose that one.

    ``"auto uses cuda:0 (NVIDIA H100, 85.0 GB): CUDA is available."``
    """
    known = {device.name: device for device in devices}
    if chosen not in known:
        return f"{chosen}."
    device = known[chosen]
    if chosen != "auto":
        return f"{chosen}: {device.description}."
    name = device.description
    first = known.get(name) or known.get(f"{name}:0")
    text = f"auto uses {name}" if first is None else f"auto uses {first.name} ({first.description})"
    return f"{text}: {device.reason}." if device.reason else f"{text}."


def _chosen() -> None:
    name = st.session_state[_KEY]
    try:
        resources.backend().set_device(name)
    except TracerError as error:
        st.toast(plain(sentence(error)))


@st.fragment(run_every=progress.POLL)
def _looking() -> None:
    if resources.devices(timeout=0) is not None:
        st.rerun()
    st.caption("Looking for devices …")
