"""Heads on the Interventions page, on the embedded model."""

from __future__ import annotations

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from tracer.interventions.scenario import Scenario

PAGES = Path(__file__).resolve().parents[3] / "pages"


def scenarios(app: AppTest) -> tuple[Scenario, ...]:
    return tuple(app.session_state["session"].scenarios)


def test_a_head_is_switched_off_next_to_a_random_one(traced: AppTest) -> None:
    app = traced.switch_page(str(PAGES / "interventions" / "page.py")).run()
    assert not app.exception
    app.selectbox(key="head").set_value("L4 H0").run()
    app.button(key="add head").click().run()
    assert not app.exception
    first, control = scenarios(app)
    assert [edit.label for edit in first.head_edits] == ["L4 H0 off"]
    assert control.head_edits[0].operation == "off" and control.name.startswith("Control")
    assert (control.head_edits[0].layer, control.head_edits[0].head) != (4, 0)
    assert any("off: head L4 H0" in caption.value.replace("\\", "") for caption in app.caption)
    assert any("KL divergence" in caption.value for caption in app.caption)

    app.segmented_control(key="head operation").set_value("Take pairs out").run()
    app.toggle(key="head control").set_value(False).run()
    assert any("from “is” to “Dallas”" in caption.value for caption in app.caption)
    app.button(key="add head").click().run()
    pairs = scenarios(app)[2].head_edits[0]
    assert (pairs.query, pairs.key) == (8, 7)
    assert pairs.value == pytest.approx(-0.947, abs=0.01)

    app.segmented_control(key="head operation").set_value("Freeze its pattern").run()
    app.selectbox(key="target head").set_value(app.selectbox(key="target head").options[1]).run()
    app.button(key="add head").click().run()
    assert [edit.operation for edit in scenarios(app)[0].head_edits] == ["off", "freeze"]
    assert len(scenarios(app)) == 3 and not app.exception
