"""Import graphs of other tools: the box to drop them into, their progress and outcomes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

import streamlit as st

from cache import Job
from charts.text import plural
from pages.library.opening import open_graph
from pages.shared import progress, resources
from pages.shared.escape import plain, sentence
from pages.shared.session import visitor_id
from tracer.errors import TracerError
from tracer.interchange.notes import import_notes

_UPLOAD: Final = "graph files"
_IMPORTS: Final = "imports"
TROUBLE: Final = "library trouble"


@dataclass
class _Import:
    """A file this visitor imported; its outcome is read once."""

    job: Job[str]
    key: str = ""
    message: str = ""


def draw() -> None:
    """Draw the box, and what became of the files dropped into it."""
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
    trouble = st.session_state.pop(TROUBLE, "")
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
                open_graph(each.key)


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
    notes = () if graph is None else import_notes(graph)
    return key, " ".join((f"{job.title} was imported{count}.", *notes))
