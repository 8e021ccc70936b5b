"""What features fire on, where it has to be fetched first: shown as it comes, and trouble said."""

from __future__ import annotations

from typing import Any, Final

import streamlit as st

from cache import Job
from charts.graph_view import GraphView
from pages.shared import progress, resources
from pages.shared.escape import plain
from tracer.errors import TracerError
from tracer.features.cards import FeatureCard
from tracer.features.lookup import NO_EXAMPLES
from tracer.types import FeatureId

_WAIT: Final = 4.0
"""Seconds that the panel waits for the examples of one feature."""
_NAMED: Final = 120
"""Features that are named unasked, the most influential ones; others when they are opened."""


def card(choice: resources.FeatureSource, feature: FeatureId) -> FeatureCard | None:
    """What is known of a feature; where it is None, the reason has been drawn."""
    try:
        known = resources.card(choice, feature)
        if known is not None:
            return known
        job = resources.backend().library.explain(choice, [feature], str(feature))
        if job is not None and not job.wait(_WAIT):
            st.caption("The examples of this feature are being fetched …")
            _until_done(job)
            return None
        if job is not None:
            job.result()
            known = resources.card(choice, feature)
    except TracerError as error:
        st.warning(plain(str(error)))
        return None
    if known is None:
        st.caption(plain(f"{NO_EXAMPLES}."))
    return known


def fetch_names(view: GraphView, key: str, choice: resources.FeatureSource) -> None:
    """Fetch the examples of the features that are drawn, to name them; say how far that is."""
    features = [node for node in view.pruned.nodes if node.kind == "feature"]
    features.sort(key=view.influence, reverse=True)
    nameless = [n.feature for n in features[:_NAMED] if n.feature not in view.names]
    if not nameless:
        return
    try:
        job = resources.backend().library.explain(choice, nameless, f"{key} {len(nameless)}")
        if job is None:
            return
        if progress.is_active(job):
            _names_coming(job)
            return
        job.result()
    except TracerError as error:
        st.caption(plain(f"Not every feature could be named: {error}."))


@st.fragment(run_every=progress.POLL)
def _names_coming(job: Job[Any]) -> None:
    if not progress.is_active(job):
        st.rerun()
    done, total, _ = job.progress
    st.caption(f"Finding out what the features are: {done} of {total} …")


@st.fragment(run_every=progress.POLL)
def _until_done(job: Job[Any]) -> None:
    if not progress.is_active(job):
        st.rerun()
