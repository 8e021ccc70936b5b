"""Two tabs change the pins of one graph, and neither loses anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from cache.annotations import Annotations, BoxPosition
from cache.merge import merged_annotations, merged_text
from cache.store import Store
from tracer.types import NodeId, Supernode

KEY = "a" * 32
A, B, C, D = (NodeId("feature", 0, 1, number) for number in range(4))


@pytest.fixture
def store(tmp_path: Path):
    store = Store(tmp_path / "store")
    yield store
    store.close()


def test_an_old_tab_keeps_supernodes_made_elsewhere(store: Store) -> None:
    """Two supernodes made in another tab used to vanish when an old tab was reloaded."""
    groups = (Supernode("Texas", (A,)), Supernode("capital", (B,)))
    store.save_annotations(KEY, Annotations((), groups))
    saved = store.save_annotations(KEY, Annotations((C,)), read=Annotations())
    assert saved.merged and saved.annotations == Annotations((C,), groups)
    assert store.annotations(KEY) == saved.annotations


def test_a_write_from_what_is_stored_is_not_merged(store: Store) -> None:
    store.save_annotations(KEY, Annotations((A, B)))
    saved = store.save_annotations(KEY, Annotations((A,)), read=Annotations((A, B)))
    assert not saved.merged and store.annotations(KEY) == Annotations((A,))


def test_the_same_change_in_two_tabs_is_not_reported(store: Store) -> None:
    store.save_annotations(KEY, Annotations((A,)))
    assert not store.save_annotations(KEY, Annotations((A,)), read=Annotations()).merged


def test_what_one_side_removed_stays_removed() -> None:
    base = Annotations((A, B), (Supernode("x", (C, D)),))
    mine = Annotations((A,), (Supernode("x", (C, D)),))
    stored = Annotations((A, B), (Supernode("x", (C,)),))
    assert merged_annotations(base, mine, stored) == Annotations((A,), (Supernode("x", (C,)),))


def test_a_node_is_never_in_two_places() -> None:
    mine = Annotations((), (Supernode("x", (A,)),))
    stored = Annotations((A,), (Supernode("y", (A,)),))
    merged = merged_annotations(Annotations(), mine, stored)
    assert merged == Annotations((), (Supernode("x", (A,)),))


def test_colour_and_place_are_merged_one_by_one() -> None:
    base = Annotations((), (Supernode("x", (A,)),), (BoxPosition("x", 0.1, 5),))
    mine = Annotations((), (Supernode("x", (A,), "#ff0000"),), base.positions)
    stored = Annotations((), (Supernode("x", (A, B)),), (BoxPosition("x", 0.5, 5),))
    merged = merged_annotations(base, mine, stored)
    assert merged.supernodes == (Supernode("x", (A, B), "#ff0000"),)
    assert merged.positions == stored.positions


def test_a_supernode_deleted_here_and_changed_there_stays() -> None:
    base = Annotations((), (Supernode("x", (A,)),))
    stored = Annotations((), (Supernode("x", (A, B)),))
    assert merged_annotations(base, Annotations(), stored) == stored


@pytest.mark.parametrize(
    ("base", "mine", "stored", "merged"),
    [
        ("", "mine", "", "mine"),
        ("old", "old", "theirs", "theirs"),
        ("old", "mine", "old", "mine"),
        ("", "mine", "theirs", "theirs\nmine"),
        ("a", "a b", "a c", "a c\na b"),
        ("old", "", "theirs", "theirs"),
        ("old", "", "old", ""),
    ],
)
def test_texts_are_merged(base: str, mine: str, stored: str, merged: str) -> None:
    assert merged_text(base, mine, stored) == merged


def test_notes_of_two_tabs_are_both_kept(store: Store) -> None:
    store.annotate(KEY, notes="from the other tab")
    assert store.annotate(KEY, notes="from this tab", read=("", ""))
    assert store._catalogue.texts(KEY) == ("", "from the other tab\nfrom this tab")
    assert not store.annotate(KEY, title="Dallas", read=("", ""))
