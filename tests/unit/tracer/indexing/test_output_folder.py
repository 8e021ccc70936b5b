"""A build touches nothing that is not an index, and reports what the disk refuses."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from observed import CONTEXT, documents, file_bytes, save_text
from safetensors import SafetensorError

from tracer.errors import Cancelled, FeatureIndexError
from tracer.indexing import build_index
from tracer.model.model import Model

FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def build(model: Model, tmp_path: Path) -> Callable[..., Any]:
    corpus = save_text(tmp_path / "texts.txt", documents(20))

    def build_it(folder: Path | str, **more: Any) -> None:
        build_index(model, corpus, folder, context=CONTEXT, batch_tokens=60, **more)

    return build_it


def everything(folder: Path) -> dict[str, bytes | None]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize("name", ["file", "folder", "index"])
def test_files_that_are_not_an_index_are_left_unchanged(
    build: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    (tmp_path / "file").write_text("mine")
    for folder in ("folder", "index.partial"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "thesis.txt").write_text("mine")
    before = everything(tmp_path)
    with pytest.raises(FeatureIndexError, match=r"is not a feature index; left unchanged"):
        build(tmp_path / name)
    assert everything(tmp_path) == before


def test_relative_paths_and_links_name_the_folder_itself(
    build: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "features"
    folder.mkdir()
    monkeypatch.chdir(folder)
    build(".")
    assert (folder / "index.json.gz").is_file() and not (tmp_path / "features.partial").exists()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    before = file_bytes(folder)
    build("link", limit_tokens=9)
    assert file_bytes(folder) != before and (tmp_path / "link").is_symlink()
    with pytest.raises(FeatureIndexError, match="no index can be written to /"):
        build("/")
    with pytest.raises(FeatureIndexError, match="already exists, has"):
        build(".")


def test_two_builds_cannot_write_the_same_index(build: Callable[..., Any], tmp_path: Path) -> None:
    work = tmp_path / "features.partial"
    work.mkdir()
    with (
        FileLock(work / "lock"),
        pytest.raises(FeatureIndexError, match=r"another build is writing .*features: wait"),
    ):
        build(tmp_path / "features")
    build(tmp_path / "features")
    assert (tmp_path / "features").is_dir() and not work.exists()


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("checkpoint.TokenLog.append", FULL),
        ("checkpoint.TokenLog.flush", FULL),
        ("build.save_checkpoint", SafetensorError("I/O error: No space left on device")),
        ("build.write_json_gz", FULL),
    ],
)
def test_a_full_disk_is_reported_and_the_build_resumes(
    build: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    error: Exception,
) -> None:
    build(tmp_path / "complete")
    folder = tmp_path / "features"

    def stop(done: int, total: int, what: str) -> None:
        if done > 60:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        build(folder, checkpoint_tokens=20, progress=stop)

    def full(*_: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(f"tracer.indexing.{where}", full)
        with pytest.raises(
            FeatureIndexError, match=r"written to .*features \(.*No space left.*free some space"
        ):
            build(folder, checkpoint_tokens=20)
    assert not folder.exists() and (tmp_path / "features.partial" / "checkpoint.json").is_file()
    build(folder, checkpoint_tokens=20)
    assert file_bytes(folder) == file_bytes(tmp_path / "complete")


def test_a_folder_that_cannot_be_created_is_reported_before_anything_runs(
    build: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FeatureIndexError, match=r"file/features \(Not a directory\)"):
        build(tmp_path / "file" / "features")


def test_a_build_stopped_before_its_first_checkpoint_leaves_nothing(
    build: Callable[..., Any], tmp_path: Path
) -> None:
    def stop(*_: object) -> None:
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        build(tmp_path / "features", progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["texts.txt"]
