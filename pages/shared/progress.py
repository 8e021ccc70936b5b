"""Wait for jobs: show their progress, keep the page usable, cancel those no longer needed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import streamlit as st
from streamlit.runtime.scriptrunner import StopException
from streamlit.runtime.scriptrunner_utils.script_run_context import get_run_yield_check

from cache import Job
from pages.shared import later, session
from pages.shared.escape import plain

PATIENCE: Final = 0.8
"""Seconds to wait before progress is shown; a small model that is loaded answers faster."""
AT_ONCE: Final = 0.1
"""Seconds to wait before the rest of the page is drawn."""
POLL: Final = 1.0
"""Seconds between two updates of a running job's progress."""
_GLANCE: Final = 0.03
"""Seconds between two looks for a click that interrupts a wait."""
_WAITS: Final = "waits"


@dataclass(frozen=True)
class _Wait:
    """Jobs that a place on a page waits for."""

    jobs: tuple[Job[Any], ...]
    finish: bool
    """Whether they go on when the visitor leaves the page."""


def is_active(job: Job[Any]) -> bool:
    """Return whether a job is queued or running."""
    return job.state in ("queued", "running")


def cancel(job: Job[Any]) -> None:
    """Cancel a job for this visitor, and for visitors who have left.

    The job goes on while another visitor wants it.
    """
    for departed in session.departed_visitors():
        job.cancel(departed)
    job.cancel(session.visitor_id())


def ends_within(job: Job[Any], seconds: float) -> bool:
    """Wait for a job and return whether it has ended. A click interrupts the wait."""
    check, until = get_run_yield_check(), time.monotonic() + seconds
    while not job.wait(max(0.0, min(_GLANCE, until - time.monotonic()))):
        if check is not None:
            check()
        if time.monotonic() >= until:
            return False
    return True


def wait_for(job: Job[Any], slot: str, what: str = "", *, finish: bool = False) -> None:
    """Wait until a job has ended, one way or another; show its progress if that takes a while.

    Elements below stay on screen meanwhile, and any click interrupts the wait. ``slot`` names the
    place on the page: when the next run waits for another job there, or for none, this one is
    cancelled. With ``finish`` a job goes on when the visitor leaves the page, because its result
    is stored.
    """
    _wait((job,), slot, finish, lambda: bar(job, what))


def wait_for_all(jobs: Sequence[Job[Any]], slot: str, what: str, *, finish: bool = False) -> None:
    """Wait for several jobs as :func:`wait_for` does, and show how many have ended."""

    def show() -> None:
        ended = sum(not is_active(job) for job in jobs)
        current = next((job for job in jobs if is_active(job)), jobs[-1])
        text = f"{what}: {ended} of {len(jobs)}, {current.title}: {current.progress[2]} …"
        st.progress(ended / len(jobs), text=plain(text))

    if jobs:
        _wait(tuple(jobs), slot, finish, show)


def _wait(jobs: tuple[Job[Any], ...], slot: str, finish: bool, show: Callable[[], None]) -> None:
    waits: dict[str, _Wait] = st.session_state.setdefault(_WAITS, {})
    if slot in waits:  # an earlier run was interrupted here
        for job in waits[slot].jobs:
            if not any(job is wanted for wanted in jobs):
                cancel(job)
    waits[slot] = _Wait(jobs, finish)
    # drawn even when it stays empty, so that the elements below keep their identity
    place, until = st.empty(), time.monotonic() + PATIENCE
    try:
        for job in jobs:
            if ends_within(job, AT_ONCE):
                continue
            later.draw_the_rest()
            if ends_within(job, until - time.monotonic()):
                continue
            while not ends_within(job, POLL / 2):
                with place:
                    show()
    except StopException:  # the visitor closed the page: no other run follows
        if not finish:
            for job in jobs:
                cancel(job)
        raise
    place.empty()
    waits.pop(slot, None)  # with fast reruns, an earlier run that is still ending may have done so


def cancel_abandoned() -> None:
    """Cancel what interrupted runs waited for and this run, which is complete, did not ask for."""
    waits: dict[str, _Wait] = st.session_state.setdefault(_WAITS, {})
    for slot, wait in list(waits.items()):
        if not wait.finish:
            for job in wait.jobs:
                cancel(job)
        if not wait.finish or not any(map(is_active, wait.jobs)):
            waits.pop(slot, None)


@st.fragment(run_every=POLL)
def watch(job: Job[Any], what: str = "") -> None:
    """Show the progress of a job without blocking the page; redraw the page when it ends."""
    if not is_active(job):
        st.rerun()
    bar(job, what)


def bar(job: Job[Any], what: str = "") -> None:
    """Show what a job is doing, and how far it is."""
    done, total, doing = job.progress
    text = f"{what}: {doing}" if what else doing[:1].upper() + doing[1:]
    if total > 1:
        text += f", {done:,} of {total:,}"
    st.progress(min(done / total, 1.0) if total else 0.0, text=plain(f"{text} …"))
