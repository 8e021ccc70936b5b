"""Links hold the session, annotations are edited, and text is escaped."""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest

from cache import Annotations, ModelChoice
from charts.palette import LIGHT
from pages.shared import session as session_module
from pages.shared.escape import chips_html, example_html, plain, sentence
from pages.shared.session import read_session, update_session
from pages.shared.session_actions import (
    change_scenario,
    change_supernode,
    group_pins,
    toggle_pin,
    ungroup,
)
from pages.shared.session_state import Compared, RunOptions, Session
from pages.shared.url_state import from_query, to_query
from tracer.features.cards import Example
from tracer.interventions.scenario import Scenario, edit_all
from tracer.types import NodeId, Supernode, Thresholds

TEXAS = NodeId("feature", 1, 7, 887)


@pytest.mark.parametrize(
    "session",
    [
        Session(),
        Session(prompt="calc: 36+59=", choice=ModelChoice("atlas", "cross-layer")),
        Session(thresholds=Thresholds(0.5, 0.9), selected=TEXAS),
        Session(selected=NodeId("token", -1, 3, 5), edits=((TEXAS, 0.0), (TEXAS, -2.0))[:1]),
        Session(edits=((TEXAS, -2.0), (NodeId("feature", 4, 8, 1), 0.0))),
        Session(prompt="<script>alert(1)</script> & Zürich=1?"),
        Session(
            scenarios=(
                Scenario("−2×: “Texas”, & more", edit_all([TEXAS], "scale", -2.0)),
                Scenario("", (), freeze_attention=False, constrained_layers=(0, 3)),
            )
        ),
        Session(annotations=Annotations((TEXAS,), (Supernode('"Texas", & <b>', (TEXAS,)),))),
        Session(compared=Compared("calc: 17+25=", "cross-layer", "feature", " a", "b")),
        Session(graph="0123abcd", thresholds=Thresholds(1.0, 1.0), selected=TEXAS),
        Session(graph="0123abcd"),
        Session(graph="0123abcd", as_stored=True),
        Session(compared=Compared(graph="0123abcd")),
        Session(run=RunOptions("Sacramento", 12, 0.7, 3)),
        Session(choice=ModelChoice("lab/tiny@v1", "/sets/mine", "bfloat16")),
        Session(look="gemma-2-2b"),
    ],
)
def test_a_link_restores_the_session(session: Session) -> None:
    assert from_query(to_query(session)) == session


def test_old_links_stay_valid_annotations_are_still_called_marks() -> None:
    query = {"prompt": "a", "marks": '{"pinned":["feature-1-7-887"],"supernodes":[]}'}
    session = from_query(query)
    assert session.annotations == Annotations((TEXAS,))
    assert to_query(session) == query


def test_a_fresh_session_makes_a_short_link() -> None:
    assert to_query(Session()) == {"prompt": Session().prompt}


@pytest.mark.parametrize(
    "query",
    [
        {"transcoders": "../../etc"},
        {"nodes": "2"},
        {"scenarios": "[{"},
        {"scenarios": '[{"name": "x"}]'},
        {"scenarios": "7"},
        {"edges": "nan"},
        {"marks": "{}"},
        {"marks": '{"pinned":["x"],"supernodes":[]}'},
        {"with_transcoders": "../../etc", "align": "middle"},
        {"generate": "many"},
        {"generate": "4000"},
        {"temperature": "nan"},
        {"seed": "-1"},
        {"nodes": "half"},
        {"node": "feature-1"},
        {"node": "<b>"},
        {"off": "token--1-3-5"},
        {"off": "feature-1-7-887*lots"},
        {"off": "feature-1-7-887*1e9"},
        {"prompt": ""},
        {"unknown": "1"},
    ],
)
def test_an_invalid_link_opens_the_defaults(query: dict[str, str]) -> None:
    assert from_query(query) == Session()


@pytest.mark.parametrize("text", ["**a**", "$x$", ":red[x]", "[a](b)", "`c`", "<b>", "# a", "a_b_"])
def test_markdown_is_shown_literally(text: str) -> None:
    escaped = plain(text)
    for character in "*$:[]()`<>#_":
        assert escaped.count("\\" + character) == text.count(character)
    assert escaped.replace("\\", "") == text


def test_blank_lines_do_not_start_a_code_block() -> None:
    assert plain("a\n\n    b") == "a ↵  ↵     b"


