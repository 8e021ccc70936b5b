"""The app without a browser, on the embedded model, with a store of its own for each test file."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import streamlit as st
from streamlit.components.v2 import manifest_scanner
from streamlit.testing.v1 import AppTest

from pages.shared import resources

MAIN = Path(__file__).resolve().parents[3] / "pages" / "shell" / "main.py"


@pytest.fixture(scope="session", autouse=True)
def once_in_a_process() -> Iterator[None]:
    """Do once what the app does once in the life of a server, and a test with every new app.

    Streamlit reads the metadata of every installed package, the app collects garbage.
    """
    with pytest.MonkeyPatch.context() as patch:
        for place, name in (
            (manifest_scanner, "scan_component_manifests"),
            (resources, "collect_once"),
        ):
            patch.setattr(place, name, cache(getattr(place, name)))
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An empty store, which the tests of a file share."""
    patch = pytest.MonkeyPatch()
    patch.setenv("CIRCUIT_STORE", str(tmp_path_factory.mktemp("pages") / "store"))
    st.cache_resource.clear()
    yield
    resources.backend().close(30)  # a trace that runs while the interpreter ends would abort it
    patch.undo()
    st.cache_resource.clear()


@pytest.fixture
def app(store: None) -> AppTest:
    """The app with its first graph drawn; loading the model takes seconds."""
    test = AppTest.from_file(str(MAIN), default_timeout=60)
    for _ in range(60):
        test.run()
        assert not test.exception
        if any("nodes shown" in caption.value for caption in test.caption):
            return test
    pytest.fail("the first graph was never drawn")


@pytest.fixture(scope="module")
def traced(store: None) -> AppTest:
    """The app, which has traced its first prompt; the tests of a file share it."""
    app = AppTest.from_file(str(MAIN), default_timeout=60).run()
    for job in resources.backend().queue:
        job.wait(60)
    return app.run()
