"""Feature examples and labels that may have to be fetched first: progress and errors are drawn."""

from __future__ import annotations

from typing import Any, Final

import streamlit as st

from cache import Job
from charts.graph_view import GraphView
from pages.shared import progress, resources
from pages.shared.escape import plain, sentence
from tracer.errors import TracerError
from tracer.features.cards import FeatureCard
from tracer.features.lookup import NO_EXAMPLES
from tracer.types import FeatureId

_WAIT: Final = 4.0
"""Seconds the panel waits for the examples of one feature."""
_LABELLED: Final = 120
"""The most influential features whose labels are fetched up front; others when they are opened."""


def card(source: resources.FeatureSource, feature: FeatureId) -> FeatureCard | None:
    """Return the card of a feature, or draw why there is none and return None."""
    try:
        known = resources.card(source, feature)
        if known is not None:
            return known
        job = resources.backend().library.explain(source, [feature], str(feature))
        if job is not None and not progress.ends_within(job, _WAIT):
            st.caption("Loading examples …")
            _redraw_when_done(job)
            return None
        if job is not None:
            job.result()
            known = resources.card(source, feature)
    except TracerError as error:
        st.warning(plain(sentence(error)))
        return None
    if known is None:
        st.caption(plain(f"{NO_EXAMPLES}."))
    return known


def fetch_names(view: GraphView, key: str, source: resources.FeatureSource) -> None:
    """Fetch the labels of drawn features that have none yet, and draw the progress."""
    features = [node for node in view.pruned.nodes if node.kind == "feature"]
    features.sort(key=view.influence, reverse=True)
    nameless = [n.feature for n in features[:_LABELLED] if n.feature not in view.names]
    if not nameless:
        return
    try:
        job = resources.backend().library.explain(source, nameless, f"{key} {len(nameless)}")
        if job is None:
            return
        if progress.is_active(job):
            _label_progress(job)
            return
        job.result()
    except TracerError as error:
        st.caption(plain(f"Some feature labels could not be loaded: {error}."))


@st.fragment(run_every=progress.POLL)
def _label_progress(job: Job[Any]) -> None:
    if not progress.is_active(job):
        st.rerun()
    done, total, _ = job.progress
    st.caption(f"Loading feature labels: {done} of {total} …")


@st.fragment(run_every=progress.POLL)
def _redraw_when_done(job: Job[Any]) -> None:
    if not progress.is_active(job):
        st.rerun()
