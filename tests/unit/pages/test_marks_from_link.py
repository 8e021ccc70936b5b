"""Pins, supernodes and labels of a pasted link, on the Trace page without a browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import streamlit as st
from published_graphs import published
from streamlit.testing.v1 import AppTest

from pages.shared import resources
from tracer.types import FeatureId, NodeId, Supernode

MAIN = Path(__file__).resolve().parents[3] / "pages" / "shell" / "main.py"
BIG, DOG, BARK = (
    NodeId("feature", 0, 1, 7),
    NodeId("feature", 1, 2, 9),
    NodeId("logit", 2, 2, 11),
)
LINK = (
    "https://www.neuronpedia.org/gemma-2-2b/graph?slug=s&pinnedIds=0_7_1%2C9_9_9"
    f"&supernodes={quote(json.dumps([['says', '1_9_2', '3_11_2']]))}"
    f"&clerps={quote(json.dumps([['1_9_2', 'barks']]))}"
)


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("CIRCUIT_STORE", str(tmp_path / "store"))
    st.cache_resource.clear()
    stored = published()
    stored["qParams"] = {}
    content = json.dumps(stored).encode()
    yield resources.backend().import_graph(content, "big.json").result(60)
    resources.backend().close(10)
    st.cache_resource.clear()


def opened(key: str) -> AppTest:
    app = AppTest.from_file(str(MAIN), default_timeout=60)
    app.query_params["graph"], app.query_params["nodes"] = key, "1"
    app.run()
    assert not app.exception
    return app


def shown(app: AppTest) -> str:
    parts = [*app.markdown, *app.caption, *app.success, *app.error]
    return re.sub(r"\\(.)", r"\1", "\n".join(part.value for part in parts))


def test_a_link_adds_its_marks_and_says_what_is_missing(key: str) -> None:
    app = opened(key)
    app.text_input(key="marks link").set_value(LINK).run()
    assert not app.exception
    assert (
        "The link has 1 pin, 1 supernode and 1 label. 1 node of the link is not in this graph."
        in shown(app)
    )
    kept = resources.backend().annotations(key)
    assert kept.pinned == (BIG,) and kept.supernodes == (Supernode("says", (DOG, BARK)),)
    graph = resources.backend().graph(key)
    assert graph is not None and resources.own_labels(graph)[FeatureId(1, 9)] == "barks"
    assert app.text_input(key="marks link").value == ""
    app.button(key="undo pins").click().run()
    assert not resources.backend().annotations(key)


def test_a_link_that_is_none_is_refused_in_a_sentence(key: str) -> None:
    app = opened(key)
    app.text_input(key="marks link").set_value("https://example.org").run()
    assert not app.exception
    assert "is not a link to a graph, expected one such as https:" in shown(app)
    assert not resources.backend().annotations(key)
