"""Sets as sparsify and SAELens publish them open from the Hub, as they do from a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from hub_server import HubServer
from other_tools import saelens, sparsify

import tracer
from tracer.__main__ import main
from tracer.catalog.downloads import plan_set
from tracer.catalog.feature_counts import features_here, features_planned
from tracer.catalog.resolve import missing, obtain, resolve
from tracer.errors import NotDownloadedError, TranscoderError

MODEL, SET = "lab/tiny", "lab/skip-transcoder"
N_FEATURES = 24


@pytest.mark.parametrize("write", [sparsify, saelens])
@pytest.mark.parametrize("sub", ["", "sets/small"])
def test_such_a_set_opens_from_the_hub_with_the_same_numbers(
    write: Callable[[Path], Path], sub: str, hub: HubServer, tmp_path: Path
) -> None:
    model, folder = tiny.save_model(tmp_path / "model"), tmp_path / "repo" / sub
    write(folder)
    (tmp_path / "repo" / "README.md").write_text("other files are not fetched")
    hub.add(MODEL, model)
    hub.add(SET, tmp_path / "repo")
    name = f"{SET}/{sub}" if sub else SET
    with pytest.raises(NotDownloadedError):
        resolve(MODEL, name)
    (plan,) = [plan for plan in missing(MODEL, name) if plan.reference == name]
    assert features_planned(plan) == N_FEATURES
    tensors = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    settings = sum(file.stat().st_size for file in folder.rglob("cfg.json"))
    assert plan.n_bytes == tensors + settings
    graph = tracer.trace(tracer.load(MODEL, name, "cpu"), tiny.PROMPT)
    expected = tracer.trace(tracer.load(str(model), str(folder), "cpu"), tiny.PROMPT)
    assert graph.to_dense().equal(expected.to_dense()) and graph.n_edges > 100
    assert set(graph.provenance["revisions"]) == {MODEL, SET}
    assert not any(request.path.endswith("README.md") for request in hub.requests)
    asked = len(hub.requests)
    source = resolve(MODEL, name)
    assert missing(MODEL, name) == [] and len(hub.requests) == asked
    assert features_here(source) == features_here(resolve(str(model), str(folder))) == N_FEATURES


def test_a_set_of_another_kind_is_refused_before_its_tensors_are_fetched(
    hub: HubServer, tmp_path: Path
) -> None:
    hub.add(MODEL, tiny.save_model(tmp_path / "model"))
    hub.add(SET, sparsify(tmp_path / "set", transcode=False))
    with pytest.raises(TranscoderError, match="is a sparse autoencoder, which reconstructs what"):
        obtain(MODEL, SET)
    assert not any("safetensors" in r.path for r in hub.requests if r.path.startswith("/" + SET))


def test_a_layer_that_is_missing_on_the_hub_is_named(hub: HubServer, tmp_path: Path) -> None:
    folder = saelens(tmp_path / "set")
    next((folder / "blocks.1").rglob("*.safetensors")).unlink()
    hub.add(SET, folder)
    with pytest.raises(TranscoderError, match=r"has transcoders for layers 0, 2: expected one for"):
        plan_set(SET)


def test_a_deleted_file_of_such_a_set_is_fetched_again(hub: HubServer, tmp_path: Path) -> None:
    hub.add(MODEL, tiny.save_model(tmp_path / "model"))
    hub.add(SET, sparsify(tmp_path / "set"))
    source = obtain(MODEL, SET)
    assert source.transcoder_files is not None
    source.transcoder_files[1].unlink()
    assert [plan.reference for plan in missing(MODEL, SET)] == [SET]
    assert obtain(MODEL, SET).transcoder_files == source.transcoder_files
    assert source.transcoder_files[1].is_file()


def test_the_command_line_downloads_and_traces_one(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.add(MODEL, tiny.save_model(tmp_path / "model"))
    hub.add(SET, saelens(tmp_path / "set"))
    names = ["--model", MODEL, "--transcoders", SET, "--device", "cpu"]
    assert main(["trace", *names, "--json", tiny.PROMPT]) == 0
    assert json.loads(capsys.readouterr().out)["provenance"]["transcoders"] == SET
