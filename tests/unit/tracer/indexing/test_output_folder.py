"""A build touches nothing that is not an index, and a disk that refuses is named."""

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
def test_what_is_no_index_is_left_alone(
    build: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    (tmp_path / "file").write_text("mine")
    for folder in ("folder", "index.partial"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "thesis.txt").write_text("mine")
    before = everything(tmp_path)
    with pytest.raises(FeatureIndexError, match=r"is no feature index: nothing was touched"):
        build(tmp_path / name)
    assert everything(tmp_path) == before


def test_a_folder_is_meant_wherever_its_name_is_said_from(
    build: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "features"
    here.mkdir()
    monkeypatch.chdir(here)
    build(".")
    assert (here / "index.json.gz").is_file() and not (tmp_path / "features.partial").exists()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(here, target_is_directory=True)
    before = file_bytes(here)
    build("link", limit_tokens=9)
    assert file_bytes(here) != before and (tmp_path / "link").is_symlink()
    with pytest.raises(FeatureIndexError, match="no index can be written as /"):
        build("/")
    with pytest.raises(FeatureIndexError, match="is there, holds"):
        build(".")


def test_two_builds_do_not_write_one_index(build: Callable[..., Any], tmp_path: Path) -> None:
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
        ("checkpoint.Spill.append", FULL),
        ("checkpoint.Spill.flush", FULL),
        ("build.save_checkpoint", SafetensorError("I/O error: No space left on device")),
        ("build.write_json_gz", FULL),
    ],
)
def test_a_full_disk_is_told_and_the_build_goes_on_where_it_stood(
    build: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    error: Exception,
) -> None:
    build(tmp_path / "whole")
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
            FeatureIndexError, match=r"written to .*features \(.*No space left.*make room there"
        ):
            build(folder, checkpoint_tokens=20)
    assert not folder.exists() and (tmp_path / "features.partial" / "checkpoint.json").is_file()
    heard: list[int] = []
    build(folder, checkpoint_tokens=20, progress=lambda done, *_: heard.append(done))
    assert file_bytes(folder) == file_bytes(tmp_path / "whole")


def test_a_folder_that_cannot_be_made_is_told_before_anything_runs(
    build: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FeatureIndexError, match=r"file/features \(Not a directory\)"):
        build(tmp_path / "file" / "features")


def test_what_was_stopped_before_its_first_checkpoint_leaves_nothing(
    build: Callable[..., Any], tmp_path: Path
) -> None:
    def stop(*_: object) -> None:
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        build(tmp_path / "features", progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["texts.txt"]
