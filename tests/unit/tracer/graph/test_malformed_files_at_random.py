"""After a random accident a graph file is still valid, or one error says what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from damaged_graphs import CONTENT, assert_valid, file_of, mutated, parts

import tracer
from cache.store import Store
from tracer.errors import GraphFileError


@pytest.mark.parametrize("header", ["null", "[]", "{}", '{"format_version": 1}', "9" * 5000])
def test_the_store_sets_a_file_with_a_malformed_header_aside(tmp_path: Path, header: str) -> None:
    """A header of ``null`` once raised AttributeError, and the app did not start."""
    root, key = tmp_path / "store", "a" * 32
    path = root / "graphs" / "aa" / f"{key}.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(file_of(header, parts()[1]))
    store = Store(root)
    (damage,) = store.damaged()
    assert damage.key == key and "is not a valid graph file (its header " in damage.reason
    assert (root / "damaged" / damage.file).exists() and not path.exists()
    assert store.entries() == ()
    store.close()


@pytest.mark.parametrize("batch", range(15))
def test_a_random_accident_gives_a_valid_graph_or_an_error(tmp_path: Path, batch: int) -> None:
    """Twenty files at a time, through `load_graph` and through the store that finds them."""
    root, valid, damaged = tmp_path / "store", set(), set()
    for seed in range(20 * batch, 20 * batch + 20):
        key = f"{seed:032x}"
        path = root / "graphs" / key[:2] / f"{key}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(mutated(seed))
        try:
            graph = tracer.load_graph(path)
        except GraphFileError as error:
            assert str(error).startswith(f"{path} is not a valid graph file (")
            assert "\n" not in str(error) and len(str(error)) < len(str(path)) + 500
            damaged.add(key)
            continue
        assert_valid(graph)
        tracer.prune(graph)
        valid.add(key)
    assert len(damaged) > 5

    store = Store(root)
    assert {entry.key for entry in store.entries()} == valid
    assert {entry.key for entry in store.damaged()} == damaged
    for key in valid:
        assert store.load(key) is not None
    assert {file.stem for file in (root / "graphs").glob("*/*")} == valid
    store.close()


def test_some_accidents_leave_a_valid_graph_and_some_do_not_change_it(tmp_path: Path) -> None:
    """Otherwise the test above would prove nothing about what is accepted."""
    same = other = 0
    for seed in range(300):
        (tmp_path / "graph").write_bytes(mutated(seed))
        try:
            graph = tracer.load_graph(tmp_path / "graph")
        except GraphFileError:
            continue
        same += graph.to_bytes() == CONTENT
        other += graph.to_bytes() != CONTENT
    assert same > 5 and other > 5
