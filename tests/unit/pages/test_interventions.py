"""The Interventions and Compare pages without a browser: errors stay where they belong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from cache import Backend, StoreError
from pages.interventions import editor
from pages.shared import resources
from pages.shared import session as session_module
from pages.shared.session import read_session
from pages.shared.session_state import Session
from tracer.errors import TracerError
from tracer.interventions.scenario import Scenario, edit_all
from tracer.types import NodeId

PAGES = Path(__file__).resolve().parents[3] / "pages"
TEXAS = NodeId("feature", 1, 7, 887)


def visit(app: AppTest, page: str) -> AppTest:
    app.switch_page(str(PAGES / page / "page.py")).run()
    assert not app.exception
    return app


def fail(error: TracerError) -> Any:
    def failing(*args: object, **kwargs: object) -> None:
        raise error

    return failing


def test_a_suggestion_that_cannot_be_made_is_left_out(
    traced: AppTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert any(button.key == "suggest swap" for button in visit(traced, "interventions").button)
    monkeypatch.setattr(editor, "_groups_of", fail(TracerError("the trace failed")))
    labels = [button.label for button in visit(traced, "interventions").button]
    assert not any("Replace" in label for label in labels)
    assert any("Steer against" in label for label in labels)


def test_a_damaged_feature_card_is_a_warning(
    traced: AppTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "card", fail(TracerError("the record is damaged")))
    app = visit(traced, "interventions")
    app.text_input(key="feature search").set_value("L1/887").run()
    assert not app.exception
    assert [warning.value for warning in app.warning] == ["The record is damaged\\."]
    app.button(key="add found").click().run()
    assert len(app.session_state["session"].scenarios) == 1


def test_edits_for_a_column_that_was_removed_go_into_a_new_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = {"session": Session(), "target here": "2: gone"}
    monkeypatch.setattr(session_module.st, "session_state", state)
    editor._add("off", edit_all([TEXAS], "scale", 0.0), "target here")
    assert read_session().scenarios == (Scenario("off", edit_all([TEXAS], "scale", 0.0)),)


def test_compare_works_without_the_library(
    traced: AppTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backend, "stored", fail(StoreError("the store could not be read")))
    app = visit(traced, "compare")
    assert any("store could not be read" in warning.value for warning in app.warning)
    assert any("in both graphs" in caption.value for caption in app.caption)
