"""The layout of the Library page: all stored graphs, import and export."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import streamlit as st

from cache import Job, StoredGraph, StoreError, StoreUse
from cache.graph_files import slug
from charts.text import plural, truncate
from pages.shared import progress, resources, stored_graph
from pages.shared.escape import plain, sentence
from pages.shared.navigation import page_script
from pages.shared.session import read_session, update_session, visitor_id
from tracer.errors import TracerError
from tracer.files import format_bytes

_SHOWN: Final = 40
_SEARCHED_FROM: Final = 8
"""Number of graphs from which a search box is shown."""
_UPLOAD: Final = "graph files"
_IMPORTS: Final = "imports"
_TROUBLE: Final = "library trouble"


@dataclass
class _Import:
    """A file this visitor imported; its outcome is read once."""

    job: Job[str]
    key: str = ""
    message: str = ""


def draw() -> None:
    """Draw the page for the current session."""
    st.markdown("#### Library")
    st.caption(
        "All traced graphs are stored here, and you can import graphs from other tools. **Open** "
        "shows a graph on the Trace page. **JSON** downloads it with its labels, pins and "
        "supernodes, in the format that Neuronpedia and circuit-tracer read."
    )
    _upload()
    try:
        entries, use = resources.backend().stored(), resources.backend().use()
    except StoreError as error:
        st.error(plain(sentence(error)))
        return
    if not entries:
        st.info(
            "The library is empty: trace a prompt on the Trace page, or drop a graph file into the "
            "box above."
        )
        return
    for entry in _matching(entries):
        _row(entry)
    st.caption(plain(_use_sentence(entries, use)))


def _upload() -> None:
    st.file_uploader(
        "Import graphs: JSON from Neuronpedia or circuit-tracer, or a circuit-tracer .pt file",
        type=["json", "pt"],
        accept_multiple_files=True,
        key=f"{_UPLOAD} {st.session_state.get(_UPLOAD, 0)}",
        on_change=_uploaded,
        help="JSON from Anthropic's attribution-graphs front end works too. Code in a .pt file is "
        "never executed, and files stay on this machine.",
    )
    _outcomes()


def _uploaded() -> None:
    """Import the dropped files in the background, and empty the box for the next ones."""
    number, backend = st.session_state.get(_UPLOAD, 0), resources.backend()
    files = st.session_state[f"{_UPLOAD} {number}"] or []
    # Running imports stay in the list; the outcomes of earlier ones have been seen.
    active = [each for each in _imports() if progress.is_active(each.job)]
    started = [
        _Import(backend.import_graph(file.getvalue(), file.name, visitor_id())) for file in files
    ]
    st.session_state[_IMPORTS] = active + started
    st.session_state[_UPLOAD] = number + 1
    until = time.monotonic() + progress.PATIENCE
    for each in started:
        each.job.wait(max(0.0, until - time.monotonic()))


def _outcomes() -> None:
    """Draw the progress and the outcomes of imports."""
    trouble = st.session_state.pop(_TROUBLE, "")
    if trouble:
        st.error(plain(sentence(trouble)))
    for number, each in enumerate(_imports()):
        if progress.is_active(each.job):
            progress.watch(each.job, each.job.title)
            continue
        if not each.message:
            each.key, each.message = _outcome(each.job)
        if not each.key:
            st.error(plain(each.message))
            continue
        with st.container(horizontal=True, vertical_alignment="center"):
            st.success(plain(each.message), width="stretch")
            if st.button("Open graph", key=f"open imported {number}", type="primary"):
                _open(each.key)


def _imports() -> list[_Import]:
    imports: list[_Import] = st.session_state.get(_IMPORTS, [])
    return imports


def _outcome(job: Job[str]) -> tuple[str, str]:
    """Return the key of an imported graph, empty if the import failed, and a sentence."""
    try:
        key = job.result(0)
    except TracerError as error:
        return "", sentence(f"{job.title}: {error}")
    graph = resources.backend().graph(key)
    count = "" if graph is None else f" ({plural(graph.index.n_features, 'feature')})"
    return key, f"{job.title} was imported{count}."


def _matching(entries: tuple[StoredGraph, ...]) -> list[StoredGraph]:
    """Draw the search box; return the entries it matches, the most recently used first."""
    query = ""
    if len(entries) >= _SEARCHED_FROM:
        query = st.text_input(
            "Search titles and prompts",
            key="library search",
            placeholder="Search titles and prompts",
            label_visibility="collapsed",
        )
    words = query.lower().split()
    matches = [
        entry
        for entry in entries
        if all(word in f"{entry.title} {entry.prompt} {entry.model}".lower() for word in words)
    ]
    if len(matches) > _SHOWN:
        st.caption(f"Showing the latest {_SHOWN} of {len(matches):,}: search to find the others.")
    elif not matches:
        st.caption("No title, prompt or model matches this search.")
    return matches[:_SHOWN]


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
            "full, the least recently used are deleted; graphs with a title or pins stay."
        )
    return " ".join(sentences)


def _row(entry: StoredGraph) -> None:
    when = datetime.fromtimestamp(entry.created).strftime("%d %b %Y, %H:%M")
    origin = "imported" if entry.imported else "traced here"
    title = truncate(entry.title or entry.prompt, 90)
    about = [truncate(entry.prompt, 110)] if entry.title else []
    about += [entry.model or "unknown model", origin, when]
    with st.container(border=True, key=f"graph {entry.key}"):
        text, buttons = st.columns([1.9, 1], vertical_alignment="center")
        text.markdown(f"**{plain(title)}**  \n:gray[{plain(' · '.join(about))}]")
        with buttons.container(horizontal=True, horizontal_alignment="right", gap="small"):
            if st.button("Open", key=f"open {entry.key}", type="primary"):
                _open(entry.key)
            _download(entry)
            with st.popover("More", key=f"more {entry.key}"):
                _more(entry)


def _open(key: str) -> None:
    stored_graph.open_in_session(key)
    st.switch_page(page_script("trace"))


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
        help="An imported graph is exported unpruned, as it was imported, with your pins and "
        "supernodes; a traced graph is pruned at the thresholds of the Trace page.",
    )


def _more(entry: StoredGraph) -> None:
    key = f"title {entry.key}"
    st.text_input(
        "Title",
        value=entry.title,
        key=key,
        placeholder=truncate(entry.prompt, 60),
        on_change=_renamed,
        args=(entry, key),
    )
    st.button(
        "Delete this graph",
        key=f"delete {entry.key}",
        on_click=_deleted,
        args=(entry.key,),
        help="Also deletes its pins, supernodes and history. This cannot be undone.",
    )


def _renamed(entry: StoredGraph, key: str) -> None:
    title = str(st.session_state[key]).strip()
    if not title and entry.imported:  # only its title protects it from eviction
        return
    try:
        resources.backend().annotate(entry.key, title=title)
    except StoreError as error:
        st.session_state[_TROUBLE] = str(error)


def _deleted(key: str) -> None:
    try:
        resources.backend().forget(key)
    except StoreError as error:
        st.session_state[_TROUBLE] = str(error)
        return
    if read_session().graph == key:
        update_session(graph="")
