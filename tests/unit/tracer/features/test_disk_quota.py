"""Fetched examples are bounded: what was used longest ago goes, and nothing else does."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from feature_files import known, save_index
from neuronpedia_server import NeuronpediaServer, feature

from tracer.errors import FeatureLookupError
from tracer.features import disk_quota
from tracer.features.disk_cache import CardCache
from tracer.features.lookup import FeatureLookup
from tracer.types import FeatureId

RECORD = b"x" * 10_000  # three blocks of a disk
ROOM = 40 * 3 * 4096


def gigabytes(n_bytes: int) -> str:
    return str(n_bytes / 10**9)


def aged(path: Path, hours: float) -> None:
    then = time.time() - hours * 3600
    os.utime(path, (then, then))


def taken(folder: Path) -> int:
    """What the files below a folder take of a disk with blocks of 4096 bytes."""
    return sum(-(-p.stat().st_size // 4096) * 4096 for p in folder.rglob("*") if p.is_file())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of fetched examples, with room for forty records."""
    monkeypatch.setenv("CIRCUIT_EXAMPLES_GB", gigabytes(ROOM))
    return tmp_path / "cache"


def test_the_folder_stays_within_its_quota(cache: Path) -> None:
    store = CardCache(cache, "hub", "set")
    for index in range(200):
        store.keep(FeatureId(0, index), RECORD)
        assert taken(cache) <= ROOM
    assert taken(cache) > ROOM / 2, "and no more goes than has to"
    assert store.read(FeatureId(0, 199)) == RECORD


def test_what_was_used_longest_ago_goes_first_whichever_source_it_is_of(cache: Path) -> None:
    old, new = CardCache(cache, "hub", "old"), CardCache(cache, "neuronpedia", "new")
    for index in range(30):
        old.keep(FeatureId(0, index), RECORD)
        aged(old.folder / "0" / f"{index}.bin", 30 - index / 10)
    assert old.read(FeatureId(0, 3)) == RECORD  # and so it was used now
    for index in range(20):
        new.keep(FeatureId(0, index), RECORD)
    left = {int(path.stem) for path in old.folder.rglob("*.bin")}
    assert 3 in left and not left & {0, 1, 2, 4, 5, 6, 7, 8}
    assert left - {3} == set(range(min(left - {3}), 30))
    assert len(list(new.folder.rglob("*.bin"))) == 20


def test_notes_of_what_is_not_there_and_labels_count_too(cache: Path) -> None:
    store = CardCache(cache, "neuronpedia", "set")
    store.learn(FeatureId(0, 0), "towns" * 100)
    aged(store.folder / "labels.jsonl", 9)
    for index in range(300):
        store.note_absent(FeatureId(0, index))
    assert len(list(store.folder.rglob("*.absent"))) <= ROOM // 4096
    assert not (store.folder / "labels.jsonl").exists()
    store.learn(FeatureId(0, 1), "towns")
    aged(store.folder / "labels.jsonl", 9)
    again = CardCache(cache, "neuronpedia", "set")
    assert FeatureId(0, 1) in again.labels
    assert time.time() - (store.folder / "labels.jsonl").stat().st_mtime < 60, "used when opened"


