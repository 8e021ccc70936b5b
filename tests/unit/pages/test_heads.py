"""Attention heads on the Trace page, on the embedded model: carried by, an open head, the view."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from page_components import choose_node
from streamlit.testing.v1 import AppTest

from cache import WhoCarriedEdges
from pages.shared import resources
from pages.shared.heads_state import HeadsShown, heads_from_query, heads_to_query
from pages.shared.session_state import Session
from pages.shared.url_state import from_query, to_query
from pages.trace.heads_view import KEY, with_heads
from tracer.types import NodeId

MAIN = Path(__file__).resolve().parents[3] / "pages" / "shell" / "main.py"


def lists(app: AppTest) -> dict[str, list[dict[str, Any]]]:
    """The rows of all lists on the page, by title."""
    parts = [
        part
        for element in app.get("bidi_component")
        if element.proto.component_name == "circuit_neighbours"
        for part in json.loads(element.proto.json)["lists"]
    ]
    return {part["title"]: part["rows"] for part in parts}


def logit(app: AppTest) -> NodeId:
    """The node of the answer, Austin."""
    backend = resources.backend()
    graph = backend.graph(backend.stored()[0].key)
    assert graph is not None
    return graph.index.node(graph.index.logit_rows.start)


def show(app: AppTest, **changes: Any) -> AppTest:
    session: Session = app.session_state["session"]
    app.session_state["session"] = replace(session, heads=replace(session.heads, **changes))
    return app.run()


def test_the_panel_says_which_heads_carried_the_answer(app: AppTest) -> None:
    choose_node(app, logit(app))
    assert not app.exception
    rows = lists(app)["Carried by"]
    assert rows[0]["name"] == "direct"
    heads = {row["name"]: row for row in rows[1:]}
    assert "Dallas" in heads["L4 H0"]["where"] and heads["L4 H0"]["weight"] > 1
    assert any("Attention steps" in c.value and "one " in c.value for c in app.caption)


def test_one_edge_has_carriers_of_its_own(app: AppTest) -> None:
    choose_node(app, logit(app))
    choice = next(box for box in app.selectbox if box.label == "What was carried")
    texas = next(name for name in choice.options if "about Texas" in name and "Dallas" in name)
    before = lists(app)["Carried by"]
    choice.set_value(texas).run()
    rows = lists(app)["Carried by"]
    assert rows != before
    edge = float(texas.rsplit(" ", 1)[1].replace("−", "-"))
    direct = next((row["weight"] for row in rows if row["name"] == "direct"), 0.0)
    assert abs(direct) < 1e-4  # Dallas is not the last word
    assert sum(row["weight"] for row in rows) == pytest.approx(edge, abs=0.02)


def test_a_head_opens_with_why_it_looks_at_dallas(app: AppTest) -> None:
    choose_node(app, logit(app))
    show(app, head=(4, 0), query=8, key=7)
    assert any("L4 H0 looks from “is” at “Dallas”" in m.value for m in app.markdown)
    assert any("81 % of its attention" in c.value for c in app.caption)
    looked, found = lists(app)["What it looks for"], lists(app)["What it found"]
    assert any("capital" in row["name"] for row in looked)
    assert any("about Texas" in row["name"] for row in found[:4])
    assert any("about Texas L2/529" in c.value and "×" in c.value for c in app.caption)
    score = next(c.value for c in app.caption if "81 %" in c.value)
    app.selectbox(key="head versus").set_value("all other tokens").run()
    other = next(c.value for c in app.caption if "81 %" in c.value)
    assert "above the mean of the other tokens" in other and other != score
    app.button(key="close head").click().run()
    assert "What it found" not in lists(app)


def test_another_query_starts_where_it_looks_most(app: AppTest) -> None:
    show(app, head=(4, 0), query=8, key=7)
    box = app.selectbox(key="head query")
    dallas = next(name for name in box.options if name.startswith("Dallas"))
    box.set_value(dallas).run()
    assert app.session_state["session"].heads.query == 7
    assert app.session_state["session"].heads.key is None
    assert any("L4 H0 looks from “Dallas” at" in m.value for m in app.markdown)


def test_a_head_that_does_not_exist_is_one_sentence_with_a_way_out(app: AppTest) -> None:
    show(app, head=(99, 0))
    assert any("Layer 99 does not exist" in error.value for error in app.error)
    app.button(key="close head").click().run()
    assert not app.error


def test_the_toggle_turns_the_question_off(app: AppTest) -> None:
    choose_node(app, logit(app))
    app.toggle(key="carried").set_value(False).run()
    assert "Carried by" not in lists(app)
    assert to_query(app.session_state["session"])["carried"] == "no"


def test_the_heads_view_lists_every_head_with_what_it_does(app: AppTest) -> None:
    show(app, as_view=True, head=(4, 0))
    assert not app.exception
    heads, edges = app.dataframe[0].value, app.dataframe[1].value
    assert len(heads) == 20
    first = heads[heads["head"] == "L4 H0"].iloc[0]
    assert "from “Dallas” to “is”" in first["on this prompt"]
    assert "previous token" in first["on this prompt"]
    assert any("Austin" in name for name in edges["to"])


def test_the_download_has_the_heads_in_a_key_of_its_own(app: AppTest) -> None:
    show(app, as_view=True)
    backend, session = resources.backend(), app.session_state["session"]
    key = backend.stored()[0].key
    heads = backend.attention.edges(key, WhoCarriedEdges(session.thresholds), session.choice)
    graph = backend.graph(key)
    assert graph is not None
    content = json.loads(with_heads(backend.export_graph(key, session.thresholds), heads.result(),
                                    graph))  # fmt: skip
    assert {"nodes", "links", "metadata"} <= content.keys()
    for edge in content[KEY]["edges"]:
        total = edge["direct"] + sum(edge["heads"].values())
        assert total == pytest.approx(edge["weight"], abs=1e-4)
    imported = backend.import_graph(json.dumps(content).encode(), "again.json").result()
    assert KEY in json.loads(backend.export_graph(imported))


@pytest.mark.parametrize(
    "shown",
    [
        HeadsShown(),
        HeadsShown(as_view=True, carried=False),
        HeadsShown(head=(4, 0)),
        HeadsShown(head=(4, 0), query=8, key=7),
        HeadsShown(head=(4, 0), query=8, versus="rest"),
        HeadsShown(head=(11, 3), query=8, key=7, versus=6),
    ],
)
def test_a_link_brings_back_the_open_head(shown: HeadsShown) -> None:
    assert heads_from_query(heads_to_query(shown)) == shown
    assert from_query(to_query(Session(heads=shown))).heads == shown


@pytest.mark.parametrize("text", ["4", "4:x", "4:0:1:2:3:4", "a:b", "4:0:8:7:most", "", "::"])
def test_a_broken_link_opens_no_head(text: str) -> None:
    assert heads_from_query({"head": text}).head is None


def test_a_new_prompt_closes_the_head(app: AppTest) -> None:
    show(app, head=(4, 0), key=7)
    app.button(key="next").click().run()
    assert app.session_state["session"].heads.head is None


def test_the_pairs_are_taken_out_next_to_controls(app: AppTest) -> None:
    show(app, head=(4, 0), query=8, key=7)
    toggle = next(t for t in app.toggle if "strongest pairs out" in t.label)
    toggle.set_value(True).run()
    assert not app.exception
    assert any("attention falls from 81 % to 62 %" in c.value for c in app.caption)
    effects = dict(app.dataframe[0].value.itertuples(index=False))
    predicted = effects["predicted, everything else frozen"]
    assert predicted == pytest.approx(effects["measured, everything else frozen"], abs=1e-4)
    free = effects["measured, nothing frozen"]
    random = next(effect for name, effect in effects.items() if name.startswith("random pairs"))
    assert abs(random) < abs(free) / 10
