"""The shell: what the sidebar shows on which page, bad links, and running work."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import streamlit as st
from page_components import has_component
from streamlit.testing.v1 import AppTest

from pages.shared import resources
from pages.shared.link_problems import link_problems
from pages.shared.session_state import Session
from pages.shared.url_state import from_query
from pages.shell.tour import STEPS

ROOT = Path(__file__).resolve().parents[3]
GONE = "0" * 32


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CIRCUIT_STORE", str(tmp_path / "store"))
    st.cache_resource.clear()
    yield
    st.cache_resource.clear()


def opened(page: str = "", **query: str) -> AppTest:
    app = AppTest.from_file(str(ROOT / "pages" / "shell" / "main.py"), default_timeout=60)
    for name, value in query.items():
        app.query_params[name] = value
    app.run()
    if page:
        app.switch_page(str(ROOT / "pages" / page / "page.py")).run()
    assert not app.exception
    return app


def sidebar_text(app: AppTest) -> str:
    parts = [*app.sidebar.markdown, *app.sidebar.caption]
    return re.sub(r"\\(.)", r"\1", "\n".join(part.value for part in parts))


def warnings(app: AppTest) -> str:
    return re.sub(r"\\(.)", r"\1", "\n".join(box.value for box in app.warning))


def published() -> bytes:
    node = {"ctx_idx": 0, "feature": 11, "jsNodeId": "x", "clerp": "bark", "token_prob": 0.5}
    logit = node | {"node_id": "1_11_0", "layer": "1", "feature_type": "logit"}
    info = {"transcoder_set": "someone/clt", "generator": {"name": "circuit-tracer"}}
    metadata = {"slug": "dog", "scan": "gemma-2-2b", "prompt": "dog", "prompt_tokens": ["dog"]}
    stored = {"metadata": metadata | {"info": info}, "nodes": [logit], "links": []}
    return json.dumps(stored).encode()


@pytest.mark.parametrize(
    ("page", "acts"),
    [
        ("features", True),
        ("compare", True),
        ("library", False),
        ("models", False),
        ("about", False),
    ],
)
def test_prompts_are_offered_only_where_they_act(page: str, acts: bool) -> None:
    app = opened(page, graph=GONE)
    assert ("#### Prompts" in sidebar_text(app)) is acts
    assert has_component(app, "prompts") is acts


def test_an_imported_graph_shows_its_own_model_and_never_atlas() -> None:
    key = resources.backend().import_graph(published(), "dog.json").result(60)
    app = opened(graph=key)
    text = sidebar_text(app)
    assert "gemma-2-2b" in text and "someone/clt" in text and "circuit-tracer" in text
    assert "atlas" not in text.lower() and "Embedded model" not in text
    assert not has_component(app, "prompts")
    app.button(key="sidebar close graph").click().run()
    assert app.session_state["session"].graph == "" and "#### Prompts" in sidebar_text(app)


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ({"prompt": "a" * 50_000}, "has 50,000 characters, at most 20,000"),
        ({"scenarios": DEEP}, "The scenarios in this link cannot be read"),
        ({"marks": DEEP}, "The pins and supernodes in this link cannot be read"),
        ({"marks": '{"pinned": ['}, "The pins and supernodes in this link cannot be read"),
        ({"node": "<script>"}, "names a node in a form"),
        ({"feature": "Texas"}, "names a feature in a form"),
        ({"graph": "../../etc"}, "names a stored graph in a form"),
    ],
)
@pytest.mark.parametrize("page", ["features", "library"])
def test_a_bad_link_is_one_clear_sentence(page: str, query: dict[str, str], sentence: str) -> None:
    app = opened(page, **{"graph": GONE, **query})
    text = warnings(app)
    assert sentence in text and len(text) < 400 and "aaaa" not in text
    assert all("aaaa" not in box.value for box in app.error)
    app.button(key="close problems").click().run()
    assert not warnings(app)


def test_a_good_link_has_no_problems() -> None:
    assert link_problems({"prompt": "a\nb", "graph": GONE, "node": "feature-1-2-3"}) == ()
    assert link_problems({}) == ()


def test_the_rest_of_a_bad_link_is_used() -> None:
    session = from_query({"scenarios": DEEP, "marks": DEEP, "nodes": "0.5", "feature": "L1/2"})
    assert session.thresholds.node == 0.5 and session.finding.feature is not None
    assert from_query({"prompt": "a" * 50_000}).prompt == Session().prompt


def test_the_tour_has_five_steps() -> None:
    assert len(STEPS) == 5 and all(title and text for title, text in STEPS)


def test_a_link_that_is_cut_off_is_said_in_the_first_run() -> None:
    app = AppTest.from_file(str(ROOT / "pages" / "shell" / "main.py"), default_timeout=60)
    app.query_params["graph"], app.query_params["marks"] = GONE, "[" * 3000
    app.run()
    assert not app.exception
    assert any("may have been cut off" in warning.value for warning in app.warning)