def test_what_a_store_did_not_write_is_never_deleted(cache: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere" / "0"
    elsewhere.mkdir(parents=True)
    (elsewhere / "7.bin").write_bytes(RECORD)
    save_index(cache)  # somebody's own, where it may be looked for
    mine = [p for p in cache.rglob("*") if p.is_file()]
    mine += [cache / "notes.txt", cache / "features" / "0.bin", elsewhere / "7.bin"]
    for path in mine[-3:]:
        path.write_bytes(RECORD)
    for path in mine:
        aged(path, 1000)
    (cache / "link").symlink_to(elsewhere.parent, target_is_directory=True)
    store = CardCache(cache, "hub", "set")
    for index in range(100):
        store.keep(FeatureId(0, index), RECORD)
    assert len(list(store.folder.rglob("*.bin"))) < 50
    assert all(path.is_file() for path in mine)


def test_partial_files_go_once_nobody_can_be_writing_them(cache: Path) -> None:
    first = CardCache(cache, "hub", "set")
    first.keep(FeatureId(0, 1), RECORD)
    dead, alive = (first.folder / "0" / f"{n}.bin.0a1b2c3d" for n in (2, 3))
    for path in (dead, alive):
        path.write_bytes(RECORD)
    aged(dead, 2)
    disk_quota.Quota(cache, ROOM).count(0)
    assert alive.exists() and not dead.exists()
    assert first.read(FeatureId(0, 1)) == RECORD


WRITER = """
import sys
from pathlib import Path
from tracer.features.disk_cache import CardCache
from tracer.types import FeatureId
store = CardCache(Path(sys.argv[1]), "hub", "set")
for index in range(150):
    feature = FeatureId(int(sys.argv[2]), index)
    store.keep(feature, b"x" * 10_000)
    for other in (0, 1, 2):
        found = store.read(FeatureId(other, index))
        assert found in (None, b"x" * 10_000), len(found)
"""


def test_several_processes_share_a_folder(cache: Path) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(cache), str(layer)], stderr=subprocess.PIPE
        )
        for layer in range(3)
    ]
    for writer in writers:
        _, said = writer.communicate(timeout=60)
        assert (writer.returncode, said) == (0, b"")
    assert ROOM / 2 < taken(cache) <= ROOM + 3 * ROOM // 16


def test_what_cannot_be_deleted_is_told_and_nothing_fails(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = CardCache(cache, "hub", "set")
    store.keep(FeatureId(0, 0), RECORD)

    def refused(self: Path, missing_ok: bool = False) -> None:
        if self.suffix == ".bin":
            raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING):
        patched.setattr(Path, "unlink", refused)
        for index in range(60):
            store.keep(FeatureId(0, index), RECORD)
        store.forget(FeatureId(0, 0))
    assert "CIRCUIT_EXAMPLES_GB" in caplog.text and "Permission denied" in caplog.text
    assert store.read(FeatureId(0, 0)) == RECORD
    store.keep(FeatureId(0, 60), RECORD)
    for index in range(61, 70):
        store.keep(FeatureId(0, index), RECORD)
    assert taken(cache) <= ROOM


def test_a_disk_that_cannot_be_written_is_still_read(
    cache: Path,
    neuronpedia: NeuronpediaServer,
    opened: Callable[..., FeatureLookup],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    neuronpedia.answers["model/0-set/1"] = feature()
    card = opened().card(FeatureId(0, 1))
    (kept,) = cache.rglob("*.bin")
    aged(kept, 9)
    (labels,) = cache.rglob("labels.jsonl")
    labels.unlink()

    def refused(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "utime", refused)
    monkeypatch.setattr(Path, "mkdir", refused)
    found = opened()
    assert found.card(FeatureId(0, 1)) == card
    assert known(found.card(FeatureId(0, 1))).label == found.labels[FeatureId(0, 1)]


def test_a_label_that_was_lost_is_learned_again_from_its_card(
    neuronpedia: NeuronpediaServer, opened: Callable[..., FeatureLookup], tmp_path: Path
) -> None:
    neuronpedia.answers["model/0-set/1"] = feature(explanations=[{"description": "a\u2028b"}])
    opened().card(FeatureId(0, 1))
    (labels,) = (tmp_path / "cache").rglob("labels.jsonl")
    assert opened().cached_name(FeatureId(0, 1)) == "a\u2028b"
    labels.write_bytes(labels.read_bytes()[:9])
    found = opened()
    assert found.labels == {}
    assert found.cached_name(FeatureId(0, 1)) == "a\u2028b"
    assert len(neuronpedia.requests) == 1


@pytest.mark.parametrize("size", ["plenty", "0", "-1", "nan", "inf"])
def test_a_quota_that_is_no_size_is_refused(
    opened: Callable[..., FeatureLookup], monkeypatch: pytest.MonkeyPatch, size: str
) -> None:
    monkeypatch.setenv("CIRCUIT_EXAMPLES_GB", size)
    with pytest.raises(FeatureLookupError, match=rf"CIRCUIT_EXAMPLES_GB is '{size}': expected"):
        opened()


def test_the_quota_is_a_gigabyte_unless_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, expected in (("", 10**9), ("0.5", 10**9 // 2)):
        monkeypatch.setenv("CIRCUIT_EXAMPLES_GB", value)
        assert disk_quota.quota_bytes() == expected
