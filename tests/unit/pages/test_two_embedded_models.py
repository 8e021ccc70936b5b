"""Two embedded models in the app: chosen side by side, each with its own prompts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import streamlit as st
import torch
from page_components import component_data
from small_novels import SMALL, save_books
from streamlit.testing.v1 import AppTest
from streamlit.testing.v1.element_tree import Button, ButtonGroup

from cache import ModelChoice
from pages.shared import resources
from tracer import paths
from tracer.catalog.embedded import gallery
from tracer.novels.build import build

MAIN = Path(__file__).resolve().parents[3] / "pages" / "shell" / "main.py"
ENGLISH = "Once upon a time there was a little"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("novels")
    build(save_books(folder / "books.jsonl"), folder / "weights", threads=torch.get_num_threads(),
          config=SMALL)  # fmt: skip
    return folder / "weights"


@pytest.fixture
def both(weights: Path, store: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The app with both models installed; a new backend, which has opened neither."""
    monkeypatch.setattr(paths, "NOVELS_WEIGHTS", weights)
    st.cache_resource.clear()
    yield
    st.cache_resource.clear()


def settled(app: AppTest | Button | ButtonGroup[str]) -> AppTest:
    """Run the app until nothing is being traced."""
    app = app.run()
    for job in resources.backend().queue:
        job.wait(60)
    app.run()
    assert not app.exception
    return app


def opened(**query: str) -> AppTest:
    app = AppTest.from_file(str(MAIN), default_timeout=60)
    for name, value in query.items():
        app.query_params[name] = value
    return settled(app)


def listed(app: AppTest) -> list[str]:
    """The prompts of the sidebar."""
    groups = component_data(app, "prompts")["groups"]
    return [entry["prompt"] for group in groups for entry in group["prompts"]]


def choices(app: AppTest) -> list[str]:
    return [c.label for c in app.sidebar.button_group if c.label == "Embedded model"]


def test_words_that_atlas_does_not_know_are_traced_with_novels(both: None) -> None:
    app = opened(prompt=ENGLISH)
    assert "Once" in app.error[0].value
    settled(app.button(key="trace with another model").click())
    session = app.session_state["session"]
    assert (session.prompt, session.choice) == (ENGLISH, ModelChoice("novels", "per-layer"))
    assert not app.error
    assert any("nodes shown" in caption.value for caption in app.caption)
    assert app.query_params["model"] == "novels"


def test_the_sidebar_offers_both_and_the_prompts_follow(both: None) -> None:
    app = opened()
    assert listed(app) == [entry.prompt for entry in gallery("atlas")]
    assert choices(app)
    settled(app.sidebar.segmented_control(key="embedded model: atlas").set_value("novels"))
    session = app.session_state["session"]
    assert session.choice == ModelChoice("novels", "per-layer")
    assert session.prompt == gallery("novels")[0].prompt
    assert listed(app) == [entry.prompt for entry in gallery("novels")]
    assert gallery("novels")[0].note in app_text(app)
    settled(app.sidebar.segmented_control(key="embedded model: novels").set_value("atlas"))
    assert app.session_state["session"].prompt == gallery("atlas")[0].prompt


def app_text(app: AppTest) -> str:
    return "\n".join(part.value for part in app.markdown).replace("\\", "")


def test_without_its_weights_novels_is_offered_nowhere(
    store: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "NOVELS_WEIGHTS", tmp_path)
    app = opened(prompt=ENGLISH)
    assert "Once" in app.error[0].value
    assert "trace with another model" not in [button.key for button in app.button]
    assert not choices(app)
    app = opened(model="novels", transcoders="per-layer", prompt=ENGLISH)
    assert "Novels is not part of this installation" in app.error[0].value.replace("\\", "")
    app.switch_page(str(MAIN.parents[1] / "models" / "page.py")).run()
    assert "look at novels" not in [button.key for button in app.button]
