"""The device that models run on: what this machine has, and which one is used."""

from __future__ import annotations

from typing import Final

import streamlit as st

from cache import Device
from pages.shared import progress, resources
from pages.shared.escape import plain, sentence
from pages.shared.session import heard, set_widget
from tracer.errors import TracerError

_KEY: Final = "device"


def draw() -> None:
    """Draw the choice. Listing the devices takes seconds at first, and does not block the page."""
    backend = resources.backend()
    devices, chosen = backend.devices(), backend.device_name
    names = [device.name for device in devices]
    set_widget(_KEY, chosen if chosen in names else None)
    st.segmented_control(
        "Device",
        names,
        key=_KEY,
        required=True,
        on_change=heard(_KEY, _chosen),
        help="Where models run. Applies to everyone who uses this server: open models are "
        "unloaded, and opened again on the new device when they are next needed.",
    )
    if _is_complete(devices):
        st.caption(plain(device_sentence(devices, chosen)))
    else:
        _looking()


def device_sentence(devices: tuple[Device, ...], chosen: str) -> str:
    """Say what the chosen device is and, for ``auto``, why it chose that one.

    ``"auto uses cuda:0 (NVIDIA H100, 85.0 GB): CUDA is available."``
    """
    known = {device.name: device for device in devices}
    device = known.get(chosen, Device(chosen, ""))
    text = chosen
    if chosen == "auto" and device.description:
        used = known.get(device.description) or known.get(f"{device.description}:0")
        text += f" uses {used.name if used else device.description}"
        text += f" ({used.description})" if used else ""
    elif device.description:
        text += f": {device.description}"
    reason = device.reason.removeprefix("auto: ")
    return f"{text}: {reason}." if reason else f"{text}."


def _is_complete(devices: tuple[Device, ...]) -> bool:
    """Return whether all devices are listed: until then, nothing is known of ``auto``."""
    auto = devices[0]
    return bool(auto.description or auto.reason)


def _chosen() -> None:
    name = st.session_state[_KEY]
    try:
        resources.backend().set_device(name)
    except TracerError as error:
        st.toast(plain(sentence(error)))


@st.fragment(run_every=progress.POLL)
def _looking() -> None:
    if _is_complete(resources.backend().devices()):
        st.rerun()
    st.caption("Looking for other devices …")
