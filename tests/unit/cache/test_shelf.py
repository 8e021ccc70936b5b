"""Downloads, examples and what is open, beside the work: nothing waits for anything else."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from fakes import FakeEngine, until
from feature_files import save_index
from hub_server import HubServer
from neuronpedia_server import NeuronpediaServer, feature

from cache import Backend, Job, Machine, ModelChoice, Published, TraceRequest
from cache.machine import Gpu
from cache.shelf import Shelf
from cache.store import Store
from tracer.errors import (
    Cancelled,
    ExplanationSilenceError,
    LicenceError,
    ModelError,
    RepositoryMissingError,
)
from tracer.explanations import Explanations
from tracer.features import FeatureIndex, Label
from tracer.sources import ModelSource, resolve
from tracer.types import FeatureId

BIG = bytes(range(256)) * 20_000  # 5 MB
MODEL, SET = "lab/model", "lab/set"
THERE = ModelChoice(MODEL, SET)
CONFIG = """
model_kind: transcoder_set
feature_input_hook: mlp.hook_in
feature_output_hook: mlp.hook_out
"""
DALLAS = TraceRequest("The capital of the state containing Dallas is")
F = FeatureId(0, 1)


@pytest.fixture
def backend(tmp_path: Path, engine: FakeEngine) -> Iterator[Backend]:
    """Finds what is really on this disk; runs nothing of it."""
    engine.folders = resolve
    backend = Backend(Store(tmp_path / "store"), engine, resolve)
    yield backend
    engine.let_go()
    backend.close(20)


@pytest.fixture
def shelf(backend: Backend) -> Shelf:
    return backend.shelf


@pytest.fixture
def published(hub: HubServer, tmp_path: Path) -> HubServer:
    """A model and a set with feature examples on the hub; nobody opens them, so bytes will do."""
    hub.add(MODEL, {"config.json": "{}", "model.safetensors": BIG})
    folder = save_index(tmp_path / "published")
    (folder / "config.yaml").write_text(CONFIG)
    (folder / "layer_0.safetensors").write_bytes(b"tensors")
    hub.add(SET, folder)
    return hub


def local_choice(root: Path) -> ModelChoice:
    """A model and an indexed set in folders of their own."""
    (root / "model").mkdir(parents=True)
    (root / "model" / "config.json").write_text("{}")
    (save_index(root / "set") / "config.yaml").write_text(CONFIG)
    return ModelChoice(str(root / "model"), str(root / "set"))


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def partial_bytes() -> list[int]:
    """Sizes of the files that have not arrived whole."""
    partial = Path(os.environ["HF_HUB_CACHE"]).glob("*/blobs/*.incomplete")
    return [path.stat().st_size for path in partial]


# Downloads


def test_a_download_runs_while_a_trace_runs_and_neither_waits_for_the_other(
    backend: Backend, engine: FakeEngine, published: HubServer
) -> None:
    quick = published.slow_after("model.safetensors", 2_000_000)
    download = backend.shelf.download(THERE)
    until(lambda: download.progress[0] > 1_000_000)
    backend.trace(DALLAS).result(10)
    assert download.state == "running"

    gate = engine.hold()
    trace = backend.trace(TraceRequest("another one"))
    gate.wait_until_reached()
    quick.set()
    assert download.result(10).revisions.keys() == {MODEL, SET}
    assert trace.state == "running"


def test_progress_is_in_bytes_of_all_files_together(shelf: Shelf, published: HubServer) -> None:
    assert not shelf.is_here(THERE)
    size = shelf.to_download(THERE).result(10)
    assert size == len(BIG) + len("{}") + len(b"tensors"), "the set's config is here: it was read"
    quick = published.slow_after("model.safetensors", 2_000_000)
    job = shelf.download(THERE)
    until(lambda: job.progress[0] > 1_000_000)
    done, total, what = job.progress
    assert total == size and done < size
    assert what == "downloading model.safetensors"
    assert shelf.downloads == (job,) and shelf.downloading(THERE) is job
    quick.set()
    source = job.result(10)
    assert (source.model_folder / "model.safetensors").read_bytes() == BIG
    assert job.progress[:2] == (size, size)
    assert shelf.downloads == () and shelf.downloading(THERE) is job
    assert shelf.is_here(THERE)
    assert shelf.to_download(THERE).result(10) == 0


def test_what_is_here_can_be_opened_and_what_is_nowhere_cannot(
    shelf: Shelf, tmp_path: Path
) -> None:
    assert shelf.is_here(ModelChoice()) and shelf.is_here(local_choice(tmp_path))
    assert not shelf.is_here(ModelChoice(str(tmp_path / "nowhere"), str(tmp_path / "set")))
    assert shelf.downloading(ModelChoice()) is None


def test_cancelling_keeps_what_has_arrived_and_the_next_download_goes_on_from_there(
    shelf: Shelf, published: HubServer
) -> None:
    quick = published.slow_after("model.safetensors", 2_000_000)
    job = shelf.download(THERE, "anna")
    until(lambda: job.progress[0] > 1_000_000)
    job.cancel("anna")
    with pytest.raises(Cancelled):
        job.result(10)
    assert not shelf.is_here(THERE)
    (kept,) = partial_bytes()
    assert kept > 1_000_000
    quick.set()
    source = shelf.download(THERE, "anna").result(10)
    assert (source.model_folder / "model.safetensors").read_bytes() == BIG
    assert published.asked("model.safetensors")[-1].byte_range == f"bytes={kept}-"


def test_closing_stops_a_download_keeps_what_has_arrived_and_leaves_no_thread(
    backend: Backend, published: HubServer
) -> None:
    before = threads()
    published.slow_after("model.safetensors", 2_000_000)
    job = backend.shelf.download(THERE, "anna")
    backend.shelf.download(THERE, "ben")
    backend.shelf.machine()
    backend.trace(DALLAS).result(10)
    until(lambda: job.progress[0] > 1_000_000)
    assert {"downloads", "errands", "worker"} <= threads()
    backend.close(20)
    assert job.state == "cancelled"
    assert not {"downloads", "errands", "worker"} & threads() - before
    (kept,) = partial_bytes()
    assert kept > 1_000_000


def test_the_same_download_for_two_sessions_runs_once_and_stops_when_both_cancel(
    shelf: Shelf, published: HubServer
) -> None:
    quick = published.slow_after("model.safetensors", 2_000_000)
    job = shelf.download(THERE, "anna")
    until(lambda: job.progress[0] > 1_000_000)
    assert shelf.download(THERE, "ben") is job
    narrow = ModelChoice(MODEL, SET, "bfloat16")
    assert shelf.download(narrow, "carl") is job, "the files are the same"
    for session in ("anna", "carl"):
        job.cancel(session)
    quick.set()
    assert job.result(10).revisions.keys() == {MODEL, SET}
    assert len(published.asked("model.safetensors")) == 1

    published.add(MODEL, {"config.json": "{}", "model.safetensors": BIG[:-1]})
    published.slow_after("model.safetensors", 2_000_000)
    again = shelf.download(THERE, "anna", update=True)
    shelf.download(THERE, "ben")
    until(lambda: again.progress[0] > 1_000_000)
    again.cancel("anna")
    again.cancel("ben")
    with pytest.raises(Cancelled):
        again.result(10)


def test_an_update_fetches_what_the_name_stands_for_now(shelf: Shelf, published: HubServer) -> None:
    before = shelf.download(THERE).result(10)
    commit = published.add(MODEL, {"config.json": "{}", "model.safetensors": BIG[::-1]})
    assert shelf.download(THERE).result(10) == before
    after = shelf.download(THERE, update=True).result(10)
    assert after.revisions == {MODEL: commit, SET: before.revisions[SET]}


def test_what_is_wrong_with_a_repository_is_the_error_of_the_job(
    shelf: Shelf, published: HubServer, tmp_path: Path
) -> None:
    missing = shelf.download(ModelChoice("lab/nowhere", SET))
    with pytest.raises(RepositoryMissingError, match="no model repository lab/nowhere"):
        missing.result(10)
    with pytest.raises(RepositoryMissingError):
        shelf.to_download(ModelChoice("lab/nowhere", SET)).result(10)
    published.add(MODEL, {"config.json": "{}", "model.safetensors": BIG}, gated=True, token="good")
    gated = shelf.download(THERE)
    with pytest.raises(LicenceError, match=f"{MODEL} is gated: accept its licence"):
        gated.result(10)
    with pytest.raises(ModelError, match="no model at"):
        shelf.download(ModelChoice(str(tmp_path / "nowhere"), SET)).result(10)
    assert {missing.state, gated.state} == {"failed"}
    published.add(MODEL, {"config.json": "{}", "model.safetensors": BIG})
    assert shelf.download(THERE).result(10).revisions.keys() == {MODEL, SET}


# What is open, and where


def test_what_was_opened_can_be_let_go(backend: Backend, engine: FakeEngine) -> None:
    shelf, choice = backend.shelf, ModelChoice()
    assert shelf.opened == ()
    backend.warm(choice).result(10)
    assert shelf.opened == (choice,)
    shelf.unload(choice)
    until(lambda: shelf.opened == ())
    backend.trace(DALLAS).result(10)
    assert engine.choices == [choice, choice]


def test_the_machine_is_told_at_once_and_its_device_when_somebody_has_looked(
    shelf: Shelf, engine: FakeEngine
) -> None:
    go_on = threading.Event()

    def look() -> Machine:
        go_on.wait(10)
        return Machine(1, 1, 1, "cuda", Gpu("fast", 80, 70))

    engine.look = look
    found = shelf.machine()
    assert not go_on.is_set() and (found.device, found.gpu) == ("", None)
    assert found.memory > found.free_memory > 1 and found.free_disk > 1
    go_on.set()
    until(lambda: shelf.machine().device == "cuda")
    found = shelf.machine()
    assert found.gpu == Gpu("fast", 80, 70) and found.room == 70
    assert found.memory > 1 and found.free_disk > 1, "as they are now, not as they were then"


def test_a_look_that_fails_costs_the_device_alone(shelf: Shelf, engine: FakeEngine) -> None:
    def look() -> Machine:
        raise ModelError("there is no device 'abacus'")

    engine.look = look
    for _ in range(2):
        assert shelf.machine().device == ""
        assert shelf.machine().memory > 0


def test_the_accelerator_is_looked_at_again_each_time(shelf: Shelf, engine: FakeEngine) -> None:
    free = iter(range(70, 0, -1))
    engine.look = lambda: Machine(1, 1, 1, "cuda", Gpu("fast", 80, next(free)))
    until(lambda: shelf.machine().gpu is not None)
    first = shelf.machine().room
    until(lambda: shelf.machine().room < first)


# What features fire on


def test_a_set_in_a_folder_is_read_from_there(
    shelf: Shelf, tmp_path: Path, neuronpedia: NeuronpediaServer, hub: HubServer
) -> None:
    choice = local_choice(tmp_path)
    reader = shelf.features(choice)
    assert isinstance(reader, FeatureIndex)
    assert reader.labels == {F: Label("letters", 0.9)}
    assert shelf.features(choice) is reader
    assert shelf.explain(choice, [F], "a") is None, "all there is to know is here"
    assert hub.requests == [] and neuronpedia.requests == []


def test_an_index_that_was_built_again_is_opened_again(shelf: Shelf, tmp_path: Path) -> None:
    choice = local_choice(tmp_path)
    before = shelf.features(choice)
    folder = tmp_path / "set" / "features"
    with gzip.open(folder / "labels.json.gz", "wt") as file:
        json.dump({"0": {"1": {"label": "towns", "precision": 0.8}}}, file)
    assert shelf.features(choice) is before
    later = (folder / "index.json.gz").stat().st_mtime_ns + 1_000_000
    os.utime(folder / "index.json.gz", ns=(later, later))
    assert shelf.features(choice).labels == {F: Label("towns", 0.8)}
    shutil.rmtree(folder)
    assert shelf.features(choice).card(F) is None


def test_a_set_that_is_not_here_has_no_features_to_read(shelf: Shelf, published: HubServer) -> None:
    with pytest.raises(ModelError, match="not downloaded"):
        shelf.features(THERE)


@pytest.fixture
def downloaded(shelf: Shelf, published: HubServer) -> ModelSource:
    return shelf.download(THERE).result(10)


def test_a_set_of_the_hub_is_explained_by_what_is_published_with_it(
    shelf: Shelf, published: HubServer, downloaded: ModelSource
) -> None:
    reader = shelf.features(THERE)
    assert isinstance(reader, Explanations)
    asked = len(published.requests)
    assert reader.cached_card(F) is None and reader.labels == {}
    assert len(published.requests) == asked
    job = shelf.explain(THERE, [F, FeatureId(0, 2), FeatureId(5, 5)], "a")
    assert job is not None and job.result(10) == 2
    assert job.progress == (3, 3, "feature examples")
    assert shelf.features(THERE) is reader
    card = reader.cached_card(F)
    assert card is not None and card.label == Label("letters", 0.9)


def test_each_key_is_fetched_once(
    shelf: Shelf, published: HubServer, downloaded: ModelSource
) -> None:
    first = shelf.explain(THERE, [F], "a")
    assert first is not None and first.result(10) == 1
    asked = len(published.requests)
    assert shelf.explain(THERE, [F], "a") is first
    assert shelf.explain(THERE, [FeatureId(0, 2)], "a") is first
    assert len(published.requests) == asked
    other = shelf.explain(THERE, [FeatureId(0, 2)], "b")
    assert other is not None and other is not first and other.result(10) == 1
    assert len(published.requests) == asked + 1


@pytest.mark.parametrize("pause", [0.0, 30.0])
def test_a_failed_fetch_is_tried_again_after_a_pause_and_not_before(
    shelf: Shelf,
    published: HubServer,
    downloaded: ModelSource,
    monkeypatch: pytest.MonkeyPatch,
    pause: float,
) -> None:
    monkeypatch.setattr("tracer.explanations.PAUSE", pause)
    published.status = 503
    failed = shelf.explain(THERE, [F], "a")
    assert failed is not None
    with pytest.raises(ExplanationSilenceError, match="cannot be fetched"):
        failed.result(10)
    published.status = None
    again = shelf.explain(THERE, [F], "a")
    assert again is not None
    if pause:
        assert again is failed
    else:
        assert again.result(10) == 1


def test_offline_nothing_is_fetched(
    shelf: Shelf,
    published: HubServer,
    downloaded: ModelSource,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CIRCUIT_OFFLINE", "1")
    asked = len(published.requests)
    assert shelf.explain(THERE, [F], "a") is None
    assert shelf.features(THERE).card(F) is None
    assert len(published.requests) == asked
    monkeypatch.delenv("CIRCUIT_OFFLINE")
    job = shelf.explain(THERE, [F], "a")
    assert job is not None and job.result(10) == 1


def test_after_a_restart_what_was_never_fetched_is_unknown_not_damaged(
    shelf: Shelf,
    engine: FakeEngine,
    published: HubServer,
    downloaded: ModelSource,
    tmp_path: Path,
) -> None:
    """Fetching one example brings the published index, which lies beside the tensors then."""
    job = shelf.explain(THERE, [F], "a")
    assert job is not None and job.result(10) == 1
    restarted = Backend(Store(tmp_path / "store"), engine, resolve)
    reader = restarted.shelf.features(THERE)
    known = reader.cached_card(F)
    assert known is not None and known.label == Label("letters", 0.9)
    assert reader.cached_card(FeatureId(0, 2)) is None
    assert reader.cached_name(FeatureId(0, 2)) == ""
    assert reader.card(FeatureId(0, 2)) is not None
    restarted.close(10)


def test_examples_that_were_downloaded_whole_are_read_offline(
    shelf: Shelf, published: HubServer, downloaded: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tracer import hub

    names = [f"features/{name}" for name in ("index.json.gz", "labels.json.gz", "layer_0.bin")]
    hub.fetch(hub.Reference(SET), names, commit=downloaded.revisions[SET])
    monkeypatch.setenv("CIRCUIT_OFFLINE", "1")
    card = shelf.features(THERE).card(F)
    assert card is not None and card.label == Label("letters", 0.9)


def test_an_index_built_here_for_a_set_of_the_hub_comes_first(
    shelf: Shelf, published: HubServer, downloaded: ModelSource
) -> None:
    before = shelf.features(THERE)
    asked = len(published.requests)
    save_index(downloaded.index_folder.parent)
    reader = shelf.features(THERE)
    assert reader is not before and reader.card(F) is not None
    assert len(published.requests) == asked


def listed_with_neuronpedia(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelChoice:
    """The published pair under a name of its own, with its place on Neuronpedia."""
    entry = {"name": "plain", "repo": SET, "neuronpedia": "model/set"}
    models = {"models": [{"name": "small", "repo": MODEL, "sets": [entry]}]}
    (tmp_path / "models.yaml").write_text(yaml.safe_dump(models))
    monkeypatch.setenv("CIRCUIT_MODELS", str(tmp_path / "models.yaml"))
    return ModelChoice("small", "plain")


def test_labels_come_from_neuronpedia_where_the_examples_have_none(
    shelf: Shelf,
    published: HubServer,
    neuronpedia: NeuronpediaServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    choice = listed_with_neuronpedia(tmp_path, monkeypatch)
    unlabelled = FeatureId(0, 2)
    neuronpedia.answers["model/0-set/2"] = feature()
    shelf.download(choice).result(10)
    job = shelf.explain(choice, [F, unlabelled], "a")
    assert job is not None and job.result(10) == 2
    assert neuronpedia.requests == ["model/0-set/2"]
    reader = shelf.features(choice)
    card = reader.cached_card(unlabelled)
    assert card is not None and card.label == Label("Texan cities", None)
    assert card.act_max == 4.0, "the examples are the hub's"
    assert reader.cached_name(F) == "letters"
    assert reader.cached_name(unlabelled) == "Texan cities"


def test_a_dictionary_of_neuronpedias_alone_is_read_and_fetched(
    shelf: Shelf, neuronpedia: NeuronpediaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = Published("model", "set")
    neuronpedia.answers["model/0-set/1"] = feature()
    reader = shelf.features(where)
    assert shelf.features(where) is reader is not shelf.features(Published("model", "other"))
    job = shelf.explain(where, [F], "a")
    assert job is not None and job.result(10) == 1
    assert reader.cached_name(F) == "Texan cities"
    other = shelf.explain(Published("model", "other"), [F], "a")
    assert other is not None and other.result(10) == 0
    monkeypatch.setenv("CIRCUIT_OFFLINE", "1")
    assert shelf.explain(where, [FeatureId(0, 2)], "b") is None


def test_a_long_fetch_does_not_hold_up_the_look_at_the_machine(
    shelf: Shelf, engine: FakeEngine, neuronpedia: NeuronpediaServer
) -> None:
    go_on = threading.Event()

    def hold(job: Job[None]) -> None:
        go_on.wait(10)

    shelf._errands.run("long", "long", hold)
    found = shelf.machine()
    assert not go_on.is_set() and found.memory > 0
    go_on.set()
    until(lambda: shelf.machine().device == "fake")
