"""Models and sets open by name from a hub on this machine: pinned, recorded, and offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml
from hub_server import HubServer
from huggingface_hub import constants
from published_layouts import LAYOUTS

import tracer
from tracer import paths
from tracer.catalog import downloads
from tracer.catalog.resolve import missing, obtain, resolve
from tracer.errors import (
    CacheFolderError,
    Cancelled,
    HubError,
    ModelError,
    NotDownloadedError,
    TranscoderError,
)
from tracer.hub import cache_folder

MODEL, SET = "lab/tiny", "lab/tiny-transcoders"


@pytest.fixture
def published(hub: HubServer, tmp_path: Path) -> HubServer:
    """A hub with a model and a per-layer set."""
    hub.add(MODEL, tiny.save_model(tmp_path / "model"))
    hub.add(SET, tiny.save_transcoders(tmp_path / "set"))
    return hub


def test_a_model_opens_from_the_hub_and_records_its_commits(published: HubServer) -> None:
    reports: list[tuple[int, int, str]] = []
    model = tracer.load(MODEL, SET, "cpu", progress=lambda *report: reports.append(report))
    graph = tracer.trace(model, tiny.PROMPT)
    commits = graph.provenance["revisions"]
    assert set(commits) == {MODEL, SET}
    assert all(len(commit) == 40 for commit in commits.values())
    done = [entry[0] for entry in reports if not entry[2].startswith("reading")]
    assert done == sorted(done) and done[-1] == reports[len(done) - 1][1] > 0
    assert [entry[2] for entry in reports[len(done) :]][:2] == [
        "reading the model",
        "reading the transcoders",
    ]


def test_the_hub_and_a_folder_give_the_same_numbers(published: HubServer, tmp_path: Path) -> None:
    from_hub = tracer.trace(tracer.load(MODEL, SET, "cpu"), tiny.PROMPT)
    folders = str(tmp_path / "model"), str(tmp_path / "set")
    from_folders = tracer.trace(tracer.load(*folders, "cpu"), tiny.PROMPT)
    assert from_hub.to_dense().equal(from_folders.to_dense())


def test_nothing_is_resolved_before_it_is_downloaded(published: HubServer) -> None:
    with pytest.raises(NotDownloadedError, match=f"^{MODEL} is not downloaded"):
        resolve(MODEL, SET)
    plans = missing(MODEL, SET)
    assert [plan.reference for plan in plans] == [MODEL, SET]
    assert all(plan.n_bytes > 0 for plan in plans)
    obtain(MODEL, SET)
    asked = len(published.requests)
    assert resolve(MODEL, SET).set_repository is not None
    assert missing(MODEL, SET) == []
    assert len(published.requests) == asked


def test_an_opened_commit_stays_pinned_until_an_update(
    published: HubServer, tmp_path: Path
) -> None:
    before = obtain(MODEL, SET)
    other = tiny.save_transcoders(tmp_path / "other", activation="relu")
    published.add(SET, other)
    assert obtain(MODEL, SET) == before
    after = obtain(MODEL, SET, update=True)
    assert after.revisions[SET] != before.revisions[SET]
    assert after.revisions[MODEL] == before.revisions[MODEL]
    assert after.fingerprint != before.fingerprint


def test_offline_with_a_filled_cache_works(
    published: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = tracer.trace(tracer.load(MODEL, SET, "cpu"), tiny.PROMPT)
    published.stop()
    monkeypatch.setenv("CIRCUIT_OFFLINE", "1")
    offline = tracer.trace(tracer.load(MODEL, SET, "cpu"), tiny.PROMPT)
    assert offline.to_dense().equal(expected.to_dense())


def test_offline_with_an_empty_cache_names_the_variable(
    published: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIRCUIT_OFFLINE", "1")
    with pytest.raises(HubError, match="CIRCUIT_OFFLINE"):
        tracer.load(MODEL, SET, "cpu")


def a_file(name: str, repo: str = MODEL) -> Path:
    return next((cache_folder() / f"models--{repo.replace('/', '--')}").glob(f"snapshots/*/{name}"))


def test_a_partly_filled_cache_is_completed_once_the_network_is_on(
    published: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another tool, or a cancelled download, leaves a cache with some of the files."""
    expected = tracer.trace(tracer.load(MODEL, SET, "cpu"), tiny.PROMPT)
    a_file("tokenizer.json").unlink()
    a_file("layer_2.safetensors", SET).unlink()
    monkeypatch.setenv("CIRCUIT_OFFLINE", "1")
    with pytest.raises(ModelError):
        tracer.load(MODEL, SET, "cpu")
    monkeypatch.delenv("CIRCUIT_OFFLINE")
    completed = tracer.trace(tracer.load(MODEL, SET, "cpu"), tiny.PROMPT)
    assert completed.to_dense().equal(expected.to_dense())
    asked = len(published.requests)
    obtain(MODEL, SET)
    assert len(published.requests) == asked


