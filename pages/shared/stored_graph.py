"""A stored graph opened by its key, and the bar that replaces the prompt above it."""

from __future__ import annotations

from typing import Final

import streamlit as st

from cache import Job, StoredGraph, StoreError
from charts.text import percent, token_text
from pages.shared import resources
from pages.shared.escape import plain, sentence
from pages.shared.navigation import page_script
from pages.shared.session import read_session, update_session
from tracer.errors import TracerError
from tracer.graph.graph import AttributionGraph
from tracer.graph.pruning import PrunedGraph, without_pruning
from tracer.interchange.notes import import_notes
from tracer.types import Thresholds

_DRAWN_WHOLE: Final = 1200
"""Nodes up to which an imported graph is first shown without pruning it again."""
_SOURCES: Final = 4


def opened(key: str) -> Job[AttributionGraph] | None:
    """Draw the bar and return the stored graph as a finished job; None if there is no such graph,
    which is drawn instead."""
    try:
        graph = resources.backend().graph(key)
        entry = entry_of(key)
    except StoreError as error:
        st.error(plain(sentence(error)))
        return None
    if graph is None:
        st.error(
            "This graph is not in the library: it was deleted, or the link is from another "
            "machine. Import its file again, or go back to the prompts."
        )
        with st.container(horizontal=True):
            _close_button("Back to the prompts", "primary")
            if st.button("Open the library", key="to library"):
                st.switch_page(page_script("library"))
        return None
    if read_session().as_stored:
        update_session(thresholds=first_thresholds(graph), as_stored=False)
    _follow(key, graph)
    title = entry.title if entry and entry.title else graph.prompt
    with st.container(horizontal=True, vertical_alignment="center", key="stored graph"):
        first = graph.next_tokens[0]
        st.markdown(
            f"{plain(graph.prompt)} **{plain(token_text(first.token))}** "
            f":gray[{percent(first.probability)}]",
            width="stretch",
        )
        _close_button("✕ Close graph", "tertiary")
    if resources.is_imported(graph):
        lines = (f"{title}: {origin_sentence(graph)}", *import_notes(graph))
        st.caption("  \n".join(map(plain, lines)))
    else:
        st.caption(plain(f"From the library: {title}"))
    return Job.found(key, graph, graph.prompt)


def _follow(key: str, graph: AttributionGraph) -> None:
    """Make the session's prompt and model those of the graph, so that interventions run them."""
    session, request = read_session(), resources.request_for(graph)
    if request and (session.prompt, session.choice) != (request.prompt, request.choice):
        update_session(
            prompt=request.prompt,
            choice=request.choice,
            graph=key,
            thresholds=session.thresholds,
            selected=session.selected,
            annotations=session.annotations,
        )


def _close_button(label: str, kind: str) -> None:
    st.button(
        label,
        key="close graph",
        type=kind,  # type: ignore[arg-type]
        on_click=update_session,
        kwargs={"graph": ""},
        help="Goes back to your prompt. The graph stays in the library.",
    )


def entry_of(key: str) -> StoredGraph | None:
    """Return the catalogue's entry of a stored graph."""
    return next((entry for entry in resources.backend().stored() if entry.key == key), None)


def origin_sentence(graph: AttributionGraph) -> str:
    """Say which tool and model an imported graph is from, and what its scores refer to."""
    provenance = graph.provenance
    text = "imported"
    text += f", created by {provenance['tool']}" if provenance.get("tool") else ""
    text += f" from the model {provenance['scan']}" if provenance.get("scan") != "unknown" else ""
    text += f" with {provenance['transcoder_set']}" if provenance.get("transcoder_set") else ""
    shares = []
    for name in ("node", "edge"):
        share = provenance.get(f"{name}_threshold")
        if isinstance(share, int | float) and 0 < share <= 1:
            shares.append(f"{percent(share)} of {name} influence")
    if shares:
        text += f". It was pruned to {' and '.join(shares)}; influence and scores below refer to "
        text += "the part that was kept"
    elif not provenance.get("unpruned"):
        text += ". Influence and scores refer to the nodes in the file, which may have been pruned"
    return text + "."


def computed_sentence(graph: AttributionGraph) -> str:
    """Say on which device and in which data types a graph was computed; empty if unknown."""
    provenance = graph.provenance
    if not (provenance.get("device") and provenance.get("dtype")):
        return ""
    device = "the CPU" if provenance["device"] == "cpu" else provenance["device"]
    text = f"Computed on {device} in {provenance['dtype']}"
    forward = provenance.get("forward_dtype")
    text += f", forward pass in {forward}" if forward not in (None, provenance["dtype"]) else ""
    return text + (", with TF32 products." if provenance.get("tf32") else ".")


def sources(graph: AttributionGraph) -> str:
    """Say where the features of an imported graph can be looked up, as plain text."""
    urls = [str(url) for url in graph.provenance.get("source_urls") or []]
    if urls:
        return "The file lists these sources: " + ", ".join(urls[:_SOURCES]) + "."
    return f"The file names the model {graph.provenance.get('scan')}."


def first_thresholds(graph: AttributionGraph) -> Thresholds:
    """Return the thresholds a stored graph is opened with: no further pruning where the file is
    already pruned and small enough to draw."""
    is_pruned = resources.is_imported(graph) and not graph.provenance.get("unpruned")
    if is_pruned and len(without_pruning(graph).rows) <= _DRAWN_WHOLE:
        return resources.WHOLE
    return Thresholds()


def pruned(key: str) -> PrunedGraph | None:
    """Return a stored graph, pruned as it is first shown; None if there is no such graph."""
    graph = resources.backend().graph(key)
    return None if graph is None else resources.pruned_graph(key, first_thresholds(graph))


def open_in_session(key: str) -> None:
    """Show a stored graph: by its prompt if tracing that gives the same graph, else by its key."""
    backend = resources.backend()
    graph = backend.graph(key)
    if graph is None:
        update_session(graph=key)  # the page says that it is missing
        return
    request = resources.request_for(graph)
    if request is None:
        update_session(graph=key, thresholds=first_thresholds(graph))
        return
    try:
        same = backend.key_of(request) == key
    except TracerError:
        same = False
    update_session(prompt=request.prompt, choice=request.choice, graph="" if same else key)
