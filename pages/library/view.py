"""The Library page: every graph that is kept, and how graphs come in and go out."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import streamlit as st

from cache import Job, StoredGraph, StoreError, StoreUse
from cache.graph_files import slug
from charts.text import truncate
from pages.shared import progress, resources, stored_graph
from pages.shared.escape import plain
from pages.shared.navigation import page_script
from pages.shared.session import read_session, update_session, visitor_id
from tracer.errors import TracerError
from tracer.files import format_bytes

_SHOWN: Final = 40
_SEARCHED_FROM: Final = 8
"""Graphs from which on a search box is worth its place."""
_UPLOAD: Final = "graph files"
_IMPORTS: Final = "imports"
_TROUBLE: Final = "library trouble"


@dataclass
class _Import:
    """A file that this visitor brought in; what became of it is found out once."""

    job: Job[str]
    key: str = ""
    said: str = ""


def draw() -> None:
    """Draw the page."""
    st.markdown("#### Library")
    st.caption(
        "Every graph you traced is kept here, and graphs of other tools can be brought in. "
        "**Open** shows one on the Trace page; **JSON** saves it, with its labels, pins and "
        "supernodes, in the form that Neuronpedia and circuit-tracer read."
    )
    _upload()
    try:
        entries, use = resources.backend().stored(), resources.backend().use()
    except StoreError as error:
        st.error(plain(str(error)))
        return
    if not entries:
        st.info(
            "Nothing is kept yet: trace a prompt on the Trace page, or drop a graph file into the "
            "box above."
        )
        return
    for entry in _found(entries):
        _row(entry)
    st.caption(plain(_use_sentence(entries, use)))


def _upload() -> None:
    st.file_uploader(
        "Bring in a graph: published JSON (Neuronpedia, Anthropic's front end, circuit-tracer) or "
        "circuit-tracer's .pt",
        type=["json", "pt"],
        accept_multiple_files=True,
        key=f"{_UPLOAD} {st.session_state.get(_UPLOAD, 0)}",
        on_change=_uploaded,
        help="The file is read, never run, and stays on this machine.",
    )
    _outcomes()


def _uploaded() -> None:
    """Have what was dropped read beside the page, once, and empty the box for the next files."""
    number, backend = st.session_state.get(_UPLOAD, 0), resources.backend()
    files = st.session_state[f"{_UPLOAD} {number}"] or []
    # What is still being read stays; what was said of earlier files has been read.
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
    """How far the files are, and what became of them."""
    trouble = st.session_state.pop(_TROUBLE, "")
    if trouble:
        st.error(plain(trouble))
    for number, each in enumerate(_imports()):
        if progress.is_active(each.job):
            progress.watch(each.job, each.job.title)
            continue
        if not each.said:
            each.key, each.said = _outcome(each.job)
        if not each.key:
            st.error(plain(each.said))
            continue
        with st.container(horizontal=True, vertical_alignment="center"):
            st.success(plain(each.said), width="stretch")
            if st.button("Open it", key=f"open imported {number}", type="primary"):
                _open(each.key)


def _imports() -> list[_Import]:
    found: list[_Import] = st.session_state.get(_IMPORTS, [])
    return found


def _outcome(job: Job[str]) -> tuple[str, str]:
    """The key of the graph that a file became, empty where it became none, and a sentence."""
    try:
        key = job.result(0)
    except TracerError as error:
        return "", f"{job.title}: {error}."
    graph = resources.backend().graph(key)
    count = "" if graph is None else f" with {graph.index.n_features:,} features"
    return key, f"{job.title} is in the library{count}."


def _found(entries: tuple[StoredGraph, ...]) -> list[StoredGraph]:
    """What the search box leaves of the entries, the latest used first."""
    wanted = ""
    if len(entries) >= _SEARCHED_FROM:
        wanted = st.text_input(
            "Search titles and prompts",
            key="library search",
            placeholder="Search titles and prompts",
            label_visibility="collapsed",
        )
    words = wanted.lower().split()
    found = [
        entry
        for entry in entries
        if all(word in f"{entry.title} {entry.prompt} {entry.model}".lower() for word in words)
    ]
    if len(found) > _SHOWN:
        st.caption(f"The latest {_SHOWN} of {len(found):,}: search to find the others.")
    elif not found:
        st.caption("No graph has these words in its title or prompt.")
    return found[:_SHOWN]


def _use_sentence(entries: tuple[StoredGraph, ...], use: StoreUse) -> str:
    """What is kept, and for how long; each kind may take as much as the other."""
    imported = sum(entry.imported for entry in entries)
    traced, said, most = len(entries) - imported, [], format_bytes(use.quota)
    if imported:
        said.append(
            f"Imported graphs ({imported:,}) take {format_bytes(use.imported)} of {most} and stay "
            "until you delete them."
        )
    if traced:
        said.append(
            f"Graphs traced here ({traced:,}) take {format_bytes(use.traced)} of {most}. When that "
            "is full, the least recently used are deleted; graphs with a title or pins stay."
        )
    return " ".join(said)


def _row(entry: StoredGraph) -> None:
    when = datetime.fromtimestamp(entry.created).strftime("%d %b %Y, %H:%M")
    where = "imported" if entry.imported else "traced here"
    title = truncate(entry.title or entry.prompt, 90)
    about = [truncate(entry.prompt, 110)] if entry.title else []
    about += [entry.model or "unknown model", where, when]
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
        """Made only when it is asked for."""
        return backend.export_graph(entry.key, thresholds)

    st.download_button(
        "JSON",
        content,
        f"{slug(entry.title or entry.prompt)}.json",
        "application/json",
        key=f"download {entry.key}",
        on_click="ignore",
        help="An imported graph goes out whole, as it came, with your pins and supernodes; one "
        "traced here is pruned at the thresholds of the Trace page.",
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
        help="With its pins, supernodes and history. There is no way back.",
    )


def _renamed(entry: StoredGraph, key: str) -> None:
    title = str(st.session_state[key]).strip()
    if not title and entry.imported:  # its title keeps it from being evicted
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
