"""Keep the session's pins and supernodes in step with those stored with the graph.

A link, a bookmark or an old tab carries pins of its own. They are shown, and never saved unasked.
"""

from __future__ import annotations

from typing import Final

import streamlit as st

from cache import Annotations, StoreError, merged_annotations
from charts.text import plural
from pages.shared import resources
from pages.shared.escape import plain, sentence
from pages.shared.session import read_session, update_session
from tracer.graph.nodes import NodeIndex
from tracer.types import Supernode

_READ: Final = "annotations as read"
"""What was stored with the graph when this tab last read or wrote it."""
_OFFERED: Final = "annotations are offered"
"""Key of a graph whose annotations came with a link and are not saved."""


def sync_annotations(key: str) -> None:
    """Synchronise the session's annotations with those stored with the graph ``key``.

    Changes made here are saved, merged with those of other tabs. Annotations that a link carries
    are shown with the choice to merge, to keep or to drop them.
    """
    try:
        if read_session().annotations_of != key:
            _open(key)
        elif st.session_state.get(_OFFERED) != key:
            _save_changes(key)
        if st.session_state.get(_OFFERED) == key:
            _draw_offer(key)
    except StoreError as error:
        st.warning(plain(sentence(error)))


def existing(annotations: Annotations, index: NodeIndex) -> Annotations:
    """Return the annotations without nodes that are not in a graph."""
    groups = (
        Supernode(
            group.name,
            tuple(node for node in group.nodes if node in index),
            group.colour,
            group.is_expanded,
        )
        for group in annotations.supernodes
    )
    return Annotations(
        tuple(node for node in annotations.pinned if node in index),
        tuple(group for group in groups if group.nodes),
        annotations.positions,
    )


def _open(key: str) -> None:
    stored = resources.backend().annotations(key)
    carried, graph = read_session().annotations, resources.backend().graph(key)
    if carried and graph is not None:
        carried = existing(carried, graph.index)
    if carried and carried != stored:
        st.session_state[_OFFERED] = key
        update_session(annotations=carried, annotations_of=key)
    else:
        st.session_state.pop(_OFFERED, None)
        update_session(annotations=stored, annotations_of=key)
    st.session_state[_READ] = stored


def _save_changes(key: str) -> None:
    backend, session = resources.backend(), read_session()
    read: Annotations = st.session_state.get(_READ, Annotations())
    if session.annotations != read:
        saved = backend.save_annotations(key, session.annotations, read)
        if saved.merged:
            _tell("Another tab changed the pins or supernodes meanwhile. Both changes were kept.")
        _show(saved.annotations)
    elif (stored := backend.annotations(key)) != read:
        _tell("Pins or supernodes were changed in another tab. They are shown here now.")
        _show(stored)


def _show(annotations: Annotations) -> None:
    st.session_state[_READ] = annotations
    if read_session().annotations != annotations:
        update_session(annotations=annotations)


def _tell(message: str) -> None:
    st.toast(message)


def _draw_offer(key: str) -> None:
    read: Annotations = st.session_state.get(_READ, Annotations())
    carried = _size(read_session().annotations)
    if read:
        text = f"This link brings {carried}. The library has {_size(read)}. Nothing was saved."
    else:
        text = f"This link brings {carried}. They are not saved."
    with st.container(horizontal=True, vertical_alignment="center", key="carried annotations"):
        st.info(text, width="stretch")
        _choice("Merge both" if read else "Keep them", "merge", key)
        if read:
            _choice("Use only these", "replace", key)
        _choice("Use the saved ones" if read else "Drop them", "drop", key)


def _size(annotations: Annotations) -> str:
    pins = plural(len(annotations.pinned), "pin")
    return f"{pins} and {plural(len(annotations.supernodes), 'supernode')}"


def _choice(label: str, choice: str, key: str) -> None:
    st.button(label, key=f"{choice} annotations", on_click=_chosen, args=(choice, key))


def _chosen(choice: str, key: str) -> None:
    """Do what the visitor chose; an error is shown by the next run, which tries again."""
    session = read_session()
    if session.annotations_of != key or st.session_state.pop(_OFFERED, None) != key:
        return
    if choice == "drop":
        update_session(annotations=st.session_state[_READ])
    elif choice == "merge":
        read = st.session_state[_READ]
        update_session(annotations=merged_annotations(Annotations(), session.annotations, read))
