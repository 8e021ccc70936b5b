"""Break the store in every way we know, and count what is lost, wrong or unhandled.

An acknowledged write is lost without notice when it is gone and the store reports no damage. Each
function does a bounded number of attempts and returns a `Tally`.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "unit" / "cache"), str(ROOT / "tests/stand_ins")]

from flavours import bare, neuronpedia  # noqa: E402
from small_graphs import make_graph, same  # noqa: E402

from cache.annotations import Annotations  # noqa: E402
from cache.catalogue import StoreError  # noqa: E402
from cache.store import Store  # noqa: E402
from cache.upload import read_upload  # noqa: E402
from tracer.errors import TracerError  # noqa: E402
from tracer.graph.graph import load_graph  # noqa: E402
from tracer.types import NodeId  # noqa: E402

KEYS = tuple(f"{number:032x}" for number in range(4))


@dataclass
class Tally:
    """What happened in a number of attempts."""

    attempts: int = 0
    lost: int = 0
    """Acknowledged writes that were gone without a word."""
    wrong: int = 0
    """Answers that were not what was stored."""
    unhandled: int = 0
    """Errors that are not a sentence for a person."""
    closed: int = 0
    """Times that the store did not open."""
    notes: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        return not (self.lost or self.wrong or self.unhandled or self.closed)

    def note(self, text: str) -> None:
        self.notes.append(text)


def graph(number: int) -> Any:
    return make_graph(f"prompt {number}", (1, number, 3))


def pins(number: int) -> Annotations:
    return Annotations((NodeId("feature", 0, 1, number),))


@contextmanager
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="faults-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def fill(root: Path) -> None:
    """Store four graphs: with a title, with pins, with notes, and with nothing."""
    store = Store(root)
    for number, key in enumerate(KEYS):
        store.save(key, graph(number))
        store.link(f"{number:032d}", key)
    store.annotate(KEYS[0], title="a title of some length")
    store.save_annotations(KEYS[1], pins(7))
    store.annotate(KEYS[2], notes="notes of some length")
    store.close()


def check(root: Path, tally: Tally, what: str) -> None:
    """Open a store that was filled and then damaged, and count."""
    tally.attempts += 1
    try:
        store = Store(root)
    except StoreError as error:
        tally.closed += 1
        tally.note(f"{what}: {error}")
        return
    except Exception:
        tally.unhandled += 1
        tally.note(f"{what}: {traceback.format_exc(limit=3)}")
        return
    try:
        _check_open(store, tally, what)
    except Exception:
        tally.unhandled += 1
        tally.note(f"{what}: {traceback.format_exc(limit=3)}")
    finally:
        store.close()


def _check_open(store: Store, tally: Tally, what: str) -> None:
    entries = {entry.key: entry for entry in store.entries()}
    missing = []
    for number, key in enumerate(KEYS):
        stored = store.load(key)
        if stored is None:
            missing.append(key)
        elif not same(stored, graph(number)):
            tally.wrong += 1
            tally.note(f"{what}: graph {number} is another one")
    texts = {key: (entry.title, entry.notes) for key, entry in entries.items()}
    if texts.get(KEYS[0], ("a title of some length",))[0] != "a title of some length":
        missing.append("title")
    if texts.get(KEYS[2], ("", "notes of some length"))[1] != "notes of some length":
        missing.append("notes")
    if store.annotations(KEYS[1]) != pins(7):
        missing.append("pins")
    if missing and not store.damaged():
        tally.lost += 1
        tally.note(f"{what}: {missing} without notice")


def damaged_files(source: random.Random) -> Tally:
    """Truncate, flip, empty and delete every file of a store in turn."""
    tally = Tally()
    with folder() as place:
        fill(place / "store")
        files = [p.relative_to(place / "store") for p in sorted((place / "store").rglob("*"))]
        for name in files:
            for damage in ("truncate", "flip", "empty", "delete"):
                root = place / "copy"
                shutil.copytree(place / "store", root)
                path = root / name
                if path.is_file():
                    content = bytearray(path.read_bytes())
                    if damage == "delete":
                        path.unlink()
                    elif damage == "flip" and content:
                        content[source.randrange(len(content))] ^= 1 << source.randrange(8)
                        path.write_bytes(content)
                    else:
                        path.write_bytes(content[: len(content) // 2] if damage[0] == "t" else b"")
                    check(root, tally, f"{damage} {name}")
                shutil.rmtree(root)
    return tally


def flipped_catalogue(count: int, source: random.Random) -> Tally:
    """Flip one bit of the catalogue; the header more often than its size deserves."""
    tally = Tally()
    with folder() as place:
        fill(place / "store")
        sound = (place / "store" / "catalogue.sqlite").read_bytes()
        for number in range(count):
            root = place / "copy"
            shutil.copytree(place / "store", root)
            content = bytearray(sound)
            offset = number if number < min(100, count // 4) else source.randrange(len(content))
            bit = source.randrange(8)
            content[offset] ^= 1 << bit
            (root / "catalogue.sqlite").write_bytes(content)
            check(root, tally, f"bit {bit} of byte {offset}")
            shutil.rmtree(root)
    return tally


def in_child(work: Callable[[int], None]) -> tuple[int, int]:
    """Run ``work(pipe)`` in a forked process; return its id and the other end of the pipe."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reading)
            work(writing)
            code = 0
        except BaseException:
            os.write(writing, traceback.format_exc(limit=4).encode())
        finally:
            os._exit(code)
    os.close(writing)
    return child, reading


