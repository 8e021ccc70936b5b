"""Work that outlasts a person's patience: how far it is, while what was drawn before stays."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

import streamlit as st

from cache import Job
from pages.shared.escape import plain

PATIENCE: Final = 0.8
"""Seconds to wait before progress is shown; a warm small model answers within."""
POLL: Final = 1.0
"""Seconds between two looks at work that goes on."""


def going_on(job: Job[Any]) -> bool:
    """Whether a job waits for its turn or is worked on."""
    return job.state in ("queued", "running")


def wait_for(job: Job[Any], what: str = "") -> None:
    """Wait until a job has ended, well or badly; its progress is shown once that takes a while.

    The page keeps what was drawn below before, its open popovers too, and any click on it ends the
    waiting.
    """
    place = st.empty()  # always there, so that what comes after it stays the same element
    if job.wait(PATIENCE):
        return
    while not job.wait(POLL / 2):
        with place:
            bar(job, what)
    place.empty()


def wait_for_all(jobs: Sequence[Job[Any]], what: str) -> None:
    """The same for several jobs; what is shown is how many have ended."""
    place, until = st.empty(), time.monotonic() + PATIENCE
    for job in jobs:
        if job.wait(max(0.0, until - time.monotonic())):
            continue
        while not job.wait(POLL / 2):
            done = sum(not going_on(job) for job in jobs)
            text = f"{what}: {done} of {len(jobs)}, {job.title}: {job.progress[2]} …"
            place.progress(done / len(jobs), text=plain(text))
    place.empty()


@st.fragment(run_every=POLL)
def watch(job: Job[Any], what: str = "") -> None:
    """How far a job is, beside the page: it is usable meanwhile, and drawn again at the end."""
    if not going_on(job):
        st.rerun()
    bar(job, what)


def bar(job: Job[Any], what: str = "") -> None:
    """How far a job is: what is done now, and how much of it."""
    done, total, doing = job.progress
    said = f"{what}: {doing}" if what else doing
    if total > 1:
        said += f", {done:,} of {total:,}"
    st.progress(min(done / total, 1.0) if total else 0.0, text=plain(f"{said} …"))
