"""The Features page without a browser, on the embedded model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from cache import ModelChoice, TraceRequest
from pages.shared import resources
from pages.shared.finding import Finding
from tracer.types import FeatureId

ROOT = Path(__file__).resolve().parents[3]
PROMPT = "The capital of the state containing Dallas is"
TEXAS = FeatureId(1, 887)


@pytest.fixture(scope="module", autouse=True)
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One store with two prompts traced, and the model open."""
    patch = pytest.MonkeyPatch()
    patch.setenv("CIRCUIT_STORE", str(tmp_path_factory.mktemp("features") / "store"))
    patch.setenv("CIRCUIT_HOME", str(tmp_path_factory.mktemp("features home")))
    st.cache_resource.clear()
    for prompt in (PROMPT, "The capital of Texas is"):
        resources.backend().trace(TraceRequest(prompt)).result(120)
    yield
    patch.undo()
    st.cache_resource.clear()


def opened(**query: str) -> AppTest:
    app = AppTest.from_file(str(ROOT / "pages" / "shell" / "main.py"), default_timeout=60)
    for name, value in {"prompt": PROMPT, **query}.items():
        app.query_params[name] = value
    app.run()
    app.switch_page(str(ROOT / "pages" / "features" / "page.py")).run()
    assert not app.exception
    return app


def text_of(app: AppTest) -> str:
    parts = [*app.markdown, *app.caption, *app.info, *app.warning, *app.error]
    return re.sub(r"\\(.)", r"\1", "\n".join(part.value for part in parts))


def shown(app: AppTest) -> list[str]:
    """Return the numbers of the listed features."""
    return list(app.dataframe[0].value["Number"])


def test_every_active_feature_of_the_trace_is_listed() -> None:
    app = opened()
    graph = resources.backend().graph(resources.backend().key_of(TraceRequest(PROMPT)) or "")
    assert graph is not None
    table = app.dataframe[0].value
    assert len(table) == graph.index.n_features
    assert table["Influence"].is_monotonic_decreasing and table["In graph"].any()
    assert "about Texas" in set(table["Feature"])
    assert f"{graph.index.n_features:,} active features" in text_of(app)


@pytest.mark.parametrize(
    ("query", "column", "allowed"),
    [
        ({"at": "7"}, "Token", {"Dallas (7)"}),
        ({"from_layers": "1-1"}, "Layer", {1}),
        ({"word": "texas"}, None, None),
        ({"word": "L1/887"}, "Number", {"L1/887"}),
        ({"least": "0.01"}, "Influence", None),
    ],
)
def test_a_link_restores_the_filters(
    query: dict[str, str], column: str | None, allowed: set | None
) -> None:
    app = opened(**query)
    table = app.dataframe[0].value
    assert 0 < len(table) < 300
    if "least" in query:
        assert table["Influence"].min() >= 1.0
    elif allowed is None:
        assert all("texas" in name.casefold() for name in table["Feature"])
    else:
        assert set(table[column]) <= allowed
    assert all(app.query_params[name] == value for name, value in query.items())


def test_filters_are_written_to_the_link_and_survive_a_new_prompt_only_where_they_fit() -> None:
    app = opened()
    app.text_input(key="feature words").set_value("texas").run()
    app.selectbox(key="feature token").set_value(7).run()
    assert not app.exception
    assert app.query_params["word"] == "texas" and app.query_params["at"] == "7"
    app.button(key="next").click().run()
    assert not app.exception
    assert app.query_params["word"] == "texas" and "at" not in app.query_params


@pytest.mark.parametrize(
    ("by", "query", "best", "column"),
    [
        ("label", '"about texas"', "about Texas", "Label covers"),
        ("example", "Dallas", None, "Examples that peak on it"),
        ("promoted", " Austin", "L0/67", "z"),
        ("promoted", "Austin", "L0/67", "z"),
        ("suppressed", " Austin", None, "z"),
        ("text", PROMPT, None, "Fires most at"),
    ],
)
def test_the_dictionary_is_searched(by: str, query: str, best: str | None, column: str) -> None:
    app = opened(**{"in": "dictionary", "by": by, "find": query})
    table = app.dataframe[0].value
    assert column in table and len(table)
    if best is not None:
        assert best in set(table.iloc[0])


