"""Work that outlasts a person's patience: how far it is, and the page again when it has ended."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

import streamlit as st

from cache import Job
from pages._text import plain

PATIENCE: Final = 0.8
"""Seconds to wait before progress is shown; a warm small model answers within."""
POLL: Final = 1.0
"""Seconds between two looks at work that goes on."""


def going_on(job: Job[Any]) -> bool:
    """Whether a job waits for its turn or is worked on."""
    return job.state in ("queued", "running")


def ended(job: Job[Any], what: str = "", patience: float = PATIENCE) -> bool:
    """Whether a job has ended, well or badly, before ``patience`` seconds are over.

    Where it has not, its progress is drawn, with ``what`` it is for; the page is drawn again as
    soon as it ends.
    """
    if job.wait(patience):
        return True
    _progress(job, what)
    return False


def all_ended(jobs: Sequence[Job[Any]], what: str, patience: float = PATIENCE) -> bool:
    """The same of several jobs; the page is drawn again whenever one of them ends."""
    until = time.monotonic() + patience
    if all(job.wait(max(0.0, until - time.monotonic())) for job in jobs):
        return True
    _count([job for job in jobs if going_on(job)], len(jobs), what)
    return False


def bar(job: Job[Any], what: str = "") -> None:
    """How far a job is: what is done now, and how much of it."""
    done, total, doing = job.progress
    said = f"{what}: {doing}" if what else doing
    if total > 1:
        said += f", {done:,} of {total:,}"
    st.progress(min(done / total, 1.0) if total else 0.0, text=plain(f"{said} …"))


@st.fragment(run_every=POLL)
def _progress(job: Job[Any], what: str) -> None:
    if not going_on(job):
        st.rerun()
    bar(job, what)


@st.fragment(run_every=POLL)
def _count(left: Sequence[Job[Any]], total: int, what: str) -> None:
    if not all(going_on(job) for job in left):
        st.rerun()
    done = total - len(left)
    st.progress(done / total, text=plain(f"{what}: {done} of {total} …"))
