"""Reading the store never depends on writing to it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_graphs import make_graph, same

from cache.annotations import Annotations
from cache.catalogue import StoreError
from cache.store import Store
from tracer.types import NodeId

A, B = "a" * 32, "b" * 32
PINS = Annotations((NodeId("feature", 0, 1, 5),))
FOLDERS = [str(Path(__file__).parents[3]), str(Path(__file__).parent)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "store"
    store = Store(root)
    store.save(A, make_graph("Dallas"))
    store.save_annotations(A, PINS)
    store.close()
    return root


def test_a_held_write_lock_delays_no_reader(root: Path) -> None:
    """Opening a graph took 90 s and returned None while another process held the lock."""
    store = Store(root)
    other = sqlite3.connect(root / "catalogue.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    begun = time.monotonic()
    assert same(store.load(A), make_graph("Dallas"))
    assert store.annotations(A) == PINS and len(store.entries()) == 1
    assert store.use.traced > 0 and store.key_of("0" * 32) is None
    assert time.monotonic() - begun < 2
    other.execute("ROLLBACK")
    other.close()
    store.close()


def test_a_store_opens_while_another_process_holds_the_write_lock(root: Path) -> None:
    other = sqlite3.connect(root / "catalogue.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    begun = time.monotonic()
    store = Store(root)
    assert same(store.load(A), make_graph("Dallas"))
    assert time.monotonic() - begun < 5
    other.execute("ROLLBACK")
    other.close()
    store.close()


_ON_A_FULL_DISK = """
import resource, signal, sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from cache.catalogue import StoreError
from cache.store import Store
from small_graphs import make_graph
import warnings
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
store = Store(Path(sys.argv[1]))
assert store.load("a" * 32) is not None
assert len(store.entries()) == 1
assert store.annotations("a" * 32).pinned
for call in (
    lambda: store.save("b" * 32, make_graph()),
    lambda: store.annotate("a" * 32, title="x"),
    lambda: store.link("0" * 32, "a" * 32),
):
    try:
        call()
    except StoreError as error:
        assert str(Path(sys.argv[1])) in str(error), error
        assert chr(10) not in str(error)
    else:
        raise AssertionError("nothing was written and nothing was said")
print("readable")
"""


def test_a_full_disk_leaves_every_graph_readable(root: Path) -> None:
    """Five of seven intact graphs used to be reported as deleted."""
    result = subprocess.run(
        [sys.executable, "-c", _ON_A_FULL_DISK, str(root), *FOLDERS],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.stdout, result.returncode) == ("readable\n", 0), result.stderr
    store = Store(root)
    assert store.damaged() == () and same(store.load(A), make_graph("Dallas"))
    store.close()


_READ_ONLY = """
import os, sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from cache.catalogue import StoreError
from cache.store import Store
from small_graphs import make_graph
import cache.graph_files
os.setuid(65534)
store = Store(Path(sys.argv[1]))
assert "cannot be written" in store.problem and sys.argv[1] in store.problem, store.problem
assert store.load("a" * 32) is not None
assert store.annotations("a" * 32).pinned
try:
    store.annotate("a" * 32, title="x")
except StoreError as error:
    assert sys.argv[1] in str(error)
else:
    raise AssertionError("the title was not kept and nothing was said")
print("readable")
"""


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs to become another user")
def test_a_read_only_store_can_be_read(root: Path) -> None:
    copy = Path("/tmp") / f"read-only-{os.getpid()}"
    shutil.copytree(root, copy)
    try:
        for path in (copy, *copy.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        result = subprocess.run(
            [sys.executable, "-c", _READ_ONLY, str(copy), *FOLDERS],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (result.stdout, result.returncode) == ("readable\n", 0), result.stderr
    finally:
        shutil.rmtree(copy)


def test_a_store_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError) as caught:
        Store(tmp_path / "file")
    assert str(tmp_path / "file") in str(caught.value) and "\n" not in str(caught.value)
