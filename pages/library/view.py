"""The layout of the Library page: all stored graphs, found, described, exported and imported."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import streamlit as st

from cache import DamagedFile, StoredGraph, StoreError, StoreUse
from cache.undo import restore
from charts.palette import palette
from charts.text import plural
from pages.library import entry_row, imports
from pages.library.entry_row import UNDO
from pages.shared import graph_download, resources
from pages.shared.escape import plain, sentence
from pages.shared.graph_download import Form
from pages.shared.session import read_session
from tracer.files import format_bytes

_PAGE: Final = 12
"""Graphs shown at once."""
_SEARCHED_FROM: Final = 5
"""Number of graphs from which search and sorting are shown."""
_ORDERS: Final = ("Last used", "Newest", "Title", "Model", "Size")
_SHOWN: Final = "library shown"
_DAMAGED: Final = 20
"""Damaged files that are listed."""
_FORMS: Final[dict[Form, str]] = {
    "JSON": "JSON, as Neuronpedia and circuit-tracer read it",
    "CSV": "CSV: a table of nodes and one of edges",
    "HTML": "Interactive HTML files",
}


def draw() -> None:
    """Draw the page for the current session."""
    st.markdown("#### Library")
    st.caption(
        "All traced graphs are stored here, and you can import graphs from other tools. **Open** "
        "shows a graph on the Trace page, **Share** downloads it as one interactive file."
    )
    imports.draw()
    _undo()
    try:
        backend = resources.backend()
        entries, use, damaged = backend.stored(), backend.use(), backend.damaged()
    except StoreError as error:
        st.error(plain(sentence(error)))
        return
    _set_aside(damaged)
    if not entries:
        st.info(
            "The library is empty: trace a prompt on the Trace page, or drop a graph file into the "
            "box above."
        )
        return
    matches = _matching(entries)
    theme = palette(st.context.theme.type)
    shown = int(st.session_state.get(_SHOWN, _PAGE))
    for entry in matches[:shown]:
        entry_row.draw(entry, theme)
    if len(matches) > shown:
        st.button(
            f"Show {min(_PAGE, len(matches) - shown)} more of {len(matches):,}",
            key="show more",
            on_click=_show_more,
            args=(shown,),
        )
    st.caption(plain(_use_sentence(entries, use)))


def _set_aside(files: tuple[DamagedFile, ...]) -> None:
    """List the files that failed their check: where they are, and why."""
    if not files:
        return
    with st.expander(plain(f"{plural(len(files), 'damaged file')} set aside"), key="damaged"):
        st.caption(
            plain(
                f"Nothing is deleted: the files are in {resources.backend().store.root / 'damaged'}"
                ". A graph that was traced here comes back when its prompt is traced again; "
                "import the others again."
            )
        )
        for file in files[:_DAMAGED]:
            when = datetime.fromtimestamp(file.found).strftime("%d %b %Y, %H:%M")
            st.markdown(plain(f"{file.file}: set aside on {when}, because {file.reason}."))
        if len(files) > _DAMAGED:
            st.caption(plain(f"and {plural(len(files) - _DAMAGED, 'older file')}"))


def _show_more(shown: int) -> None:
    st.session_state[_SHOWN] = shown + _PAGE


def _undo() -> None:
    """Offer to bring back the graph that was deleted last."""
    deleted = st.session_state.get(UNDO)
    if deleted is None:
        return
    with st.container(horizontal=True, vertical_alignment="center", key="undo bar"):
        title = deleted.entry.title or deleted.entry.prompt
        st.info(plain(f"“{title}” was deleted."), width="stretch")
        st.button("Undo", key="undo delete", type="primary", on_click=_restored)


def _restored() -> None:
    deleted = st.session_state.pop(UNDO)
    try:
        restore(resources.backend().store, deleted)
    except StoreError as error:
        st.session_state[UNDO] = deleted
        st.session_state[imports.TROUBLE] = str(error)


def _matching(entries: tuple[StoredGraph, ...]) -> list[StoredGraph]:
    """Draw search, sorting and export; return the entries to show in their order."""
    if len(entries) < _SEARCHED_FROM:
        with st.container(horizontal=True, horizontal_alignment="right"):
            _export(list(entries))
        return list(entries)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        query = st.text_input(
            "Search titles, prompts, models, tags and notes",
            key="library search",
            placeholder="Search titles, prompts, models, tags and notes",
            label_visibility="collapsed",
        )
        order = st.selectbox(
            "Sort by", _ORDERS, key="library order", label_visibility="collapsed", width=140
        )
        words = (query or "").casefold().split()
        tags = sorted({tag for entry in entries for tag in entry.tags})
        matches = [entry for entry in entries if _has(entry, words)]
        place = st.container(width="content")
    if tags:
        chosen = st.pills(
            "Tags", tags, selection_mode="multi", key="tags", label_visibility="collapsed"
        )
        matches = [entry for entry in matches if set(chosen) <= set(entry.tags)]
    matches = _sorted(matches, order)
    with place:
        _export(matches)
    if not matches:
        st.caption("No graph matches this search.")
    return matches


def _has(entry: StoredGraph, words: list[str]) -> bool:
    parts = (entry.title, entry.prompt, entry.model, entry.notes, *entry.tags)
    text = "\n".join(parts).casefold()
    return all(word in text for word in words)


def _sorted(entries: list[StoredGraph], order: str | None) -> list[StoredGraph]:
    if order == "Newest":
        return sorted(entries, key=lambda entry: -entry.created)
    if order == "Title":
        return sorted(entries, key=lambda entry: (entry.title or entry.prompt).casefold())
    if order == "Model":
        return sorted(entries, key=lambda entry: entry.model.casefold())
    if order == "Size":
        return sorted(entries, key=lambda entry: -entry.bytes)
    return entries


def _export(matches: list[StoredGraph]) -> None:
    """Offer all listed graphs in one zip."""
    with st.popover("Export …", key="export", disabled=not matches):
        titles = {entry.key: entry.title or entry.prompt for entry in matches}
        chosen = st.multiselect(
            "Graphs",
            list(titles),
            key="export graphs",
            format_func=lambda key: titles.get(key, key),
            placeholder=f"All {len(matches)} that are listed",
        )
        form = st.radio(
            "Format", list(_FORMS), key="export form", format_func=lambda form: _FORMS[form]
        )
        kept = [entry for entry in matches if not chosen or entry.key in chosen]
        thresholds = read_session().thresholds

        def content() -> bytes:
            """Build the zip, only when the button is clicked."""
            return graph_download.archive(kept, form, thresholds)

        count = f"{len(kept)} graph{'' if len(kept) == 1 else 's'}"
        st.download_button(
            f"Download {count}",
            content,
            "graphs.zip",
            "application/zip",
            key="export zip",
            type="primary",
            on_click="ignore",
            help="Graphs traced here are pruned at the thresholds of the Trace page.",
        )


def _use_sentence(entries: tuple[StoredGraph, ...], use: StoreUse) -> str:
    """Say how much space the graphs take and how long they stay; both kinds have a quota."""
    imported = sum(entry.imported for entry in entries)
    traced, sentences, quota = len(entries) - imported, [], format_bytes(use.quota)
    if imported:
        sentences.append(
            f"Imported graphs ({imported:,}) use {format_bytes(use.imported)} of {quota} and stay "
            "until you delete them."
        )
    if traced:
        sentences.append(
            f"Traced graphs ({traced:,}) use {format_bytes(use.traced)} of {quota}. When that is "
            "full, the least recently used are deleted; graphs with a title, tags, notes or pins "
            "stay."
        )
    return " ".join(sentences)
