"""A broken disk or catalogue is a `StoreError` of one sentence, or costs only the stored copy."""

from __future__ import annotations

import inspect
import logging
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeEngine, FakeFolders
from small_graphs import make_graph

from cache import Annotations, Backend, ModelChoice, ScenarioRequest, StoreError, TraceRequest
from cache.model_library import ModelLibrary
from cache.request import InterveneRequest
from cache.store import Store
from tracer.errors import ModelError, TracerError
from tracer.types import FeatureId

DALLAS = TraceRequest("The capital of the state containing Dallas is")
KEY = "a" * 32
Call = Callable[[Backend], Any]

RAISES: dict[str, Call] = {
    "key_of": lambda backend: backend.key_of(DALLAS),
    "stored": lambda backend: backend.stored(),
    "use": lambda backend: backend.use(),
    "damaged": lambda backend: backend.damaged(),
    "graph_key_of": lambda backend: backend.graph_key_of(KEY),
    "forget": lambda backend: backend.forget(KEY),
    "export_graph": lambda backend: backend.export_graph(KEY),
    "annotate": lambda backend: backend.annotate(KEY, title="Dallas"),
    "annotations": lambda backend: backend.annotations(KEY),
    "save_annotations": lambda backend: backend.save_annotations(KEY, Annotations()),
    "remember_run": lambda backend: backend.remember_run(KEY, (), "summary"),
    "runs": lambda backend: backend.runs(KEY),
    "import_graph": lambda backend: backend.import_graph(b"{", "x.json").result(10),
}
"""Calls that need the catalogue."""
WORKS: dict[str, Call] = {
    "graph": lambda backend: backend.graph(KEY),
    "pruned": lambda backend: backend.pruned(KEY),
    "trace": lambda backend: backend.trace(DALLAS).result(10),
    "intervene": lambda backend: backend.intervene(InterveneRequest("a b", ())).result(10),
    "scenarios": lambda backend: backend.scenarios(ScenarioRequest("a b", ())).result(10),
    "token": lambda backend: backend.token(ModelChoice(), " Austin").result(10),
    "diagnostics": lambda backend: backend.diagnostics(),
    "warm": lambda backend: backend.warm(ModelChoice()).result(10),
}
"""Calls that work without the store."""
NO_STORE = {
    "close",
    "device",
    "device_name",
    "devices",
    "forecast",
    "imports",
    "may_take_long",
    "queue",
    "set_device",
    "store_problem",
    "withdraw",
    "watch_visitors",
    "retry",
    "trace_on",
    "serve_health",
    "health",
}


