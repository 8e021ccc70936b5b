"""What a visitor still wants: requests that were replaced are withdrawn, failed ones retried."""

from __future__ import annotations

from typing import Any, Final

import streamlit as st

from cache import Job
from pages.shared import progress, resources

_LATEST: Final = "latest requests"


def only_this(job: Job[Any], slot: str) -> None:
    """Withdraw the visitor's earlier request in ``slot``, now that there is a new one."""
    latest: dict[str, Job[Any]] = st.session_state.setdefault(_LATEST, {})
    earlier = latest.get(slot)
    if earlier is not None and earlier is not job and progress.is_active(earlier):
        progress.cancel(earlier)
    if progress.is_active(job):
        latest[slot] = job
    else:
        latest.pop(slot, None)


def retry_button(job: Job[Any], key: str = "retry") -> None:
    """Draw a button that runs a failed request again at once."""
    st.button("Retry", key=key, on_click=resources.backend().retry, args=(job,))