def kills(count: int, source: random.Random) -> Tally:
    """Kill a process that writes graphs, titles and pins, at a random moment."""
    tally = Tally()
    with folder() as place:
        root = place / "store"
        fill(root)
        for number in range(count):
            base = 1000 * (number + 1)

            def write(pipe: int, base: int = base) -> None:
                store = Store(root, 10**9)
                for step in range(base, base + 500):
                    key = f"{step:032x}"
                    store.save(key, graph(step % 900))
                    store.annotate(key, title=f"title {step}")
                    store.save_annotations(key, pins(step))
                    os.write(pipe, f"{step}\n".encode())

            child, pipe = in_child(write)
            time.sleep(source.uniform(0.0, 0.25))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            with os.fdopen(pipe) as file:
                done = [int(line) for line in file.read().split("\n")[:-1] if line.isdecimal()]
            check(root, tally, f"kill {number}")
            _check_acknowledged(root, done, tally)
    return tally


def _check_acknowledged(root: Path, done: list[int], tally: Tally) -> None:
    store = Store(root, 10**9)
    titles = {entry.key: entry.title for entry in store.entries()}
    for step in done:
        key = f"{step:032x}"
        kept = store.annotations(key) == pins(step) and titles.get(key) == f"title {step}"
        if not (kept and same(store.load(key), graph(step % 900))):
            tally.lost += 1
            tally.note(f"step {step} was acknowledged")
    for step in done:
        store.forget(f"{step:032x}")
    store.close()


def disks() -> Tally:
    """A full disk, and a folder that another user owns: what is stored can be read."""
    tally = Tally()
    with folder() as place:
        place.chmod(0o755)
        fill(place / "store")

        def fill_disk() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

        def become_nobody() -> None:
            for path in (place / "store", *(place / "store").rglob("*")):
                path.chmod(0o555 if path.is_dir() else 0o444)
            os.setuid(65534)

        for limit in (fill_disk, become_nobody)[: 2 if os.geteuid() == 0 else 1]:

            def read(pipe: int, limit: Callable[[], None] = limit) -> None:
                limit()
                store = Store(place / "store")
                part = Tally()
                _check_open(store, part, limit.__name__)
                assert part.is_clean, part.notes
                for call in (
                    lambda: store.annotate(KEYS[0], title="x"),
                    lambda: store.save("f" * 32, graph(9)),
                ):
                    try:
                        call()
                    except StoreError:
                        continue
                    raise AssertionError("nothing was kept and nothing was said")

            child, pipe = in_child(read)
            _, status = os.waitpid(child, 0)
            tally.attempts += 1
            with os.fdopen(pipe) as file:
                message = file.read()
            if status:
                tally.unhandled += 1
                tally.note(f"{limit.__name__}: {message}")
    return tally


def two_processes(count: int) -> Tally:
    """Two processes add pins to one graph, each from what it read: all are kept."""
    tally = Tally()
    with folder() as place:
        root = place / "store"
        fill(root)

        def pin(pipe: int, first: int) -> None:
            store = Store(root)
            read = store.annotations(KEYS[3])
            for number in range(first, first + count):
                mine = Annotations((*read.pinned, NodeId("feature", 0, 1, number)))
                read = store.save_annotations(KEYS[3], mine, read).annotations
            store.close()

        children = [in_child(lambda pipe, first=first: pin(pipe, first)) for first in (1000, 2000)]
        for child, pipe in children:
            _, status = os.waitpid(child, 0)
            with os.fdopen(pipe) as file:
                message = file.read()
            if status:
                tally.unhandled += 1
                tally.note(message)
        store = Store(root)
        stored = {node.index for node in store.annotations(KEYS[3]).pinned}
        store.close()
        for first in (1000, 2000):
            tally.attempts += count
            tally.lost += len(set(range(first, first + count)) - stored)
    return tally


def mutated_uploads(count: int, source: random.Random) -> Tally:
    """Import published graphs and open graph files after random damage."""
    tally = Tally()
    files = [json.dumps(neuronpedia()).encode(), json.dumps(bare()).encode()]
    with folder() as place:
        for number in range(count):
            tally.attempts += 1
            is_graph = number % 3 == 2
            content = mutated(graph(5).to_bytes() if is_graph else files[number % 3], source)
            try:
                if is_graph:
                    (place / "graph").write_bytes(content)
                    opened = load_graph(place / "graph")
                    if not same(opened, graph(5)):
                        tally.wrong += 1
                else:
                    opened = read_upload(content, "x.json").graph
                opened.influence  # noqa: B018
            except TracerError as error:
                if len(str(error)) > 2000 or "\n" in str(error):
                    tally.unhandled += 1
            except Exception:
                tally.unhandled += 1
                tally.note(f"upload {number}: {traceback.format_exc(limit=3)}")
    return tally


def mutated(content: bytes, source: random.Random) -> bytes:
    """Return a file with one to four random changes."""
    result = bytearray(content)
    for _ in range(source.randint(1, 4)):
        place = source.randrange(len(result) or 1)
        kind = source.randrange(5)
        if kind == 0 and result:
            result[place] ^= 1 << source.randrange(8)
        elif kind == 1:
            del result[place : place + source.randint(1, 40)]
        elif kind == 2:
            result[place:place] = source.randbytes(source.randint(1, 20))
        elif kind == 3:
            result[place:place] = b"[" * source.choice([1, 10, 5000])
        else:
            result[place : place + 1] = source.choice(
                [b"1e999", b"9" * 4500, b"null", b"-1", b'""']
            )
    return bytes(result)