def test_tokens_are_escaped_in_html() -> None:
    example = Example(("<script>", ' "x" onload=', " &", " ok"), (2.0, 1.0, 0.0, 0.0))
    html = example_html(example, 2.0, LIGHT, around=12) + chips_html(
        ["<img src=x>"], LIGHT.positive
    )
    assert "<script" not in html and "<img" not in html and '"x"' not in html
    assert "&lt;script&gt;" in html and "&quot;x&quot;" in html and "&amp;" in html


def test_stronger_tokens_are_shaded_more_and_inactive_ones_not_at_all() -> None:
    html = example_html(Example((" a", " b", " c"), (2.0, 1.0, 0.0)), 2.0, LIGHT, around=12)
    assert html.count("<span") == 2
    strong, weak = (float(part.split(",")[3].split(")")[0]) for part in html.split("rgba(")[1:])
    assert strong > weak > 0


def test_a_long_example_is_cut_around_its_peak() -> None:
    tokens = tuple(f" t{i}" for i in range(60))
    example = Example(tokens, tuple(1.0 if i == 30 else 0.0 for i in range(60)))
    html = example_html(example, 1.0, LIGHT, around=5)
    assert " t30" in html and " t25" in html and " t24" not in html and " t36" not in html
    assert html.count("…") == 2


def test_nodes_are_pinned_grouped_renamed_and_ungrouped(monkeypatch: pytest.MonkeyPatch) -> None:
    other, third = NodeId("feature", 4, 8, 1), NodeId("token", -1, 7, 55)
    monkeypatch.setattr(session_module.st, "session_state", {"session": Session()})
    for node in (TEXAS, other, third):
        toggle_pin(node)
    assert read_session().pinned == (TEXAS, other, third)
    toggle_pin(other)
    assert read_session().pinned == (TEXAS, third)
    group_pins("Texas", (TEXAS, third))
    assert read_session().annotations == Annotations((), (Supernode("Texas", (TEXAS, third)),))
    toggle_pin(other)
    group_pins("Texas", (other,))  # an existing supernode gets the nodes too
    assert read_session().supernodes == (Supernode("Texas", (TEXAS, third, other)),)
    toggle_pin(third)  # also removes it from its supernode
    assert read_session().supernodes == (Supernode("Texas", (TEXAS, other)),)
    change_supernode("Texas", name="the state")
    change_supernode("the state", name="")
    assert [group.name for group in read_session().supernodes] == ["the state"]
    ungroup("the state")
    assert read_session().annotations == Annotations((TEXAS, other))
    update_session(prompt="another")
    assert read_session().annotations == Annotations()


def test_a_node_belongs_to_one_supernode_only(monkeypatch: pytest.MonkeyPatch) -> None:
    other = NodeId("feature", 4, 8, 1)
    first = Annotations((), (Supernode("a", (TEXAS,)), Supernode("b", (other,))))
    monkeypatch.setattr(session_module.st, "session_state", {"session": Session(annotations=first)})
    group_pins("b", (TEXAS,))
    assert read_session().supernodes == (Supernode("b", (other, TEXAS)),)
    change_supernode("b", name="b")
    assert read_session().supernodes == (Supernode("b", (other, TEXAS)),)


def test_a_click_on_a_column_that_has_changed_does_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, two = (Scenario(name, edit_all([TEXAS], "scale", -2.0)) for name in "ab")
    monkeypatch.setattr(session_module.st, "session_state", {"session": Session(scenarios=(one,))})
    change_scenario(0, two, one)
    change_scenario(3, one, two)
    assert read_session().scenarios == (one,)
    change_scenario(0, one, two)
    assert read_session().scenarios == (two,)


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("the prompt is empty: write one", "The prompt is empty: write one."),
        ("lab/other does not exist", "lab/other does not exist."),
        ("'middle' is not an alignment", "'middle' is not an alignment."),
        ("notes.pt: this is not a graph.", "notes.pt: this is not a graph."),
        ("gemma-2-2b has no token for “ß”", "gemma-2-2b has no token for “ß”."),
    ],
)
def test_an_error_becomes_a_sentence_and_names_keep_their_case(message: str, shown: str) -> None:
    assert sentence(ValueError(message)) == shown


def _chosen() -> None:
    import streamlit as st

    from pages.shared.session import heard, set_widget

    state = st.session_state
    state.setdefault("size", "small")

    def chosen() -> None:
        state["size"] = state["size box"]

    def step() -> None:
        state["size"] = "medium"

    set_widget("size box", state["size"])
    sizes = ["small", "medium", "large"]
    st.selectbox("Size", sizes, key="size box", on_change=heard("size box", chosen))
    st.button("Next", on_click=step)


