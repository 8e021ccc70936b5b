from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakes import FakeEngine, FakeFolders

from cache import Backend
from cache.store import Store


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
    """Opens the backend of one folder as often as a test likes: a restart each time."""
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
