"""Take over the pins, supernodes and labels of a link to a graph of another tool."""

from __future__ import annotations

from typing import Final

import streamlit as st

from cache import Annotations, StoreError
from pages.shared import resources
from pages.shared.escape import plain, sentence
from pages.shared.session import read_session
from pages.shared.session_actions import annotate
from tracer.errors import ExternalGraphError
from tracer.graph.graph import AttributionGraph
from tracer.interchange.links import MAX_LENGTH, add_marks, link_marks, marks_sentence, read_link

_BOX: Final = "marks link"
_OUTCOME: Final = "marks outcome"


def draw(graph: AttributionGraph) -> None:
    """Draw the box for the link."""
    with st.popover("Add marks from a link", key="marks from link", type="tertiary"):
        st.text_input(
            "Link to the same graph on Neuronpedia, or on a circuit-tracer server",
            key=_BOX,
            max_chars=MAX_LENGTH,
            placeholder="https://www.neuronpedia.org/gemma-2-2b/graph?slug=…&pinnedIds=…",
            on_change=_added,
            args=(graph,),
            help="Its pins, supernodes and labels are added to yours. Nothing is fetched: they are "
            "in the link itself.",
        )


def draw_outcome() -> None:
    """Say once what the latest link added, or why it could not be read."""
    outcome = st.session_state.pop(_OUTCOME, None)
    if outcome is not None:
        failed, text = outcome
        (st.error if failed else st.success)(plain(text))


def _added(graph: AttributionGraph) -> None:
    text = str(st.session_state[_BOX] or "").strip()
    if not text:
        return
    try:
        marks = link_marks(read_link(text), graph)
        for feature, label in marks.labels.items():
            resources.set_label(graph, feature, label)
    except (ExternalGraphError, StoreError) as error:
        st.session_state[_OUTCOME] = (True, sentence(error))
        return
    before = read_session().annotations
    pinned, supernodes = add_marks(before.pinned, before.supernodes, marks)
    annotate(Annotations(pinned, supernodes, before.positions))
    st.session_state[_OUTCOME] = (False, marks_sentence(marks))
    st.session_state[_BOX] = ""