def test_a_value_that_the_page_has_just_replaced_does_not_come_back() -> None:
    app = AppTest.from_function(_chosen).run()
    app.button[0].click().run()
    assert app.selectbox[0].value == "medium"
    app.selectbox[0].set_value("small").run()  # sent before the browser had heard of "medium"
    assert app.session_state["size"] == "medium" and app.selectbox[0].value == "medium"
    app.selectbox[0].set_value("small").run()  # and another event
    assert app.session_state["size"] == "medium" and app.selectbox[0].value == "medium"
    app.selectbox[0].set_value("large").run()
    assert app.session_state["size"] == "large"


def test_a_widget_that_is_being_moved_is_not_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(session_module, "monotonic", lambda: now)
    app = AppTest.from_function(_chosen).run()
    assert app.selectbox[0].proto.set_value
    app.selectbox[0].set_value("large").run()  # the browser may be at the next value already
    assert not app.selectbox[0].proto.set_value
    assert app.selectbox[0].value == app.session_state["size"] == "large"
    app.button[0].click().run()  # the page replaces the value, and says so in every run
    assert app.selectbox[0].proto.set_value and app.selectbox[0].value == "medium"
    app.run()
    assert app.selectbox[0].proto.set_value and app.selectbox[0].value == "medium"
    now += 4
    app.selectbox[0].set_value("large").run()
    now += 4
    app.run()
    assert app.selectbox[0].proto.set_value and app.selectbox[0].value == "large"


def test_the_replaced_value_can_be_chosen_again_a_little_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = AppTest.from_function(_chosen).run()
    app.button[0].click().run()
    later = session_module.monotonic() + 4
    monkeypatch.setattr(session_module, "monotonic", lambda: later)
    app.selectbox[0].set_value("small").run()
    assert app.session_state["size"] == "small"


def _boxed() -> None:
    import streamlit as st

    from pages.shared.session import hidden_text_box, typed_text

    state = st.session_state
    state.setdefault("text", "first")

    def typed() -> None:
        state["text"] = typed_text("box", "")

    def step() -> None:
        state["text"] = "second"

    if not state.get("hidden"):
        box = hidden_text_box("box", state["text"])
        st.text_input("Box", box.text, key=box.key, on_change=typed)
    st.button("Next", on_click=step)
    st.write(typed_text("box", "elsewhere"))


def test_a_box_whose_text_the_page_replaces_is_another_box() -> None:
    app = AppTest.from_function(_boxed).run()
    assert app.text_input[0].key == "box" and app.text_input[0].value == "first"
    app.text_input[0].set_value("typed").run()
    assert app.session_state["text"] == "typed" and app.text_input[0].key == "box"
    app.button[0].click().run()
    assert app.text_input[0].value == "second"
    assert app.text_input[0].key == "box 1"  # what the browser still sends from "box" is ignored
    app.text_input[0].set_value("first").run()
    assert app.session_state["text"] == "first" and app.text_input[0].key == "box 1"


def test_a_box_shows_its_text_in_every_run_and_when_it_is_drawn_again() -> None:
    app = AppTest.from_function(_boxed).run().run().run()
    assert app.text_input[0].proto.default == "first"  # a popover that opens now shows it
    app.text_input[0].set_value("typed").run()
    app.session_state["hidden"] = True
    app.run().run()
    assert app.markdown[0].value == "elsewhere"
    app.session_state["hidden"] = False
    app.run()
    assert app.text_input[0].value == "typed"


def _typed_into() -> None:
    import streamlit as st

    from pages.shared.session import note_the_end, set_text_widget

    set_text_widget("box", "of the page")
    st.text_input("Box", key="box")
    if st.session_state.get("ends"):
        note_the_end()


@pytest.mark.parametrize(
    ("ends", "seconds", "again"),
    [(False, 0, True), (False, 60, True), (True, 0, True), (True, 4, False)],
)
def test_a_text_is_sent_again_until_the_browser_has_it(
    monkeypatch: pytest.MonkeyPatch, ends: bool, seconds: float, again: bool
) -> None:
    now = 1000.0
    monkeypatch.setattr(session_module, "monotonic", lambda: now)
    app = AppTest.from_function(_typed_into)
    app.session_state["ends"] = ends
    app.run()
    assert app.text_input[0].proto.set_value
    now += seconds
    app.run()
    assert app.text_input[0].proto.set_value is again
    assert app.text_input[0].value == "of the page"