@pytest.mark.parametrize(
    ("by", "query", "message"),
    [
        ("label", "xylophone", "No feature matches “xylophone”."),
        ("example", "two words", "word"),
        ("promoted", "not a token", "a target is exactly one"),
        ("text", "Zürich", "Zürich"),
        ("label", '""', "empty"),
    ],
)
def test_a_search_that_finds_nothing_says_why(by: str, query: str, message: str) -> None:
    app = opened(**{"in": "dictionary", "by": by, "find": query})
    assert not app.dataframe and message in text_of(app)


def test_a_feature_has_its_own_page_by_link() -> None:
    app = opened(feature="L1/887")
    text = text_of(app)
    assert "#### about Texas" in text and "L1/887 · label of the dictionary" in text
    assert "Fires most at “Dallas”" in text
    assert "Dallas :gray[activation" in "\n".join(
        re.sub(r"\\(.)", r"\1", button.label) for button in app.button
    )
    assert [tab.label for tab in app.tabs] == ["Top activations", "Upper half", "Lower half"]
    assert any(button.key and button.key.startswith("neighbour ") for button in app.button)
    app.button(key="all features").click().run()
    assert shown(app) and "feature" not in app.query_params


def test_a_feature_is_run_on_a_text_of_ones_own() -> None:
    app = opened(feature="L1/887")
    app.text_area(key=f"try {TEXAS}").set_value("people from Boston").run()
    assert "The feature is not active on this text." in text_of(app)
    app.text_area(key=f"try {TEXAS}").set_value("people from Zürich").run()
    assert not app.exception and "Zürich" in text_of(app)


def test_neighbours_open_their_own_pages_and_show_z() -> None:
    app = opened(feature="L1/887")
    app.selectbox(key=f"neighbours of {TEXAS}").set_value("downstream").run()
    best = next(b for b in app.button if b.key and b.key.startswith("neighbour "))
    assert best.key == "neighbour L2/529" and "z \\+7" in best.label
    best.click().run()
    assert app.query_params["feature"] == "L2/529" and not app.exception


def test_a_label_is_edited_and_used_everywhere() -> None:
    app = opened(feature="L1/887")
    box = app.text_input(key=f"label of {TEXAS}")
    box.set_value("the <b>Lone Star</b> state").run()
    text = text_of(app)
    assert "#### the <b>Lone Star</b> state" in text and "your label" in text
    other = opened(prompt="The capital of Texas is", word="lone star")
    assert set(shown(other)) <= {"L1/887"}
    found = opened(**{"in": "dictionary", "find": "lone"})
    assert shown(found) == ["L1/887"]
    app.text_input(key=f"label of {TEXAS}").set_value("").run()
    assert "#### about Texas" in text_of(app)


def test_a_prompt_is_traced_where_the_feature_fires() -> None:
    app = opened(feature="L1/887")
    app.button(key=f"trace {TEXAS} 0").click().run()
    assert not app.exception
    assert app.session_state["session"].prompt == "people from Dallas"


def test_a_missing_feature_is_one_sentence() -> None:
    app = opened(feature="L99/1")
    assert not app.exception
    assert "L99/1" in text_of(app) and app.warning


def test_another_model_closes_the_feature() -> None:
    app = opened(feature="L1/887")
    session = app.session_state["session"]
    assert session.finding == Finding(TEXAS)
    app.session_state["session"] = replace(session, finding=Finding(TEXAS, position=2))
    key = "transcoders of atlas: per-layer"
    app.segmented_control(key=key).set_value("cross-layer").run()
    assert app.session_state["session"].choice == ModelChoice("atlas", "cross-layer")
    assert app.session_state["session"].finding == Finding()
