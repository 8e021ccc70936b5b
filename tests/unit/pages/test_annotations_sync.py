"""A link, a bookmark and an old tab never overwrite pins; two tabs keep each other's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from example_graphs import dallas_graph
from streamlit.testing.v1 import AppTest

from cache import Annotations, Backend
from cache.engine import TracerEngine
from cache.store import Store
from pages.shared import resources
from tracer.types import NodeId, Supernode

KEY = "a" * 32
GRAPH = dallas_graph()
FIRST, SECOND, THIRD = (GRAPH.index.node(row) for row in (0, 1, 2))
GROUPS = (Supernode("Texas", (FIRST,)), Supernode("capital", (SECOND,)))


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    backend = Backend(Store(tmp_path / "store"), TracerEngine("cpu"))
    backend.store.save(KEY, GRAPH)
    monkeypatch.setattr(resources, "backend", lambda: backend)
    yield backend
    backend.close(10)


def _page() -> None:
    import streamlit as st

    from pages.shared.annotations_sync import sync_annotations
    from pages.shared.session import mirror_to_url, read_session, update_session

    if "change" in st.session_state:
        update_session(annotations=st.session_state.pop("change"))
    sync_annotations("a" * 32)
    mirror_to_url()
    st.session_state["shown"] = read_session().annotations


def tab(carried: Annotations = Annotations()) -> AppTest:  # noqa: B008
    test = AppTest.from_function(_page, default_timeout=20)
    if carried:
        test.query_params["marks"] = carried.to_json()
    return run(test)


def run(test: AppTest) -> AppTest:
    test.run()
    assert not test.exception
    return test


def change(test: AppTest, annotations: Annotations) -> None:
    test.session_state["change"] = annotations
    run(test)
    run(test)


def shown(test: AppTest) -> Annotations:
    annotations: Annotations = test.session_state["shown"]
    return annotations


def press(test: AppTest, label: str) -> None:
    next(button for button in test.button if button.label == label).click().run()
    assert not test.exception


def test_reloading_an_old_tab_overwrites_nothing(backend: Backend) -> None:
    """Two supernodes made elsewhere and an old tab reloaded: stored groups went from 2 to 0."""
    backend.save_annotations(KEY, Annotations((), GROUPS))
    old = tab(Annotations((THIRD,)))
    assert backend.annotations(KEY) == Annotations((), GROUPS)
    assert shown(old) == Annotations((THIRD,))
    assert "0 pins and 2 supernodes" in old.info[0].value


@pytest.mark.parametrize(
    ("label", "stored"),
    [
        ("Merge both", Annotations((THIRD,), GROUPS)),
        ("Use only these", Annotations((THIRD,))),
        ("Use the saved ones", Annotations((), GROUPS)),
    ],
)
def test_the_visitor_chooses_what_is_kept(
    backend: Backend, label: str, stored: Annotations
) -> None:
    backend.save_annotations(KEY, Annotations((), GROUPS))
    test = tab(Annotations((THIRD,)))
    press(test, label)
    assert backend.annotations(KEY) == shown(test) == stored
    assert not test.info


def test_pins_of_a_link_are_saved_only_when_the_visitor_keeps_them(backend: Backend) -> None:
    test = tab(Annotations((THIRD,)))
    assert backend.annotations(KEY) == Annotations()
    press(test, "Keep them")
    assert backend.annotations(KEY) == Annotations((THIRD,))


def test_nodes_that_do_not_exist_are_dropped(backend: Backend) -> None:
    missing = NodeId("feature", 77, 1, 9)
    test = tab(Annotations((THIRD, missing), (Supernode("gone", (missing,)),)))
    assert shown(test) == Annotations((THIRD,))


def test_a_link_with_what_is_stored_asks_nothing(backend: Backend) -> None:
    backend.save_annotations(KEY, Annotations((THIRD,)))
    assert not tab(Annotations((THIRD,))).info


def test_the_pins_of_two_tabs_are_both_kept_and_both_are_told(backend: Backend) -> None:
    left, right = tab(), tab()
    change(left, Annotations((FIRST,)))
    change(right, Annotations((SECOND,)))
    assert backend.annotations(KEY).pinned == (FIRST, SECOND)
    assert shown(right).pinned == (FIRST, SECOND)
    run(left)
    assert "another tab" in left.toast[0].value
    run(left)
    assert shown(left).pinned == (FIRST, SECOND)


def test_unpinning_works_after_a_merge(backend: Backend) -> None:
    left, right = tab(), tab()
    change(left, Annotations((FIRST,)))
    change(right, Annotations((SECOND,)))
    change(right, Annotations((SECOND,)))
    assert backend.annotations(KEY).pinned == (SECOND,)
