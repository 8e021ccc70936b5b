"""What the pages say of work that outlasts a person's patience, and then ends badly."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from cache import ScenarioRequest
from cache.engine import TracerEngine
from pages.shared import progress as waiting
from pages.shared import resources
from tracer.errors import ModelError
from tracer.types import Progress

OFF = {
    "name": "Texas off",
    "edits": [{"feature": [1, 887], "start": 7, "stop": 8, "operation": "scale", "value": 0}],
    "freeze_attention": True,
    "constrained_layers": None,
}
MAIN = Path(__file__).resolve().parents[3] / "pages" / "shell" / "main.py"


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AppTest]:
    """The app, whose model cannot be opened; which takes longer to find out than a page waits."""
    opened: list[str] = []

    def load(self: TracerEngine, choice: object, progress: object) -> None:
        opened.append(str(choice))
        time.sleep(3 * waiting.PATIENCE)
        raise ModelError(f"layer 3 is missing, found at try {len(opened)}")

    monkeypatch.setenv("CIRCUIT_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(TracerEngine, "load", load)
    st.cache_resource.clear()
    yield AppTest.from_file(str(MAIN), default_timeout=60)
    st.cache_resource.clear()


def test_what_takes_long_to_fail_is_said_when_it_has_and_not_begun_again(app: AppTest) -> None:
    app.run()
    assert not app.error and not app.exception
    assert len(app.get("progress")) == 1
    for job in resources.backend().queue:
        job.wait(60)
    app.run()  # as the page does by itself once the work has ended
    assert [error.value for error in app.error] == ["Layer 3 is missing, found at try 1\\."]
    app.run()
    assert [error.value for error in app.error] == ["Layer 3 is missing, found at try 1\\."]


def test_a_slow_what_if_shows_how_far_it_is_and_comes_in_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenarios, bars = TracerEngine.scenarios, []

    def slow(self: TracerEngine, model: Any, request: ScenarioRequest, progress: Progress) -> Any:
        progress(1, 3, "scenarios")
        time.sleep(3 * waiting.PATIENCE)
        return scenarios(self, model, request, progress)

    bar = waiting.bar
    monkeypatch.setattr(
        waiting, "bar", lambda job, what="": (bars.append(job.progress), bar(job, what))
    )
    monkeypatch.setenv("CIRCUIT_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(TracerEngine, "scenarios", slow)
    st.cache_resource.clear()
    app = AppTest.from_file(str(MAIN), default_timeout=120)
    app.query_params["scenarios"] = json.dumps([OFF])
    app.run()
    for job in resources.backend().queue:  # the trace, watched by a fragment
        job.wait(120)
    bars.clear()
    app.switch_page(str(MAIN.parents[1] / "interventions" / "page.py")).run()
    assert not app.exception and not app.error
    assert (1, 3, "scenarios") in bars
    assert any("Unchanged" in heading.value for heading in app.markdown)
    assert not app.get("progress")
    st.cache_resource.clear()
