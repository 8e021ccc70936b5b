"""Every failure of the hub has its own error and its own sentence."""

from __future__ import annotations

import errno
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from hub_server import HubServer

from tracer import errors
from tracer.hub import HubFile, Reference, fetch, look_up, read_range

SET = Reference("org/set")
BIG = bytes(range(256)) * 20_000  # 5 MB


def test_damaged_contents_are_detected_and_deleted(hub: HubServer) -> None:
    hub.add("org/set", {"big.bin": BIG, "small.txt": "abc"})
    hub.damaged = {"big.bin", "small.txt"}
    for path in ("big.bin", "small.txt"):
        with pytest.raises(errors.BrokenTransferError, match=f"{path} of org/set arrived damaged"):
            fetch(SET, [path])
    hub.damaged = set()
    root = fetch(SET, ["big.bin", "small.txt"])
    assert (root / "big.bin").read_bytes() == BIG and (root / "small.txt").read_text() == "abc"


def test_a_gated_repository_explains_how_to_get_access(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/set", {"a.txt": "x"}, gated=True, token="good")
    look_up(SET)
    with pytest.raises(
        errors.LicenceError, match=r"https://huggingface\.co/org/set, then run `hf auth login`"
    ):
        fetch(SET, ["a.txt"])
    monkeypatch.setenv("HF_TOKEN", "bad")
    with pytest.raises(errors.AccessError, match=r"account of your access token has no access"):
        fetch(SET, ["a.txt"])
    monkeypatch.setenv("HF_TOKEN", "good")
    assert (fetch(SET, ["a.txt"]) / "a.txt").read_text() == "x"
    assert hub.asked("a.txt")[-1].token == "good"


def test_a_missing_or_private_repository(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/set", {"a.txt": "x"}, private=True, token="good")
    for repo in ("org/nowhere", "org/set"):
        with pytest.raises(
            errors.RepositoryMissingError,
            match=f"model repository {repo} not found on .*, or it is private",
        ):
            look_up(Reference(repo))
    monkeypatch.setenv("HF_TOKEN", "bad")
    with pytest.raises(errors.RepositoryMissingError, match="your access token cannot read it"):
        look_up(SET)
    monkeypatch.setenv("HF_TOKEN", "good")
    assert len(look_up(SET).files) == 1


def test_a_refused_token(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "expired")
    hub.status = 401
    with pytest.raises(errors.TokenError, match=r"refuses your access token.*settings/tokens"):
        look_up(SET)


def test_without_a_token_the_message_does_not_say_it_was_refused(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    hub.status = 403
    with pytest.raises(errors.TokenError, match=r"requires an access token for .*: create one at"):
        look_up(SET)


def test_a_missing_revision_and_a_missing_file(hub: HubServer) -> None:
    commit = hub.add("org/set", {"a.txt": "x"})
    with pytest.raises(errors.RevisionMissingError, match="no branch, tag or commit 'v9'"):
        look_up(Reference("org/set", "", "v9"))
    with pytest.raises(errors.HubFileMissingError, match=f"no file b.txt at {commit[:12]}"):
        fetch(SET, ["a.txt", "b.txt"])
    assert hub.asked("a.txt") == []
    with pytest.raises(errors.HubFileMissingError, match=r"no file b\.txt"):
        read_range("org/set", "b.txt", commit, 0, 1)


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "", "a\\..\\x"])
def test_a_path_cannot_lead_out_of_the_snapshot(hub: HubServer, path: str) -> None:
    commit = hub.add("org/set", {path: "x"})
    with pytest.raises(errors.HubFileMissingError, match="is not a path inside"):
        fetch(SET, [path], commit=commit)
    with pytest.raises(errors.HubFileMissingError, match="is not a path inside"):
        read_range("org/set", path, commit, 0, 1)


def test_an_unreachable_host_is_named_and_cached_files_still_open(hub: HubServer) -> None:
    commit = hub.add("org/set", {"a.txt": "abc", "b.txt": "x"})
    fetch(SET, ["a.txt"])
    hub.stop()
    host = hub.url.removeprefix("http://")
    assert look_up(SET).files == (HubFile("a.txt", 3),)
    assert fetch(SET, ["a.txt"]).name == commit
    with pytest.raises(
        errors.HubUnreachableError,
        match=rf"no answer from {host} after several attempts.*OFFLINE=1",
    ):
        look_up(Reference("org/other"))
    with pytest.raises(errors.HubUnreachableError, match=host):
        fetch(SET, ["b.txt"])
    with pytest.raises(errors.HubUnreachableError, match=host):
        read_range("org/set", "b.txt", commit, 0, 1)


def test_a_busy_hub_is_asked_again_before_the_error(hub: HubServer) -> None:
    hub.status = 503
    with pytest.raises(errors.HubUnreachableError, match="status 503"):
        look_up(SET)
    assert len(hub.requests) == 3


COMMIT = "a" * 40


@pytest.mark.parametrize(
    "answer",
    [
        418,
        b"<html>Welcome, guest</html>",
        b"",
        b"[]",
        b"[" * 100_000,
        b"9" * 5000,
        b'{"id": "org/set", "sha": "main", "siblings": []}',
        b'{"id": "org/set", "sha": "%s"}' % COMMIT.encode(),
        b'{"id": "org/set", "sha": "%s", "siblings": [{"rfilename": "a"}]}' % COMMIT.encode(),
        b'{"id": "org/set", "sha": "%s", "siblings": [{"rfilename": "a", "size": -1}]}'
        % COMMIT.encode(),
        b'{"id": "org/set", "sha": "%s", "siblings": [{"rfilename": "a", "size": 1e999}]}'
        % COMMIT.encode(),
    ],
)
def test_an_answer_that_no_hub_gives_is_named(hub: HubServer, answer: int | bytes) -> None:
    hub.status = answer if isinstance(answer, int) else None
    hub.page = answer if isinstance(answer, bytes) else None
    with pytest.raises(errors.HubAnswerError, match=r"unexpected answer from http.* for org/set"):
        look_up(SET)


def test_a_full_disk_is_detected_before_the_download(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/set", {"big.bin": BIG})
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 10**6, 10**6))
    with pytest.raises(errors.DiskFullError, match=r"needs 5\.1 MB in .*, where 1\.0 MB are free"):
        fetch(SET, ["big.bin"])
    assert hub.asked("big.bin") == []


def test_a_disk_that_fills_up_during_the_download(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    hub.add("org/set", {"big.bin": BIG})
    with monkeypatch.context() as patched:
        patched.setattr("tracer.hub.transfer._append", full)
        with pytest.raises(
            errors.DiskFullError, match=r"needs 5\.1 MB in .*, where 0 bytes are free"
        ):
            fetch(SET, ["big.bin"])
    assert (fetch(SET, ["big.bin"]) / "big.bin").read_bytes() == BIG


def test_the_librarys_own_switch_is_respected(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(errors.NetworkOffError, match="HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE"):
        look_up(SET)
    assert hub.requests == []


def test_a_cache_folder_that_cannot_be_written(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub.add("org/set", {"a.txt": "x"})
    (tmp_path / "file").touch()
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "file"))
    with pytest.raises(errors.CacheFolderError, match=r"the download folder .* cannot be written"):
        fetch(SET, ["a.txt"])


def test_a_hub_that_sends_only_complete_files_is_not_read_for_a_part(hub: HubServer) -> None:
    commit = hub.add("org/set", {"big.bin": BIG})
    hub.ranges = False
    with pytest.raises(errors.HubAnswerError, match="does not support requests for a part"):
        read_range("org/set", "big.bin", commit, 0, 10)
