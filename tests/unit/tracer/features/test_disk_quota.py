"""The cache of fetched cards has a quota: only the least recently used files are deleted."""

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
from tracer.files import atomic_write
from tracer.types import FeatureId

RECORD = b"x" * 10_000  # three blocks of a disk
ROOM = 40 * 3 * 4096


def gigabytes(n_bytes: int) -> str:
    return str(n_bytes / 10**9)


def aged(path: Path, hours: float) -> None:
    then = time.time() - hours * 3600
    os.utime(path, (then, then))


def disk_usage(folder: Path) -> int:
    """Return what the files below a folder take of a disk with blocks of 4096 bytes."""
    return sum(-(-p.stat().st_size // 4096) * 4096 for p in folder.rglob("*") if p.is_file())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder with room for forty records."""
    monkeypatch.setenv("CIRCUIT_EXAMPLES_GB", gigabytes(ROOM))
    return tmp_path / "cache"


def test_the_folder_stays_within_its_quota(cache: Path) -> None:
    store = CardCache(cache, "hub", "set")
    for index in range(200):
        store.keep(FeatureId(0, index), RECORD)
        assert disk_usage(cache) <= ROOM
    assert disk_usage(cache) > ROOM / 2, "more was deleted than necessary"
    assert store.read(FeatureId(0, 199)) == RECORD


def test_the_least_recently_used_records_of_all_sources_are_deleted_first(cache: Path) -> None:
    old, new = CardCache(cache, "hub", "old"), CardCache(cache, "neuronpedia", "new")
    for index in range(30):
        old.keep(FeatureId(0, index), RECORD)
        aged(old.folder / "0" / f"{index}.bin", 30 - index / 10)
    assert old.read(FeatureId(0, 3)) == RECORD  # and it is now the most recently used
    for index in range(20):
        new.keep(FeatureId(0, index), RECORD)
    left = {int(path.stem) for path in old.folder.rglob("*.bin")}
    assert 3 in left and not left & {0, 1, 2, 4, 5, 6, 7, 8}
    assert left - {3} == set(range(min(left - {3}), 30))
    assert len(list(new.folder.rglob("*.bin"))) == 20


def test_notes_of_absent_records_and_labels_count_too(cache: Path) -> None:
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
    assert time.time() - (store.folder / "labels.jsonl").stat().st_mtime < 60, (
        "opening counts as use"
    )


def test_files_that_the_cache_did_not_write_are_never_deleted(cache: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere" / "0"
    elsewhere.mkdir(parents=True)
    (elsewhere / "7.bin").write_bytes(RECORD)
    save_index(cache)  # an index that the user put here
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


def test_partial_files_of_dead_processes_are_deleted(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = CardCache(cache, "hub", "set")
    first.keep(FeatureId(0, 1), RECORD)
    dead, alive = (partial_file(first.folder / "0" / f"{n}.bin", monkeypatch) for n in (2, 3))
    aged(dead, 2)
    disk_quota.Quota(cache, ROOM).count(0)
    assert alive.exists() and not dead.exists()
    assert first.read(FeatureId(0, 1)) == RECORD


def partial_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write ``path`` in a process that dies before the file has its name; return what is left."""
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", lambda *_, **__: None)
        patched.setattr(Path, "replace", lambda *_: None)
        atomic_write(path, RECORD)
    (partial,) = [p for p in path.parent.iterdir() if path.name in p.name]
    return partial


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
        _, errors = writer.communicate(timeout=60)
        assert (writer.returncode, errors) == (0, b"")
    assert ROOM / 2 < disk_usage(cache) <= ROOM + 3 * ROOM // 16


def test_a_file_that_cannot_be_deleted_is_logged_and_nothing_fails(
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
    assert disk_usage(cache) <= ROOM


def test_a_read_only_cache_is_still_read(
    cache: Path,
    neuronpedia: NeuronpediaServer,
    opened: Callable[..., FeatureLookup],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    neuronpedia.answers["model/0-set/1"] = feature()
    card = opened().card(FeatureId(0, 1))
    (record,) = cache.rglob("*.bin")
    aged(record, 9)
    (labels,) = cache.rglob("labels.jsonl")
    labels.unlink()

    def refused(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "utime", refused)
    monkeypatch.setattr(Path, "mkdir", refused)
    reader = opened()
    assert reader.card(FeatureId(0, 1)) == card
    assert known(reader.card(FeatureId(0, 1))).label == reader.labels[FeatureId(0, 1)]


def test_a_lost_label_is_restored_from_its_card(
    neuronpedia: NeuronpediaServer, opened: Callable[..., FeatureLookup], tmp_path: Path
) -> None:
    neuronpedia.answers["model/0-set/1"] = feature(explanations=[{"description": "a\u2028b"}])
    opened().card(FeatureId(0, 1))
    (labels,) = (tmp_path / "cache").rglob("labels.jsonl")
    assert opened().cached_name(FeatureId(0, 1)) == "a\u2028b"
    labels.write_bytes(labels.read_bytes()[:9])
    reader = opened()
    assert reader.labels == {}
    assert reader.cached_name(FeatureId(0, 1)) == "a\u2028b"
    assert len(neuronpedia.requests) == 1


@pytest.mark.parametrize("size", ["plenty", "0", "-1", "nan", "inf"])
def test_a_quota_that_is_not_a_size_is_refused(
    opened: Callable[..., FeatureLookup], monkeypatch: pytest.MonkeyPatch, size: str
) -> None:
    monkeypatch.setenv("CIRCUIT_EXAMPLES_GB", size)
    with pytest.raises(FeatureLookupError, match=rf"CIRCUIT_EXAMPLES_GB is '{size}': expected"):
        opened()


def test_the_quota_is_a_gigabyte_unless_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, expected in (("", 10**9), ("0.5", 10**9 // 2)):
        monkeypatch.setenv("CIRCUIT_EXAMPLES_GB", value)
        assert disk_quota.quota_bytes() == expected
