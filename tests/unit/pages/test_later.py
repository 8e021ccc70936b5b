"""Parts that are drawn later: in which order, when, and not twice."""

from __future__ import annotations

from typing import Any

import pytest
from page_components import choose_node, listed
from streamlit.testing.v1 import AppTest

from cache import Job
from pages.shared import later, progress


def _page() -> None:
    import streamlit as st

    from pages.shared import later

    state = st.session_state
    later.begin()
    top = st.container()

    def part(name: str) -> None:
        state["drawn"] = [*state.get("drawn", []), name]
        st.write(name)

    later.draw_later(st.sidebar, lambda: part("sidebar"))
    later.draw_later(top, lambda: part("prompt"))
    later.draw_later(top, lambda: part("last"), last=True)
    if state.get("leaves"):
        st.stop()
    part("panel")
    later.draw_the_rest()
    later.draw_the_rest()


def test_what_was_asked_for_last_is_drawn_first_and_once() -> None:
    app = AppTest.from_function(_page).run()
    assert not app.exception
    assert app.session_state["drawn"] == ["panel", "prompt", "sidebar", "last"]
    assert [text.value for text in app.main.markdown] == ["prompt", "last", "panel"]
    assert [text.value for text in app.sidebar.markdown] == ["sidebar"]


def test_what_an_interrupted_run_left_is_not_drawn_by_the_next() -> None:
    app = AppTest.from_function(_page)
    app.session_state["leaves"] = True
    app.run()
    assert "drawn" not in app.session_state
    app.session_state["leaves"] = False
    app.run()
    assert app.session_state["drawn"] == ["panel", "prompt", "sidebar", "last"]


def _waiting_page() -> None:
    import streamlit as st

    from pages.shared import later, progress

    class Held:
        """A job that ends once the rest of the page is there."""

        state = "running"
        progress = (0, 0, "working")

        def wait(self, seconds: float) -> bool:
            return "rest" in st.session_state

    later.begin()
    later.draw_later(st.container(), lambda: st.session_state.update(rest=True))
    progress.wait_for(Held(), "slot")
    st.write("answer")


def test_a_wait_draws_the_rest_of_the_page_first() -> None:
    app = AppTest.from_function(_waiting_page, default_timeout=20).run()
    assert not app.exception
    assert app.session_state["rest"] is True
    assert app.markdown[-1].value == "answer"


def _identities(app: AppTest) -> dict[str, str]:
    """The identity of every widget that has a key, in the sidebar too."""
    widgets = [*app.button, *app.toggle, *app.slider, *app.text_area, *app.button_group]
    return {widget.key: widget.proto.id for widget in widgets if widget.key}


def test_a_part_keeps_its_identity_whenever_it_is_drawn(app: AppTest) -> None:
    before = _identities(app)
    choose_node(app, next(node for name, node in listed(app).items() if "about Texas" in name))
    after = _identities(app)
    both = before.keys() & after.keys()
    assert {"node threshold", "filter errors", "trace prompt"} <= both
    assert {key: after[key] for key in both} == {key: before[key] for key in both}


def test_a_part_drawn_in_a_wait_keeps_its_identity(
    app: AppTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _identities(app)
    drawn: list[bool] = []

    def impatient(job: Job[Any], slot: str, what: str = "", *, finish: bool = False) -> None:
        later.draw_the_rest()
        drawn.append(True)
        job.wait(60)

    monkeypatch.setattr(progress, "wait_for", impatient)
    choose_node(app, next(node for name, node in listed(app).items() if "about Texas" in name))
    after = _identities(app)
    both = before.keys() & after.keys()
    assert drawn and "embedded model: atlas" in both
    assert {key: after[key] for key in both} == {key: before[key] for key in both}
