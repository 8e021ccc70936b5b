"""A stored graph that is opened by its key: what stands in the place of the prompt above it."""

from __future__ import annotations

from typing import Final

import streamlit as st

from cache import Job, StoredGraph, StoreError
from charts.text import percent, token_text
from pages.shared import resources
from pages.shared.escape import plain
from pages.shared.navigation import page_script
from pages.shared.session import read_session, update_session
from tracer.errors import TracerError
from tracer.graph.graph import AttributionGraph
from tracer.graph.pruning import PrunedGraph, without_pruning
from tracer.types import Thresholds

_DRAWN_WHOLE: Final = 1200
"""Nodes up to which an imported graph is first shown as its maker pruned it, not pruned again."""
_SOURCES: Final = 4


def opened(key: str) -> Job[AttributionGraph] | None:
    """The stored graph as a job that is done, with a bar above it; None when there is none."""
    try:
        graph = resources.backend().graph(key)
        entry = entry_of(key)
    except StoreError as error:
        st.error(plain(str(error)))
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
    _follow(key, graph)
    title = entry.title if entry and entry.title else graph.prompt
    with st.container(horizontal=True, vertical_alignment="center", key="stored graph"):
        first = graph.next_tokens[0]
        st.markdown(
            f"{plain(graph.prompt)} **{plain(token_text(first.token))}** "
            f":gray[{percent(first.probability)}]",
            width="stretch",
        )
        _close_button("✕ Close this graph", "tertiary")
    if resources.is_imported(graph):
        st.caption(plain(f"{title}: {origin_sentence(graph)}"))
    else:
        st.caption(plain(f"From the library: {title}"))
    return Job.found(key, graph, graph.prompt)


def _follow(key: str, graph: AttributionGraph) -> None:
    """Where a model is behind the graph, have the session speak of its prompt: what-ifs run it."""
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
        help="Leaves the graph in the library and goes back to your prompt.",
    )


def entry_of(key: str) -> StoredGraph | None:
    """What the catalogue knows of a stored graph."""
    return next((entry for entry in resources.backend().stored() if entry.key == key), None)


def origin_sentence(graph: AttributionGraph) -> str:
    """Which tool an imported graph is from, which model, and what its numbers are of."""
    made = graph.provenance
    text = f"imported, made by {made['tool']}" if made.get("tool") else "imported"
    text += f" from the model {made['scan']}" if made.get("scan") != "unknown" else ""
    text += f" with {made['transcoder_set']}" if made.get("transcoder_set") else ""
    shares = []
    for name in ("node", "edge"):
        share = made.get(f"{name}_threshold")
        if isinstance(share, int | float) and 0 < share <= 1:
            shares.append(f"{percent(share)} of the influence of {name}s")
    if shares:
        text += f". It was pruned to {' and '.join(shares)}; influence and scores below are of "
        text += "the part that was kept"
    elif not made.get("unpruned"):
        text += ". Influence and scores are of what the file holds, which may have been pruned"
    return text + "."


def sources(graph: AttributionGraph) -> str:
    """Where the features of an imported graph can be looked up, as plain text."""
    listed = [str(url) for url in graph.provenance.get("source_urls") or []]
    if listed:
        return "Its maker names these sources: " + ", ".join(listed[:_SOURCES]) + "."
    return f"Its file names the model {graph.provenance.get('scan')}."


def first_thresholds(graph: AttributionGraph) -> Thresholds:
    """How a stored graph is shown when it is opened: as it was pruned where that can be drawn."""
    pruned = resources.is_imported(graph) and not graph.provenance.get("unpruned")
    if pruned and len(without_pruning(graph).rows) <= _DRAWN_WHOLE:
        return resources.WHOLE
    return Thresholds()


def pruned(key: str) -> PrunedGraph | None:
    """A stored graph, pruned as it is first shown; None when there is none."""
    graph = resources.backend().graph(key)
    return None if graph is None else resources.pruned_graph(key, first_thresholds(graph))


def open_in_session(key: str) -> None:
    """Have the session look at a stored graph: by its prompt where that leads to the same one."""
    backend = resources.backend()
    graph = backend.graph(key)
    if graph is None:
        update_session(graph=key)  # the page says that it is gone
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
