"""One store, several processes: they write at once, and some of them are killed."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_graphs import make_graph, same

from cache.store import Store

N_GRAPHS, N_EACH = 45, 30
FOLDERS = [str(Path(__file__).parents[3]), str(Path(__file__).parent)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> Iterator[Store]:
    store = Store(root)
    yield store
    store.close()


def test_opening_waits_for_a_process_that_is_just_creating_the_store(root: Path) -> None:
    root.mkdir()
    other = sqlite3.connect(
        root / "catalogue.sqlite", isolation_level=None, check_same_thread=False
    )
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.05, other.execute, ("ROLLBACK",))
    release.start()
    Store(root).close()
    release.join()
    other.close()


_ENDLESS_WRITER = """
import sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from cache.store import Store
from small_graphs import make_graph
assert "torch" not in sys.modules
store = Store(Path(sys.argv[1]))
number = 0
while True:
    store.save(f"{number:032x}", make_graph(f"prompt {number}", (1, number), n_edges=5))
    number += 1
    print(number, flush=True)
"""


@pytest.mark.parametrize("written", [1, 4, 9])
def test_a_process_killed_while_writing_leaves_a_complete_store(root: Path, written: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _ENDLESS_WRITER, str(root), *FOLDERS],
        stdout=subprocess.PIPE,
        text=True,
    ) as writer:
        assert writer.stdout is not None
        while int(writer.stdout.readline()) < written:
            pass
        writer.kill()
    store = Store(root)
    entries = store.entries()
    assert len(entries) >= written
    for entry in entries:
        number = int(entry.key, 16)
        assert same(store.load(entry.key), make_graph(f"prompt {number}", (1, number), 5))
    assert store.damaged() == ()
    store.close()


_WRITER = """
import sys
sys.path[:0] = sys.argv[4:]
from pathlib import Path
from cache.store import Store
from small_graphs import make_graph
store = Store(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
first, count = int(sys.argv[2]), int(sys.argv[3])
for number in range(first, first + count):
    store.save(f"{number:032x}", make_graph(f"prompt {number}", (1, number)))
    store.link(f"question {number}", f"{number:032x}")
    assert store.load(f"{number:032x}") is not None
"""


def test_two_processes_can_open_and_write_at_once(root: Path, store: Store) -> None:
    """Both write a third of the keys; a third process (this one) reads meanwhile."""
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(root), str(first), str(N_EACH), *FOLDERS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for first in (0, N_GRAPHS - N_EACH)
    ]
    for writer in writers:  # so that they really write at the same time
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    seen: set[int] = set()
    while any(writer.poll() is None for writer in writers):
        seen |= {number for number in range(N_GRAPHS) if store.load(f"{number:032x}")}
    for writer in writers:
        _, errors = writer.communicate()
        assert (writer.returncode, errors) == (0, "")
    assert seen, "this process read while they wrote"
    assert {entry.key for entry in store.entries()} == {f"{n:032x}" for n in range(N_GRAPHS)}
    for number in range(N_GRAPHS):
        expected = make_graph(f"prompt {number}", (1, number))
        assert same(store.load(f"{number:032x}"), expected)
        assert store.key_of(f"question {number}") == f"{number:032x}"
    assert store.damaged() == ()
