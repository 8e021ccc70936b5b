"""Downloads are pinned to a commit, resumed, counted and cached."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import HubServer, etag

from tracer import errors
from tracer.hub import (
    HubFile,
    Reference,
    cache,
    fetch,
    look_up,
    network_allowed,
    read_range,
)

SET = Reference("org/set")
BIG = bytes(range(256)) * 20_000  # 5 MB
ROOT = Path(__file__).resolve().parents[4]


@pytest.mark.parametrize(
    ("text", "place", "canonical"),
    [
        ("org/set", Reference("org/set"), "org/set"),
        (" org/set/ ", Reference("org/set"), "org/set"),
        ("org/set@v1.0", Reference("org/set", "", "v1.0"), "org/set@v1.0"),
        ("org/s.e-t/a/b@refs/pr/3", Reference("org/s.e-t", "a/b", "refs/pr/3"), None),
        ("hf://org/set", Reference("org/set"), "org/set"),
        ("hf://org/set/l_0/p.npz", Reference("org/set", "l_0/p.npz"), "org/set/l_0/p.npz"),
        ("hf://org/set/l?revision=ab12", Reference("org/set", "l", "ab12"), "org/set/l@ab12"),
        ("hf://org/set?revision=refs%2Fpr%2F3", Reference("org/set", "", "refs/pr/3"), None),
    ],
)
def test_a_reference_is_parsed_and_written(
    text: str, place: Reference, canonical: str | None
) -> None:
    assert Reference.parse(text) == place == Reference.parse(str(place))
    assert canonical in (None, str(place))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "gpt2",
        "/data/set",
        "./set/a",
        "~/set",
        "org/",
        "org//set",
        "org/..",
        "org/a..b",
        "org/a--b",
        "org/set/../other",
        "org/set/./a",
        "org/set/a b",
        "org/set\\a",
        "org/set@",
        "org/set@a@b",
        "org/set@../../x",
        "org/set@-x",
        "org/set?revision=main",
        "hf://org/set?rev=main",
        "hf://org/set?revision=",
        "hf://org/set@a?revision=b",
        "https://huggingface.co/org/set",
        "org/" + "a" * 97,
    ],
)
def test_other_text_is_not_a_reference(text: str) -> None:
    with pytest.raises(errors.HubReferenceError, match=r"is not a hub reference: .*; expected org"):
        Reference.parse(text)


def test_a_listing_names_the_commit_and_every_file(hub: HubServer) -> None:
    commit = hub.add("org/set", {"config.yaml": "kind: x", "sub/layer_0.bin": BIG})
    listing = look_up(Reference("org/set", "sub"))
    assert (listing.repo, listing.commit) == ("org/set", commit)
    assert listing.files == (HubFile("config.yaml", 7), HubFile("sub/layer_0.bin", len(BIG)))


def test_a_pinned_commit_does_not_change_when_the_branch_moves(hub: HubServer) -> None:
    first = look_up_after_adding(hub, {"a.txt": "old", "b.txt": "old"})
    root = fetch(SET, ["a.txt"], commit=first)
    second = look_up_after_adding(hub, {"a.txt": "new", "b.txt": "new"})
    fetch(SET, ["b.txt"], commit=first)
    assert first != second and root.name == first
    assert [(root / name).read_text() for name in ("a.txt", "b.txt")] == ["old", "old"]
    assert (fetch(SET, ["a.txt"]) / "a.txt").read_text() == "new"
    hub.tag("org/set", "v1", first)
    assert look_up(Reference("org/set", "", "v1")).commit == first
    assert look_up(Reference("org/set", "", first)).commit == first


def look_up_after_adding(hub: HubServer, files: dict[str, bytes | str]) -> str:
    hub.add("org/set", files)
    return look_up(SET).commit


def test_files_arrive_unchanged_and_are_fetched_once(hub: HubServer) -> None:
    files: dict[str, bytes | str] = {"big.bin": BIG, "sub/small.txt": "é", "empty": b""}
    hub.add("org/set", files)
    root = fetch(SET, list(files))
    assert (root / "big.bin").read_bytes() == BIG
    assert (root / "sub/small.txt").read_text(encoding="utf-8") == "é"
    assert (root / "empty").read_bytes() == b""
    asked = len(hub.requests)
    assert fetch(SET, list(files), commit=root.name) == root
    assert len(hub.requests) == asked
    assert len(hub.asked("big.bin")) == 1


def test_an_unchanged_file_is_not_fetched_again_for_a_new_commit(hub: HubServer) -> None:
    hub.add("org/set", {"big.bin": BIG, "readme": "1"})
    fetch(SET, ["big.bin"])
    hub.add("org/set", {"big.bin": BIG, "readme": "2"})
    assert (fetch(SET, ["big.bin"]) / "big.bin").read_bytes() == BIG
    assert len(hub.asked("big.bin")) == 1


def test_the_hubs_own_library_finds_the_downloaded_files(hub: HubServer) -> None:
    from huggingface_hub import snapshot_download, try_to_load_from_cache

    hub.add("org/set", {"big.bin": BIG})
    root = fetch(SET, ["big.bin"])
    assert try_to_load_from_cache("org/set", "big.bin", cache_dir=cache.cache_folder()) == str(
        root / "big.bin"
    )
    snapshot = snapshot_download("org/set", cache_dir=cache.cache_folder(), local_files_only=True)
    assert Path(snapshot) == root


def test_progress_counts_bytes_up_to_the_total(hub: HubServer) -> None:
    hub.add("org/set", {"big.bin": BIG, "small.txt": "abc"})
    reported: list[tuple[int, int, str]] = []
    fetch(SET, ["small.txt", "big.bin"], lambda *report: reported.append(report))
    done = [report[0] for report in reported]
    assert done == sorted(done)
    assert {report[1] for report in reported} == {len(BIG) + 3}
    assert done[0] == 0 and done[-1] == len(BIG) + 3
    assert len(set(done)) >= 5
    assert {report[2] for report in reported} == {"downloading small.txt", "downloading big.bin"}


def test_a_broken_transfer_continues_where_it_stopped(hub: HubServer) -> None:
    hub.add("org/set", {"big.bin": BIG})
    hub.break_after("big.bin", 3_000_000)
    reported: list[int] = []
    root = fetch(SET, ["big.bin"], lambda done, _total, _what: reported.append(done))
    assert (root / "big.bin").read_bytes() == BIG
    first, second = hub.asked("big.bin")
    assert first.byte_range is None
    assert second.byte_range == "bytes=3000000-" and second.status == 206
    assert reported == sorted(reported) and reported[-1] == len(BIG)


def test_a_transfer_that_keeps_breaking_fails_and_its_bytes_are_kept(hub: HubServer) -> None:
    hub.add("org/set", {"big.bin": BIG})
    hub.break_after("big.bin", 1_000_000)
    hub.break_after("big.bin", 0, times=99)
    with pytest.raises(
        errors.BrokenTransferError, match=r"broke while reading org/set/big\.bin.*continues"
    ):
        fetch(SET, ["big.bin"])
    assert len(hub.asked("big.bin")) == 3
    hub.breaks = {"big.bin": (1_000_000, 1)}
    with pytest.raises(errors.Cancelled):
        fetch(SET, ["big.bin"], cancel_at(900_000))
    hub.breaks.clear()
    before = len(hub.asked("big.bin"))
    assert (fetch(SET, ["big.bin"]) / "big.bin").read_bytes() == BIG
    (last,) = hub.asked("big.bin")[before:]
    assert last.byte_range is not None and int(last.byte_range[6:-1]) >= 900_000


def cancel_at(stop: int):
    def progress(done: int, total: int, what: str) -> None:
        if done >= stop:
            raise errors.Cancelled("stopped")

    return progress


def test_a_hub_that_sends_only_complete_files_starts_again(hub: HubServer) -> None:
    hub.add("org/set", {"big.bin": BIG})
    hub.ranges = False
    hub.break_after("big.bin", 3_000_000)
    reported: list[int] = []
    root = fetch(SET, ["big.bin"], lambda done, _total, _what: reported.append(done))
    assert (root / "big.bin").read_bytes() == BIG
    assert [request.status for request in hub.asked("big.bin")] == [200, 200]
    assert reported == sorted(reported)


def test_attempts_are_counted_only_while_no_bytes_arrive(hub: HubServer) -> None:
    hub.add("org/set", {"big.bin": BIG})
    hub.break_after("big.bin", 1_000_000, times=5)
    assert (fetch(SET, ["big.bin"]) / "big.bin").read_bytes() == BIG
    assert len(hub.asked("big.bin")) == 6
    assert {request.encoding for request in hub.asked("big.bin")} == {"identity"}


def test_a_cancelled_download_stops_and_is_resumed_later(hub: HubServer) -> None:
    hub.add("org/set", {"big.bin": BIG, "after.txt": "x"})
    with pytest.raises(errors.Cancelled, match="stopped"):
        fetch(SET, ["big.bin", "after.txt"], cancel_at(2_000_000))
    assert hub.asked("after.txt") == []
    commit = look_up(SET).commit
    assert not (cache.snapshot("org/set", commit) / "big.bin").exists()
    assert (fetch(SET, ["big.bin"]) / "big.bin").read_bytes() == BIG
    resumed = hub.asked("big.bin")[-1].byte_range
    assert resumed is not None and int(resumed[6:-1]) >= 2_000_000


def test_a_very_slow_download_reports_progress_and_can_be_cancelled(
    hub: HubServer,
) -> None:
    hub.add("org/set", {"big.bin": BIG[:1500]})
    hub.slow_after("big.bin", 1000)
    reported: list[int] = []

    def progress(done: int, total: int, what: str) -> None:
        reported.append(done)
        if done > 1000:
            raise errors.Cancelled("stopped")

    with pytest.raises(errors.Cancelled):
        fetch(SET, ["big.bin"], progress)
    assert 1000 < reported[-1] < 1500


def test_waiting_for_another_download_can_be_cancelled(hub: HubServer) -> None:
    from huggingface_hub.utils import WeakFileLock

    hub.add("org/set", {"big.bin": BIG})
    lock = cache.lock_file(cache.blob_file("org/set", etag(BIG)))
    lock.parent.mkdir(parents=True)
    reported: list[str] = []

    def progress(_done: int, _total: int, what: str) -> None:
        reported.append(what)
        if "waiting" in what:
            raise errors.Cancelled("stopped")

    with WeakFileLock(lock), pytest.raises(errors.Cancelled):
        fetch(SET, ["big.bin"], progress)
    assert reported[-1] == "waiting for another download of big.bin"
    assert hub.asked("big.bin") == []


def test_an_older_pinned_commit_does_not_become_the_branch(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = hub.add("org/set", {"a.txt": "old", "b.txt": "old"})
    fetch(SET, ["a.txt"], commit=old)
    new = hub.add("org/set", {"a.txt": "new"})
    fetch(SET, ["a.txt"])
    fetch(SET, ["b.txt"], commit=old)
    monkeypatch.setenv("CIRCUIT_OFFLINE", "1")
    assert look_up(SET).commit == new


def test_the_token_is_not_sent_to_another_host(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/set", {"big.bin": BIG}, gated=True, token="good")
    monkeypatch.setenv("HF_TOKEN", "good")
    with HubServer() as elsewhere:
        hub.cdn = elsewhere.url
        commit = look_up(SET).commit
        elsewhere.add("org/set", {"big.bin": BIG})
        elsewhere.tag("org/set", commit, elsewhere.repos["org/set"].revisions["main"])
        elsewhere.break_after("big.bin", 3_000_000)
        root = fetch(SET, ["big.bin"])
        assert (root / "big.bin").read_bytes() == BIG
        assert {request.token for request in elsewhere.requests} == {None}
        assert elsewhere.requests[-1].byte_range == "bytes=3000000-"
        assert {request.token for request in hub.requests} == {"good"}


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "CIRCUIT_OFFLINE"])
def test_with_the_network_off_the_cache_answers(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    commit = hub.add("org/set", {"a.txt": "abc", "b.txt": "x"})
    hub.tag("org/set", "v1", commit)
    tagged = Reference("org/set", "", "v1")
    root = fetch(SET, ["a.txt"])
    fetch(tagged, ["a.txt"])
    asked = len(hub.requests)
    monkeypatch.setenv(variable, "1")
    assert not network_allowed()
    for reference in (SET, tagged, Reference("org/set", "", commit)):
        listing = look_up(reference)
        assert (listing.commit, listing.files) == (commit, (HubFile("a.txt", 3),))
    assert fetch(SET, ["a.txt"]) == root
    with pytest.raises(errors.NetworkOffError, match=rf"b\.txt of org/set is not in.*{variable}"):
        fetch(SET, ["b.txt"])
    with pytest.raises(errors.NetworkOffError, match=r"^org/other is not in the cache"):
        look_up(Reference("org/other"))
    with pytest.raises(errors.NetworkOffError, match=variable):
        read_range("org/set", "b.txt", commit, 0, 1)
    assert len(hub.requests) == asked
    monkeypatch.setenv(variable, "0")
    assert network_allowed()


def test_the_cache_folder_is_where_the_hubs_library_looks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    names = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    for name in reversed(names):
        monkeypatch.setenv(name, str(tmp_path / name))
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert str(cache.cache_folder()) == done.stdout.strip(), name


def test_a_damaged_note_of_a_commit_counts_as_none(hub: HubServer) -> None:
    hub.add("org/set", {"a.txt": "x"})
    fetch(SET, ["a.txt"])
    (cache.repo_folder("org/set") / "refs" / "main").write_bytes(b"\xff" * 40)
    assert cache.known_commit("org/set", "main") is None
    assert look_up(SET).complete


def test_a_part_of_a_file_is_read_without_the_rest(hub: HubServer) -> None:
    commit = hub.add("org/set", {"sub/big.bin": BIG})
    assert read_range("org/set", "sub/big.bin", commit, 1000, 1010) == BIG[1000:1010]
    (request,) = hub.asked("big.bin")
    assert (request.byte_range, request.status) == ("bytes=1000-1009", 206)
    assert read_range("org/set", "sub/big.bin", commit, 7, 7) == b""
    for start in (len(BIG) - 5, len(BIG) + 5):
        with pytest.raises(errors.HubError):
            read_range("org/set", "sub/big.bin", commit, start, start + 10)
    fetch(SET, ["sub/big.bin"])
    asked = len(hub.requests)
    assert read_range("org/set", "sub/big.bin", commit, 5, 9) == BIG[5:9]
    with pytest.raises(
        errors.BrokenTransferError,
        match=r"is too short: expected bytes .* does not match the index",
    ):
        read_range("org/set", "sub/big.bin", commit, len(BIG) - 5, len(BIG) + 5)
    assert len(hub.requests) == asked


def test_it_works_from_the_environment_alone_and_prints_nothing(hub: HubServer) -> None:
    hub.add("org/set", {"big.bin": BIG})
    code = (
        "from tracer.hub import Reference, fetch\n"
        "root = fetch(Reference.parse('org/set'), ['big.bin'], lambda *report: None)\n"
        "print((root / 'big.bin').stat().st_size, root)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "HF_HUB_DISABLE_PROGRESS_BARS"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    size, root = done.stdout.split()
    assert int(size) == len(BIG) and Path(root).is_relative_to(os.environ["HF_HUB_CACHE"])
    assert done.stderr == ""