def test_a_complete_cache_without_notes_opens_while_the_hub_is_down(
    published: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """This happens on a machine that a filled cache was copied to."""
    obtain(MODEL, SET)
    monkeypatch.setenv("CIRCUIT_HOME", str(tmp_path / "another"))
    published.status = 503
    assert obtain(MODEL, SET).revisions == obtain(MODEL, SET).revisions
    published.status = None
    obtain(MODEL, SET)
    asked = len(published.requests)
    obtain(MODEL, SET)
    assert len(published.requests) == asked


@pytest.mark.parametrize("cause", ["busy", "off"])
def test_an_update_fails_when_the_hub_cannot_be_reached(
    published: HubServer, monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    before = obtain(MODEL, SET)
    if cause == "busy":
        published.status = 503
    else:
        monkeypatch.setenv("CIRCUIT_OFFLINE", "1")
    with pytest.raises(HubError, match="503" if cause == "busy" else "CIRCUIT_OFFLINE"):
        obtain(MODEL, SET, update=True)
    assert obtain(MODEL, SET) == before


def test_a_truncated_file_is_fetched_again_by_an_update(published: HubServer) -> None:
    before = obtain(MODEL, SET)
    for name, repo in (("model.safetensors", MODEL), ("config.yaml", SET)):
        a_file(name, repo).resolve().write_bytes(b"")
    with pytest.raises((ModelError, TranscoderError)):
        tracer.load(MODEL, SET, "cpu")
    assert obtain(MODEL, SET, update=True).revisions == before.revisions
    tracer.trace(tracer.load(MODEL, SET, "cpu"), tiny.PROMPT)


def test_a_deleted_configuration_is_fetched_again(published: HubServer) -> None:
    obtain(MODEL, SET)
    a_file("config.yaml", SET).unlink()
    with pytest.raises(NotDownloadedError):
        resolve(MODEL, SET)
    tracer.load(MODEL, SET, "cpu")


def test_a_repository_of_several_sets_names_them(hub: HubServer, tmp_path: Path) -> None:
    hub.add(MODEL, tiny.save_model(tmp_path / "model"))
    for width in ("16k", "262k"):
        tiny.save_transcoders(tmp_path / "sets" / f"width_{width}")
    hub.add("lab/several", tmp_path / "sets")
    with pytest.raises(
        TranscoderError, match=r"use lab/several/width_16k, lab/several/width_262k instead"
    ):
        obtain(MODEL, "lab/several")


def test_folders_that_are_files_are_reported_before_the_download(
    published: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    with monkeypatch.context() as changed:
        changed.setenv("CIRCUIT_HOME", str(tmp_path / "file"))
        with pytest.raises(CacheFolderError, match="set CIRCUIT_HOME to another folder"):
            obtain(MODEL, SET)
        assert not published.asked("model.safetensors")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "file" / "token"))
    with pytest.raises(CacheFolderError, match="set HF_HOME to a folder"):
        obtain(MODEL, SET)


def test_a_set_in_a_sub_folder_at_a_tag(hub: HubServer, tmp_path: Path) -> None:
    hub.add(MODEL, tiny.save_model(tmp_path / "model"))
    repo = tmp_path / "repo"
    tiny.save_transcoders(repo / "transcoder_all" / "width_16k")
    tiny.save_transcoders(repo / "other", activation="relu")
    hub.tag(SET, "v1", hub.add(SET, repo))
    model = tracer.load(MODEL, f"{SET}/transcoder_all/width_16k@v1", "cpu")
    assert model.transcoders[0].threshold is not None
    asked = [request.path for request in hub.requests if "/resolve/" in request.path]
    assert not any("other/" in path for path in asked)


@pytest.mark.parametrize("layout", ["Gemma Scope", "Gemma Scope 2"])
def test_a_set_whose_files_are_in_another_repository(
    hub: HubServer, tmp_path: Path, layout: str
) -> None:
    """`mntss/gemma-scope-transcoders` lists the files of Gemma Scope in this way."""
    hub.add(MODEL, tiny.save_model(tmp_path / "model"))
    folder = LAYOUTS[layout](tmp_path / "set")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["transcoders"] = [f"hf://lab/files/{path}" for path in config["transcoders"]]
    config["transcoders"][1] += "?revision=main"
    hub.add("lab/files", folder)
    hub.add(SET, {"config.yaml": yaml.safe_dump(config).encode()})
    model = tracer.load(MODEL, SET, "cpu")
    assert set(model.source.revisions) == {MODEL, SET, "lab/files"}
    plain = tracer.load(MODEL, str(folder), "cpu")
    expected = tracer.trace(plain, tiny.PROMPT).to_dense()
    assert tracer.trace(model, tiny.PROMPT).to_dense().equal(expected)


def test_a_listed_file_that_is_missing_is_named(hub: HubServer, tmp_path: Path) -> None:
    hub.add(MODEL, tiny.save_model(tmp_path / "model"))
    folder = LAYOUTS["Gemma Scope"](tmp_path / "set")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["transcoders"][2] = "layer_2/gone.npz"
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    hub.add(SET, folder)
    with pytest.raises(TranscoderError, match=rf"layer_2/gone\.npz, which is not in {SET} at"):
        tracer.load(MODEL, SET, "cpu")


def test_a_name_from_the_registry_opens(
    published: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {
        "models": [
            {"name": "small", "repo": MODEL, "sets": [{"name": "plain", "repo": SET}]},
        ]
    }
    path = tmp_path / "models.yaml"
    path.write_text(yaml.safe_dump(own))
    monkeypatch.setenv("CIRCUIT_MODELS", str(path))
    by_name = tracer.load("small", device="cpu")
    assert by_name.source.fingerprint == obtain("small", "plain").fingerprint
    assert by_name.source.fingerprint == obtain(MODEL, SET).fingerprint


def test_a_model_without_safetensors_is_refused(hub: HubServer, tmp_path: Path) -> None:
    folder = tiny.save_model(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    hub.add(MODEL, folder)
    hub.add(SET, tiny.save_transcoders(tmp_path / "set"))
    with pytest.raises(ModelError, match="can run code"):
        tracer.load(MODEL, SET, "cpu")
    assert not any("pytorch_model" in request.path for request in hub.requests)


@pytest.mark.parametrize(
    ("repo", "named"), [(MODEL, "has no config.json"), (SET, r"has no config\.yaml")]
)
def test_a_repository_without_a_model_or_a_set_is_named(
    published: HubServer, repo: str, named: str
) -> None:
    published.add(repo, {"README.md": b"a data set"})
    with pytest.raises((ModelError, TranscoderError), match=named):
        tracer.load(MODEL, SET, "cpu")


def test_an_adapter_on_the_hub_says_to_merge_it(hub: HubServer, tmp_path: Path) -> None:
    weights = {"adapter_config.json": "{}", "adapter_model.safetensors": b"x"}
    hub.add("lab/lora", weights)
    hub.add("lab/both", weights | {"config.json": "{}"})
    hub.add("lab/set", tiny.save_transcoders(tmp_path / "set"))
    for name in ("lab/lora", "lab/both"):
        with pytest.raises(ModelError, match=f"{name} is an adapter .* merge the adapter first"):
            obtain(name, "lab/set")


def test_a_gated_model_leaves_no_note(published: HubServer, tmp_path: Path) -> None:
    published.add(MODEL, tmp_path / "model", gated=True, token="good")
    with pytest.raises(HubError, match=f"{MODEL} is gated"):
        tracer.load(MODEL, SET, "cpu")
    assert downloads.known(MODEL) is None


def test_a_broken_download_is_resumed(published: HubServer) -> None:
    published.break_after("model.safetensors", 5000, times=1)
    tracer.load(MODEL, SET, "cpu")
    assert any(request.byte_range for request in published.requests)


def test_a_cancelled_download_leaves_no_note(published: HubServer) -> None:
    def stop(done: int, total: int, what: str) -> None:
        if done > 20_000:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        tracer.load(MODEL, SET, "cpu", progress=stop)
    assert downloads.known(MODEL) is None and downloads.known(SET) is None


def test_a_deleted_file_is_fetched_again(published: HubServer) -> None:
    source = obtain(MODEL, SET)
    (source.transcoder_folder / "layer_1.safetensors").unlink()
    with pytest.raises(NotDownloadedError):
        resolve(MODEL, SET)
    assert obtain(MODEL, SET).fingerprint == source.fingerprint


def test_weights_for_other_tools_are_not_downloaded(published: HubServer, tmp_path: Path) -> None:
    """Some repositories have their weights twice."""
    (tmp_path / "model" / "consolidated.safetensors").write_bytes(b"the same again")
    published.add(MODEL, tmp_path / "model")
    obtain(MODEL, SET)
    assert published.asked("model.safetensors") and not published.asked("consolidated")


def test_cached_files_count_as_done(published: HubServer) -> None:
    source = obtain(MODEL, SET)
    lost = source.transcoder_folder / "layer_1.safetensors"
    size = lost.stat().st_size
    lost.resolve().unlink()
    lost.unlink(missing_ok=True)
    reports: list[tuple[int, int, str]] = []
    obtain(MODEL, SET, lambda *report: reports.append(report))
    assert reports[0][0] >= reports[0][1] - size > 0
    assert reports[-1][0] == reports[-1][1]


@pytest.mark.parametrize(
    "note",
    [b"[" * 100_000, b"null", b"{", b'{"folder": 7}', b"\xff", b'{"commit": %s}' % (b"9" * 5000)],
)
def test_a_damaged_note_counts_as_none(published: HubServer, note: bytes) -> None:
    before = obtain(MODEL, SET)
    for path in paths.downloads().iterdir():
        path.write_bytes(note)
    assert downloads.known(MODEL) is None
    assert obtain(MODEL, SET) == before


def test_a_file_that_may_not_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, folder = tiny.save_model(tmp_path / "model"), tiny.save_transcoders(tmp_path / "set")
    opened = Path.open

    def refused(self: Path, *mode: Any, **more: Any) -> object:
        if self.name == "layer_1.safetensors":
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *mode, **more)

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(
        ModelError, match=r"layer_1\.safetensors cannot be read \(Permission denied"
    ):
        resolve(str(model), str(folder))
