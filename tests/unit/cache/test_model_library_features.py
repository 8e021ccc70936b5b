"""Feature cards: read from this disk, and fetched once from where they are published."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import time
from pathlib import Path

import pytest
import yaml
from fakes import FakeEngine
from feature_files import save_index
from hub_server import HubServer
from neuronpedia_server import NeuronpediaServer, feature
from published import MODEL, SET, THERE, local_choice

from cache import Backend, ModelChoice, Published
from cache.model_library import ModelLibrary
from cache.store import Store
from tracer.catalog.resolve import ModelSource, resolve
from tracer.errors import (
    NotDownloadedError,
    SourceUnavailableError,
)
from tracer.features.cards import FeatureIndex, Label
from tracer.features.lookup import FeatureLookup
from tracer.types import FeatureId

F = FeatureId(0, 1)


def test_a_set_in_a_folder_is_read_from_there(
    library: ModelLibrary, tmp_path: Path, neuronpedia: NeuronpediaServer, hub: HubServer
) -> None:
    choice = local_choice(tmp_path)
    reader = library.features(choice)
    assert isinstance(reader, FeatureIndex)
    assert reader.labels == {F: Label("letters", 0.9)}
    assert library.features(choice) is reader
    assert library.explain(choice, [F], "a") is None, "everything is on this disk"
    assert hub.requests == [] and neuronpedia.requests == []


def test_a_rebuilt_index_is_opened_again(library: ModelLibrary, tmp_path: Path) -> None:
    choice = local_choice(tmp_path)
    before = library.features(choice)
    folder = tmp_path / "set" / "features"
    with gzip.open(folder / "labels.json.gz", "wt") as file:
        json.dump({"0": {"1": {"label": "towns", "precision": 0.8}}}, file)
    assert library.features(choice) is before
    later = (folder / "index.json.gz").stat().st_mtime_ns + 1_000_000
    os.utime(folder / "index.json.gz", ns=(later, later))
    assert library.features(choice).labels == {F: Label("towns", 0.8)}
    shutil.rmtree(folder)
    assert library.features(choice).card(F) is None


def test_a_set_that_is_not_downloaded_has_no_features(
    library: ModelLibrary, published: HubServer
) -> None:
    with pytest.raises(NotDownloadedError):
        library.features(THERE)


@pytest.fixture
def downloaded(library: ModelLibrary, published: HubServer) -> ModelSource:
    return library.download(THERE).result(10)


def test_examples_come_from_the_repository_of_the_set(
    library: ModelLibrary, published: HubServer, downloaded: ModelSource
) -> None:
    reader = library.features(THERE)
    assert isinstance(reader, FeatureLookup)
    asked = len(published.requests)
    assert reader.cached_card(F) is None and reader.labels == {}
    assert len(published.requests) == asked
    job = library.explain(THERE, [F, FeatureId(0, 2), FeatureId(5, 5)], "a")
    assert job is not None and job.result(10) == 2
    assert job.progress == (3, 3, "feature examples")
    assert library.features(THERE) is reader
    card = reader.cached_card(F)
    assert card is not None and card.label == Label("letters", 0.9)


def test_each_key_is_fetched_once(
    library: ModelLibrary,
    published: HubServer,
    downloaded: ModelSource,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tracer.features.lookup.PAUSE", 0.0)
    first = library.explain(THERE, [F], "a")
    assert first is not None and first.result(10) == 1
    asked = len(published.requests)
    assert library.explain(THERE, [F], "a") is first
    assert library.explain(THERE, [FeatureId(0, 2)], "a") is first
    assert len(published.requests) == asked
    other = library.explain(THERE, [FeatureId(0, 2)], "b")
    assert other is not None and other is not first and other.result(10) == 1
    assert len(published.requests) == asked + 1


@pytest.mark.parametrize("pause", [0.0, 30.0])
def test_evicted_examples_are_fetched_again_after_the_pause(
    library: ModelLibrary,
    published: HubServer,
    downloaded: ModelSource,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    pause: float,
) -> None:
    monkeypatch.setattr("tracer.features.lookup.PAUSE", pause)
    first = library.explain(THERE, [F], "a")
    assert first is not None and first.result(10) == 1
    reader = library.features(THERE)
    for kept in (tmp_path / "circuit_home" / "explanations").rglob("*.bin"):
        kept.unlink()
    assert reader.cached_card(F) is None
    again = library.explain(THERE, [F], "a")
    assert again is not None and again.result(10) == 1
    assert (again is first, reader.cached_card(F) is None) == (
        (True, True) if pause else (False,) * 2
    )


@pytest.mark.parametrize("pause", [0.0, 30.0])
def test_a_failed_fetch_is_tried_again_after_the_pause(
    library: ModelLibrary,
    published: HubServer,
    downloaded: ModelSource,
    monkeypatch: pytest.MonkeyPatch,
    pause: float,
) -> None:
    monkeypatch.setattr("tracer.features.lookup.PAUSE", pause)
    published.status = 503
    failed = library.explain(THERE, [F], "a")
    assert failed is not None
    with pytest.raises(SourceUnavailableError):
        failed.result(10)
    published.status = None
    again = library.explain(THERE, [F], "a")
    assert again is not None
    if pause:
        assert again is failed
    else:
        assert again.result(10) == 1


def test_offline_nothing_is_fetched(
    library: ModelLibrary,
    published: HubServer,
    downloaded: ModelSource,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CIRCUIT_OFFLINE", "1")
    asked = len(published.requests)
    assert library.explain(THERE, [F], "a") is None
    assert library.features(THERE).card(F) is None
    assert len(published.requests) == asked
    monkeypatch.delenv("CIRCUIT_OFFLINE")
    job = library.explain(THERE, [F], "a")
    assert job is not None and job.result(10) == 1


def test_after_a_restart_features_never_fetched_are_unknown_not_damaged(
    library: ModelLibrary,
    engine: FakeEngine,
    published: HubServer,
    downloaded: ModelSource,
    tmp_path: Path,
) -> None:
    """Fetching one example also fetches the published index, next to the tensors."""
    job = library.explain(THERE, [F], "a")
    assert job is not None and job.result(10) == 1
    restarted = Backend(Store(tmp_path / "store"), engine, resolve)
    reader = restarted.library.features(THERE)
    known = reader.cached_card(F)
    assert known is not None and known.label == Label("letters", 0.9)
    assert reader.cached_card(FeatureId(0, 2)) is None
    assert reader.cached_name(FeatureId(0, 2)) == ""
    assert reader.card(FeatureId(0, 2)) is not None
    restarted.close(10)


def test_completely_downloaded_examples_are_read_offline(
    library: ModelLibrary,
    published: HubServer,
    downloaded: ModelSource,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tracer import hub

    names = [f"features/{name}" for name in ("index.json.gz", "labels.json.gz", "layer_0.bin")]
    hub.fetch(hub.Reference(SET), names, commit=downloaded.revisions[SET])
    monkeypatch.setenv("CIRCUIT_OFFLINE", "1")
    card = library.features(THERE).card(F)
    assert card is not None and card.label == Label("letters", 0.9)


def test_an_index_built_here_comes_before_the_published_one(
    library: ModelLibrary, published: HubServer, downloaded: ModelSource
) -> None:
    before = library.features(THERE)
    asked = len(published.requests)
    save_index(downloaded.index_folder.parent)
    reader = library.features(THERE)
    assert reader is not before and reader.card(F) is not None
    assert len(published.requests) == asked


def listed_with_neuronpedia(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelChoice:
    """List the published pair under a new name, with its source set on Neuronpedia."""
    entry = {"name": "plain", "repo": SET, "neuronpedia": "model/set"}
    models = {"models": [{"name": "small", "repo": MODEL, "sets": [entry]}]}
    (tmp_path / "models.yaml").write_text(yaml.safe_dump(models))
    monkeypatch.setenv("CIRCUIT_MODELS", str(tmp_path / "models.yaml"))
    return ModelChoice("small", "plain")


def test_labels_come_from_neuronpedia_when_the_examples_have_none(
    library: ModelLibrary,
    published: HubServer,
    neuronpedia: NeuronpediaServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    choice = listed_with_neuronpedia(tmp_path, monkeypatch)
    unlabelled = FeatureId(0, 2)
    neuronpedia.answers["model/0-set/2"] = feature()
    library.download(choice).result(10)
    job = library.explain(choice, [F, unlabelled], "a")
    assert job is not None and job.result(10) == 2
    assert neuronpedia.requests == ["model/0-set/2"]
    reader = library.features(choice)
    card = reader.cached_card(unlabelled)
    assert card is not None and card.label == Label("Texan cities", None)
    assert card.act_max == 4.0, "the examples are the hub's"
    assert reader.cached_name(F) == "letters"
    assert reader.cached_name(unlabelled) == "Texan cities"


def test_a_set_that_is_only_on_neuronpedia_is_read_and_fetched(
    library: ModelLibrary, neuronpedia: NeuronpediaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = Published(("model", "set"))
    neuronpedia.answers["model/0-set/1"] = feature()
    reader = library.features(where)
    assert library.features(where) is reader is not library.features(Published(("model", "other")))
    job = library.explain(where, [F], "a")
    assert job is not None and job.result(10) == 1
    assert reader.cached_name(F) == "Texan cities"
    other = library.explain(Published(("model", "other")), [F], "a")
    assert other is not None and other.result(10) == 0
    monkeypatch.setenv("CIRCUIT_OFFLINE", "1")
    assert library.explain(where, [FeatureId(0, 2)], "b") is None


def test_names_are_looked_up_without_looking_at_the_files_each_time(
    library: ModelLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    real = library._resolve

    def counted(model: str, transcoders: str) -> ModelSource:
        looks.append(model)
        return real(model, transcoders)

    monkeypatch.setattr(library, "_resolve", counted)
    first = library.recent_source(ModelChoice())
    assert all(library.recent_source(ModelChoice()) == first for _ in range(5))
    assert library.features(ModelChoice()) is library.features(ModelChoice())
    assert looks == ["atlas"]
    assert library.source(ModelChoice()) == first and len(looks) == 2  # the files themselves
    library._sources.expire(time.monotonic() + 1)
    library.recent_source(ModelChoice())
    assert len(looks) == 3  # half a second later
    with pytest.raises(NotDownloadedError):
        library.recent_source(THERE)
    with pytest.raises(NotDownloadedError):
        library.recent_source(THERE)
    assert len(looks) == 5  # what was missing may be there now
