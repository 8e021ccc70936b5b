"""The Trace page without a browser, on the embedded model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from page_components import choose_node, listed
from streamlit.testing.v1 import AppTest

MAIN = Path(__file__).resolve().parents[3] / "pages" / "shell" / "main.py"


def caption_with(app: AppTest, words: str) -> str:
    return next(caption.value for caption in app.caption if words in caption.value)


def button(app: AppTest, words: str):
    return next(button for button in app.button if words in button.label)


def choose_texas(app: AppTest) -> None:
    choose_node(app, next(node for name, node in listed(app).items() if "about Texas" in name))


def switch(app: AppTest):
    """The toggle that switches the selected feature off, or None."""
    return next((t for t in app.toggle if "Turn this feature off" in t.label), None)


def prompt_box(app: AppTest):
    return app.text_area(key="prompt box")


def test_the_graph_says_where_it_was_computed(app: AppTest) -> None:
    assert re.search(r"Computed on the CPU in float32", caption_with(app, "nodes shown"))


def test_the_first_visit_shows_the_first_prompt(app: AppTest) -> None:
    assert prompt_box(app).value == "The capital of the state containing Dallas is"
    assert any("**Austin**" in markdown.value for markdown in app.markdown)
    assert any("about Texas" in name for name in listed(app))


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("  ", "empty"),
        ("The capital of Zürich is", "Zürich"),
        ("<script>alert(1)</script>", "script"),
        ("🦊", "🦊"),
        ("of " * 80, "64"),
    ],
)
def test_a_bad_prompt_is_one_sentence_with_a_way_back(
    app: AppTest, prompt: str, expected: str
) -> None:
    prompt_box(app).set_value(prompt).run()
    assert not app.exception
    assert len(app.error) == 1 and expected in app.error[0].value
    button(app, "Back to").click().run()
    assert not app.error and not app.exception
    assert any("**Austin**" in markdown.value for markdown in app.markdown)


def test_the_arrows_step_through_the_gallery_and_wrap_around(app: AppTest) -> None:
    app.button(key="next").click().run()
    assert "Oakland" in prompt_box(app).value
    app.button(key="previous").click().run()
    app.button(key="previous").click().run()
    assert "Dallas" not in prompt_box(app).value
    app.button(key="next").click().run()
    assert prompt_box(app).value == "The capital of the state containing Dallas is"


def test_a_feature_can_be_switched_off_and_edits_reset(app: AppTest) -> None:
    choose_texas(app)
    assert not app.exception
    switch(app).set_value(True).run()
    assert not app.exception
    assert "KL divergence" in caption_with(app, "KL divergence")
    button(app, "Reset edits").click().run()
    assert not any("KL divergence" in caption.value for caption in app.caption)


def test_a_lower_threshold_shows_fewer_nodes(app: AppTest) -> None:
    before = caption_with(app, "nodes shown")
    app.slider(key="node threshold").set_value(0.4).run()
    after = caption_with(app, "nodes shown")
    assert int(after.split(" of ")[0]) < int(before.split(" of ")[0])


def test_another_prompt_clears_selection_and_edits(app: AppTest) -> None:
    choose_texas(app)
    switch(app).set_value(True).run()
    app.button(key="next").click().run()
    app.button(key="previous").click().run()
    assert not app.exception and switch(app) is None
    assert not any("KL divergence" in caption.value for caption in app.caption)
    assert "node" not in app.query_params and "off" not in app.query_params