class BrokenConnection:
    """A database on a disk that fails."""

    def execute(self, *statement: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    def close(self) -> None:
        """Close nothing."""


@pytest.fixture
def broken(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Backend:
    file = backend.store._catalogue._file
    for name in ("_db", "_reader", "_notes"):
        getattr(file, name).close()
        monkeypatch.setattr(file, name, BrokenConnection())
    monkeypatch.setattr(file, "_opened", [])
    monkeypatch.setattr("cache.backend.read_upload", lambda content, name, check: imported())
    return backend


def imported() -> Any:
    from cache.graph_files import ImportedGraph

    return ImportedGraph(KEY, make_graph(), "title", Annotations(), b"{}")


def public_names(owner: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(owner) if not name.startswith("_")}


def test_every_public_method_of_the_backend_is_tested_here() -> None:
    assert public_names(Backend) == RAISES.keys() | WORKS.keys() | NO_STORE


@pytest.mark.parametrize("name", RAISES)
def test_a_broken_catalogue_is_one_sentence(broken: Backend, name: str) -> None:
    with pytest.raises(StoreError) as caught:
        RAISES[name](broken)
    message = str(caught.value)
    assert "(disk I/O error): check the store in" in message
    assert "\n" not in message and not message.endswith(".")


@pytest.mark.parametrize("name", WORKS)
def test_work_continues_without_the_store_and_the_log_says_so(
    broken: Backend, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        WORKS[name](broken)
    assert ("disk I/O error" in caplog.text) == (name in ("graph", "pruned", "trace"))


def test_a_closed_store_is_one_sentence(tmp_path: Path, engine: FakeEngine) -> None:
    backend = Backend(Store(tmp_path), engine)
    backend.close(10)
    for call in (RAISES["stored"], RAISES["damaged"], RAISES["annotate"]):
        with pytest.raises(StoreError, match=r"closed database\): check the store"):
            call(backend)


def test_text_that_sqlite_cannot_hold_is_one_sentence(backend: Backend) -> None:
    """A lone surrogate, as a browser can send, has no UTF-8 form."""
    for call in (
        lambda: backend.annotate(KEY, title="\ud800"),
        lambda: backend.runs("\ud800"),
        lambda: backend.remember_run(KEY, (), "\ud800"),
    ):
        with pytest.raises(StoreError, match="surrogates not allowed"):
            call()
    assert backend.graph("\ud800") is None


def test_a_disk_that_refuses_to_be_measured_is_one_sentence(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path, pattern: str) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(Path, "glob", refuse)
    with pytest.raises(StoreError, match=r"could not be measured \(.*Permission denied"):
        backend.use()


def test_a_full_disk_costs_the_copy_not_the_graph(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with caplog.at_level(logging.WARNING):
        graph = backend.trace(DALLAS).result(10)
    assert "a graph could not be saved ([Errno 28] No space left" in caplog.text
    assert backend.trace(DALLAS).result(10) is graph
    assert backend.stored() == ()


class UnreadableFolders(FakeFolders):
    """Models whose folders this user may not read."""

    def __call__(self, model: str, transcoders: str | None = None) -> Any:
        raise PermissionError(13, "Permission denied", f"/models/{model}")


@pytest.fixture
def unreadable(tmp_path: Path) -> Any:
    folders = UnreadableFolders()
    backend = Backend(Store(tmp_path / "store"), FakeEngine(folders), folders)
    yield backend
    backend.close(10)


@pytest.mark.parametrize("name", ["trace", "intervene", "scenarios", "token", "warm"])
def test_a_model_folder_that_cannot_be_read_fails_the_job(unreadable: Backend, name: str) -> None:
    with pytest.raises(ModelError, match=r"files of atlas cannot be read \(.*Permission denied"):
        WORKS[name](unreadable)


LIBRARY: dict[str, Callable[[ModelLibrary], Any]] = {
    "source": lambda library: library.source(ModelChoice()),
    "recent_source": lambda library: library.recent_source(ModelChoice()),
    "machine": lambda library: library.machine(),
    "devices": lambda library: library.devices(),
    "set_device": lambda library: library.set_device("cpu"),
    "opened": lambda library: library.opened,
    "unload": lambda library: library.unload(ModelChoice()),
    "features_here": lambda library: library.features_here(ModelChoice()),
    "is_here": lambda library: library.is_here(ModelChoice()),
    "to_download": lambda library: library.to_download(ModelChoice()).result(10),
    "download": lambda library: library.download(ModelChoice()).result(10),
    "downloading": lambda library: library.downloading(ModelChoice()),
    "downloads": lambda library: library.downloads,
    "features": lambda library: library.features(ModelChoice()),
    "explain": lambda library: library.explain(ModelChoice(), [FeatureId(0, 1)], "a"),
    "names": lambda library: library.names(make_graph()),
    "close": lambda library: library.close(10),
}


def test_every_public_method_of_the_library_is_tested_here() -> None:
    assert public_names(ModelLibrary) == LIBRARY.keys()


@pytest.mark.parametrize("name", LIBRARY)
def test_the_library_raises_no_error_of_the_disk(
    unreadable: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("shutil.disk_usage", refuse)
    monkeypatch.setattr("cache.model_library.obtain", refuse)
    monkeypatch.setattr("cache.model_library.missing", refuse)
    unreadable.warm(ModelChoice())
    try:
        LIBRARY[name](unreadable.library)
    except TracerError as error:
        assert "Permission denied" in str(error) and "\n" not in str(error)
    assert unreadable.key_of(DALLAS) is None


def test_a_feature_index_that_cannot_be_read_is_one_sentence(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: object) -> None:
        raise PermissionError(13, "Permission denied", "index.json.gz")

    monkeypatch.setattr("cache.model_library.feature_lookup", refuse)
    with pytest.raises(TracerError, match=r"feature index in .* cannot be read \(.*denied"):
        backend.library.features(ModelChoice())
    graph = make_graph()
    graph.provenance.update(transcoders="per-layer")
    assert backend.library.names(graph) == {}
