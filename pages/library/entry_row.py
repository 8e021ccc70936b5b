"""One graph in the library: its picture, what is written about it, and what can be done with it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Final, NamedTuple

import streamlit as st
from cachetools import LRUCache

from cache import StoredGraph, StoreError
from cache.graph_files import slug
from cache.undo import snapshot
from charts.palette import Palette
from charts.text import truncate
from charts.thumbnail import WIDTH, thumbnail_svg
from pages.library.imports import TROUBLE
from pages.library.opening import open_graph
from pages.shared import graph_download, resources, stored_graph
from pages.shared.escape import plain
from pages.shared.session import read_session, update_session
from tracer.files import format_bytes
from tracer.graph.pruning import prune
from tracer.interchange.notes import import_notes

UNDO: Final = "library undo"
_DRAWN_UP_TO: Final = 40_000_000
"""Bytes. A larger graph would take longer to read than a visitor waits for a list."""
_LONGEST_NOTES: Final = 5000


class _Look(NamedTuple):
    """What a row shows of the graph itself."""

    picture: str = ""
    """A thumbnail; empty where it cannot be drawn."""
    notes: tuple[str, ...] = ()
    """What a reader should know about a graph of another tool."""
    computed: str = ""
    """Where the graph was computed."""


@st.cache_resource(show_spinner=False)
def _looks() -> LRUCache[tuple[str, str, str], _Look]:
    """Looks by key, checksum and background; shared by all visitors."""
    return LRUCache(500)


def draw(entry: StoredGraph, theme: Palette) -> None:
    """Draw the row of a graph."""
    when = datetime.fromtimestamp(entry.created).strftime("%d %b %Y, %H:%M")
    origin = "imported" if entry.imported else "traced here"
    about = [truncate(entry.prompt, 110)] if entry.title else []
    about += [entry.model or "unknown model", origin, when, format_bytes(entry.bytes)]
    look = _look(entry, theme)
    about += [look.computed[:1].lower() + look.computed[1:].rstrip(".")] if look.computed else []
    lines = [f"**{plain(truncate(entry.title or entry.prompt, 90))}**"]
    lines.append(f":gray[{plain(' · '.join(about))}]")
    if entry.tags:
        lines.append(" ".join(f":gray-badge[{plain(tag)}]" for tag in entry.tags))
    if entry.notes:
        lines.append(f":gray[{plain(truncate(entry.notes, 160))}]")
    with (
        st.container(border=True, key=f"graph {entry.key}"),
        st.container(horizontal=True, vertical_alignment="center", gap="small"),
    ):
        if look.picture:
            st.image(look.picture, width=WIDTH)
        st.markdown("  \n".join(lines), width="stretch")
        if st.button("Open", key=f"open {entry.key}", type="primary"):
            open_graph(entry.key)
        _share(entry)
        with st.popover("More", key=f"more {entry.key}"):
            for note in look.notes:
                st.caption(plain(note))
            _more(entry)


def _look(entry: StoredGraph, theme: Palette) -> _Look:
    """Read a graph for its row, without marking it as used.

    Nothing is known where the graph is too large to read for a list, or damaged.
    """
    place = (entry.key, entry.sha256, theme.background)
    known = _looks().get(place)
    if known is None:
        known = _Look()
        if entry.bytes <= _DRAWN_UP_TO:
            try:
                graph = resources.backend().store.load(entry.key, touch=False)
            except StoreError:
                graph = None  # said when the graph is opened
            if graph is not None:
                known = _Look(
                    thumbnail_svg(prune(graph), theme),
                    import_notes(graph),
                    stored_graph.computed_sentence(graph),
                )
        _looks()[place] = known
    return known


def _share(entry: StoredGraph) -> None:
    thresholds = read_session().thresholds

    def content() -> bytes:
        """Build the file, only when the button is clicked."""
        return graph_download.shared_file(entry.key, thresholds)

    st.download_button(
        "Share",
        content,
        f"{slug(entry.title or entry.prompt)}.html",
        "text/html",
        key=f"share {entry.key}",
        on_click="ignore",
        help="One file with the interactive graph, feature cards, pins and supernodes. It opens "
        "in any browser, without a server or network.",
    )


def _more(entry: StoredGraph) -> None:
    _text(entry, "title", entry.title, "Title", truncate(entry.prompt, 60))
    _text(entry, "tags", ", ".join(entry.tags), "Tags, separated by commas", "geography, draft")
    key = f"notes {entry.key}"
    st.text_area(
        "Notes",
        entry.notes,
        key=key,
        max_chars=_LONGEST_NOTES,
        height=90,
        on_change=_written,
        args=(entry, "notes", key),
    )
    with st.container(horizontal=True, gap="small"):
        _download(entry)
        _tables(entry)
    st.button(
        "Delete this graph",
        key=f"delete {entry.key}",
        on_click=_deleted,
        args=(entry.key,),
        help="Also deletes its title, notes, pins and supernodes. You can undo this until you "
        "close the tab.",
    )


def _text(entry: StoredGraph, what: str, value: str, label: str, example: str) -> None:
    key = f"{what} {entry.key}"
    st.text_input(
        label, value, key=key, placeholder=example, on_change=_written, args=(entry, what, key)
    )


def _written(entry: StoredGraph, what: str, key: str) -> None:
    text = str(st.session_state[key] or "").strip()
    if what == "title" and not text and entry.imported:  # only its title protects it from eviction
        return
    backend = resources.backend()
    read = entry.title, entry.notes
    writers: dict[str, Callable[[], bool]] = {
        "title": lambda: backend.annotate(entry.key, title=text, read=read),
        "notes": lambda: backend.annotate(entry.key, notes=text, read=read),
        "tags": lambda: backend.annotate(entry.key, tags=_tags(text)),
    }
    try:
        if writers[what]():
            st.session_state[TROUBLE] = (
                f"another tab changed this {what} after you opened the page: both texts are kept, "
                "edit the result if you need only one"
            )
    except StoreError as error:
        st.session_state[TROUBLE] = str(error)


def _tags(text: str) -> tuple[str, ...]:
    return tuple(
        dict.fromkeys(tag for tag in (" ".join(t.split()) for t in text.split(",")) if tag)
    )


def _download(entry: StoredGraph) -> None:
    thresholds, backend = read_session().thresholds, resources.backend()

    def content() -> bytes:
        """Export the graph, only when the button is clicked."""
        return backend.export_graph(entry.key, thresholds)

    st.download_button(
        "JSON",
        content,
        f"{slug(entry.title or entry.prompt)}.json",
        "application/json",
        key=f"download {entry.key}",
        on_click="ignore",
        help="With labels, pins and supernodes, in the format that Neuronpedia and circuit-tracer "
        "read. An imported graph is exported unpruned, as it was imported, with your pins and "
        "supernodes; a traced graph is pruned at the thresholds of the Trace page.",
    )


def _tables(entry: StoredGraph) -> None:
    thresholds = read_session().thresholds

    def content() -> bytes:
        """Build the tables, only when the button is clicked."""
        return graph_download.archive([entry], "CSV", thresholds)

    st.download_button(
        "CSV",
        content,
        f"{slug(entry.title or entry.prompt)}-csv.zip",
        "application/zip",
        key=f"tables {entry.key}",
        on_click="ignore",
        help="A table of nodes and one of edges, as they are shown on the Trace page.",
    )


def _deleted(key: str) -> None:
    backend = resources.backend()
    try:
        st.session_state[UNDO] = snapshot(backend.store, key)
        backend.forget(key)
    except StoreError as error:
        st.session_state[TROUBLE] = str(error)
        return
    if read_session().graph == key:
        update_session(graph="")
