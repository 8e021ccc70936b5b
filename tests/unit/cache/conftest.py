"""Backends on fake engines, and on the models that are really on this disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakes import FakeEngine, FakeFolders
from hub_server import HubServer
from published import publish

from cache import Backend
from cache.model_library import ModelLibrary
from cache.store import Store
from tracer.catalog.resolve import resolve


@pytest.fixture
def folders() -> FakeFolders:
    return FakeFolders()


@pytest.fixture
def engine(folders: FakeFolders) -> FakeEngine:
    return FakeEngine(folders)


@pytest.fixture
def open_again(
    tmp_path: Path, engine: FakeEngine, folders: FakeFolders
) -> Iterator[Callable[[], Backend]]:
    """Open a backend in the same folder as often as a test likes, as a restart would."""
    opened: list[Backend] = []

    def open_one() -> Backend:
        backend = Backend(Store(tmp_path / "store"), engine, folders)
        opened.append(backend)
        return backend

    yield open_one
    engine.let_go()
    for backend in opened:
        backend.close(10)


@pytest.fixture
def backend(open_again: Callable[[], Backend]) -> Backend:
    return open_again()


@pytest.fixture
def backend_here(tmp_path: Path, engine: FakeEngine) -> Iterator[Backend]:
    """A backend that finds the real models on this disk but runs none of them."""
    engine.folders = resolve
    backend = Backend(Store(tmp_path / "store"), engine, resolve)
    yield backend
    engine.let_go()
    backend.close(20)


@pytest.fixture
def library(backend_here: Backend) -> ModelLibrary:
    return backend_here.library


@pytest.fixture
def published(hub: HubServer, tmp_path: Path) -> HubServer:
    """A Hub with ``published.MODEL`` and ``published.SET``."""
    publish(hub, tmp_path / "published")
    return hub
