"""The pages of a graph with nodes that only other tools compute, without a browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import streamlit as st
from attention_graphs import LAST, france
from page_components import component_data
from streamlit.testing.v1 import AppTest

from pages.shared import resources
from pages.shared.session_state import Session
from pages.shared.url_state import from_query, to_query
from tracer.types import NodeId

MAIN = Path(__file__).resolve().parents[3] / "pages" / "shell" / "main.py"
MOVES, ERROR = NodeId("lorsa", 1, LAST, 3), NodeId("lorsa error", 1, LAST, -1)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    patch = pytest.MonkeyPatch()
    patch.setenv("CIRCUIT_STORE", str(tmp_path_factory.mktemp("generic") / "store"))
    st.cache_resource.clear()
    content = json.dumps(with_a_node_without_a_place()).encode()
    yield resources.backend().import_graph(content, "france.json").result(60)
    patch.undo()
    st.cache_resource.clear()


def with_a_node_without_a_place() -> dict[str, object]:
    stored = france()
    stored["nodes"].append({"node_id": "a", "feature_type": "router", "layer": None, "ctx_idx": 2})
    stored["links"].append({"source": "a", "target": "1_cro_9_5", "weight": 100.0})
    return stored


def opened(**query: str) -> AppTest:
    test = AppTest.from_file(str(MAIN), default_timeout=60)
    for name, value in query.items():
        test.query_params[name] = value
    test.run()
    assert not test.exception
    return test


def shown(app: AppTest) -> str:
    parts = [*app.markdown, *app.caption, *app.info, *app.error, *app.success]
    text = "\n".join(part.value for part in parts)
    text += "\n".join(block.proto.body for block in app.get("html"))
    return re.sub(r"\\(.)", r"\1", text)


def test_the_page_shows_all_nodes_a_legend_and_what_it_could_not_show(key: str) -> None:
    app = opened(graph=key, nodes="1", edges="1")
    text = shown(app)
    assert "14 of 15 nodes of the file shown: 1 without a layer or position." in text
    assert "The graph has 2 biases, 1 attention feature (Lorsa) and 1 attention error (Lor" in text
    assert "attention errors (Lorsa) count as errors." in text
    assert (
        "1 router node of the file has no layer or position: left out with 1 link, and not part "
        "of the scores."
    ) in text
    legend = next(b.proto.body for b in app.get("html") if "clip-path" in b.proto.body)
    assert "attention features (Lorsa)" in legend and "biases" in legend
    scores = next(c for c in app.caption if c.value.startswith("Replacement"))
    assert scores.value.startswith("Replacement 58 %")
    assert "not part of the scores" in scores.help


def test_a_kind_has_a_filter_that_is_kept_in_the_link(key: str) -> None:
    app = opened(graph=key, nodes="1", edges="1")
    labels = {t.key: t.label for t in app.toggle if t.key.startswith("filter ")}
    assert re.sub(r"\\", "", labels["filter lorsa"]) == "Attention features (Lorsa) (1)"
    assert "filter bias" in labels and "filter lorsa error" not in labels
    app.toggle(key="filter bias").set_value(False).run()
    assert not app.exception
    assert (
        "12 of 15 nodes of the file shown: 2 of hidden kinds, 1 without a layer or position."
        in shown(app)
    )
    assert app.query_params["hide"] in (["kind:bias"], "kind:bias")
    app.toggle(key="filter errors").set_value(False).run()
    assert "10 of 15 nodes of the file shown: 2 errors, 2 of hidden kinds, 1 without" in shown(app)


@pytest.mark.parametrize("kind", ["bias", "a,b c", "größe", "kind:x"])
def test_a_link_keeps_hidden_kinds_of_any_name(kind: str) -> None:
    session = from_query({"hide": "errors"})
    session = Session(
        filter=session.filter.__class__(errors=False, hidden_kinds=frozenset({kind, "bias"}))
    )
    assert from_query(to_query(session)).filter == session.filter


def test_the_panel_names_the_node_and_shows_its_qk_tracing(key: str) -> None:
    app = opened(graph=key, node=str(MOVES), nodes="1", edges="1")
    text = shown(app)
    facts = component_data(app, "head")["facts"]
    assert "attention feature (Lorsa) 3 · activation 1.50 · influence 43 %" in facts
    assert "This attention feature (Lorsa) was computed by the tool that wrote the graph." in text
    pairs = next(frame.value for frame in app.dataframe if "attribution" in frame.value)
    assert pairs.values.tolist() == [
        [0.5, "L0/7", "France"],
        [0.25, "bias of layer 1", "source of an unknown kind of layer 0"],
    ]
    assert not any("Turn this feature off" in toggle.label for toggle in app.toggle)


def test_an_error_of_another_tool_says_that_it_counts_as_one(key: str) -> None:
    text = shown(opened(graph=key, node=str(ERROR), nodes="1", edges="1"))
    assert "This attention error (Lorsa) was computed by the tool" in text
    assert "It counts as an error in the scores." in text


def test_pinned_generic_nodes_have_boxes_and_scores(key: str) -> None:
    marks = json.dumps({"pinned": [str(MOVES)], "supernodes": [["moves", str(ERROR)]]})
    app = opened(graph=key, nodes="1", edges="1", marks=marks)
    text = shown(app)
    assert "**moves** :gray[1 node]" in text and "replacement **" in text


def test_compare_shows_both_graphs_with_their_kinds(key: str) -> None:
    stored = france()
    stored["metadata"]["slug"] = "paris"
    content = json.dumps(stored).encode()
    other = resources.backend().import_graph(content, "paris.json").result(60)
    app = opened(graph=key, with_graph=other, nodes="1", edges="1")
    app.switch_page(str(MAIN.parents[1] / "compare" / "page.py")).run()
    assert not app.exception and not app.error
    text = shown(app)
    assert "2 features in both graphs" in text and "attention features (Lorsa)" in text


def test_the_table_lists_them(key: str) -> None:
    app = opened(graph=key, view="table", nodes="1", edges="1")
    table = next(frame.value for frame in app.dataframe if "kind" in frame.value)
    assert "attention error (Lorsa)" in set(table["kind"]) and len(table) == 14


def test_the_library_says_what_of_a_file_is_left_out(key: str) -> None:
    app = opened(graph=key)
    app.switch_page(str(MAIN.parents[1] / "library" / "page.py")).run()
    assert not app.exception
    assert "1 router node of the file has no layer or position: left out with 1 lin" in shown(app)
