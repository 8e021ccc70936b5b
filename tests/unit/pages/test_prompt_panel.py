"""Prompts: what to explain, many at once, unknown words, tokens as chips."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from cache import TraceRequest
from cache.request import trace_digest
from charts.palette import LIGHT
from pages.shared import resources
from pages.shared.explaining import Explain, explain_from_query, explain_to_query
from pages.shared.token_bytes import with_bytes
from pages.shared.token_chips import chips
from tracer.types import Contrast, FeatureTarget

MAIN = Path(__file__).resolve().parents[3] / "pages" / "shell" / "main.py"
PROMPT = "The capital of the state containing Dallas is"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setenv("CIRCUIT_STORE", str(tmp_path_factory.mktemp("prompts") / "store"))
    st.cache_resource.clear()
    resources.backend().trace(TraceRequest(PROMPT)).result(120)
    yield
    patch.undo()
    st.cache_resource.clear()


def drawn(app: AppTest) -> AppTest:
    """Run until the graph is there; the machine may be slow."""
    for _ in range(60):
        app.run()
        assert not app.exception
        if any("nodes shown" in caption.value for caption in app.caption):
            return app
    pytest.fail("the graph was never drawn")


@pytest.fixture
def app(store: None) -> AppTest:
    test = AppTest.from_file(str(MAIN), default_timeout=60)
    test.query_params["prompt"] = PROMPT
    return drawn(test)


def text_of(app: AppTest) -> str:
    parts = [*app.markdown, *app.caption, *app.info, *app.error]
    return re.sub(r"\\(.)", r"\1", "\n".join(part.value for part in parts))


@pytest.mark.parametrize(
    "explain",
    [
        Explain(),
        Explain("token", " Austin"),
        Explain("contrast", " Austin", " Dallas", 500),
        Explain("feature", "L3/417 @ 7", logit_mass=0.8),
    ],
)
def test_what_is_explained_survives_a_link(explain: Explain) -> None:
    assert explain_from_query(explain_to_query(explain)) == explain


def test_a_link_with_nonsense_explains_the_likeliest() -> None:
    query = {"target": "all", "features": "-3", "mass": "nan", "of": "x" * 1000}
    assert explain_from_query(query) == Explain(first="x" * 200)
    assert explain_from_query({"mass": "7"}) == Explain()


def test_targets_are_told_apart_in_the_key_and_the_default_key_stays() -> None:
    requests = [
        TraceRequest("a"),
        TraceRequest("a", targets=(" b",)),
        TraceRequest("a", targets=(Contrast(" b", " c"),)),
        TraceRequest("a", targets=(FeatureTarget(1, 2, 3),)),
        TraceRequest("a", logit_mass=0.5),
        TraceRequest("a", max_features=5),
    ]
    assert len({trace_digest("f", request) for request in requests}) == len(requests)
    assert trace_digest("f", Explain().request("a", requests[0].choice)) == trace_digest(
        "f", requests[0]
    )


def test_a_contrast_is_explained(app: AppTest) -> None:
    app.selectbox(key="explain kind").set_value("contrast").run()
    assert "Not complete yet" in text_of(app)
    app.text_input(key="explain first").set_value(" Austin").run()
    app.text_input(key="explain second").set_value(" Sacramento").run()
    drawn(app)
    assert "This trace explains “Austin” against “Sacramento”." in text_of(app)
    assert app.query_params["target"] == "contrast" and app.query_params["of"] == " Austin"
    key = resources.backend().key_of(app.session_state["session"].request)
    graph = resources.backend().graph(key or "")
    assert graph is not None and len(graph.targets) == 1 and len(graph.targets[0].token_ids) == 2


def test_a_target_that_is_not_a_token_leads_back(app: AppTest) -> None:
    app.selectbox(key="explain kind").set_value("token").run()
    app.text_input(key="explain first").set_value("not one token").run()
    for _ in range(20):
        if app.error:
            break
        app.run()
    assert "a target is exactly one" in text_of(app)
    app.button(key="explain likeliest").click().run()
    assert not app.error and app.session_state["session"].explain == Explain()


def test_fewer_features_are_expanded(app: AppTest) -> None:
    app.number_input(key="explain features").set_value(40).run()
    drawn(app)
    key = resources.backend().key_of(app.session_state["session"].request)
    graph = resources.backend().graph(key or "")
    assert graph is not None and graph.index.n_features == 40
    assert app.query_params["features"] == "40"


def test_a_text_keeps_its_line_breaks(app: AppTest) -> None:
    app.text_area(key="prompt box").set_value("The capital of\nTexas is").run()
    assert app.session_state["session"].prompt == "The capital of\nTexas is"
    assert app.query_params["prompt"] == "The capital of\nTexas is"


def test_words_that_atlas_does_not_know_get_the_nearest(app: AppTest) -> None:
    app.text_area(key="prompt box").set_value("The captial of Texas is").run()
    for _ in range(20):
        if app.error:
            break
        app.run()
    assert "captial" in app.error[0].value
    app.button(key="instead of captial: capital").click().run()
    assert app.session_state["session"].prompt == "The capital of Texas is"
    assert not app.error


def test_many_prompts_are_traced_in_turn_and_clicked_through(app: AppTest) -> None:
    pasted = "The capital of Texas is\n\nThe capital of Zürich is\n The opposite of hot is "
    app.text_area(key="pasted prompts").set_value(pasted)
    app.button(key="trace many").click().run()
    for job in list(resources.backend().queue):
        job.wait(120)
    drawn(app)
    text = text_of(app)
    assert "Prompt 1 of 3. Not traced: “The capital of Zürich is”." in text
    app.button(key="next").click().run()
    app.button(key="next").click().run()
    assert app.session_state["session"].prompt == "The opposite of hot is"
    app.button(key="leave many").click().run()
    app.button(key="next").click().run()
    assert app.session_state["session"].prompt != "The capital of Texas is"


def test_no_prompt_at_all_is_said(app: AppTest) -> None:
    app.button(key="trace many").click().run()
    assert "There is no prompt yet" in text_of(app)


def test_the_tokens_are_shown_with_their_ids(app: AppTest) -> None:
    key = resources.backend().key_of(TraceRequest(PROMPT))
    graph = resources.backend().graph(key or "")
    assert graph is not None
    html = chips(graph.tokens, graph.token_ids, LIGHT)
    assert all(f">{number}</span>" in html for number in graph.token_ids)
    assert "&lt;bos&gt;" in html and "<bos>" not in html
    assert "9 tokens" in text_of(app)


def test_bytes_of_a_character_are_joined() -> None:
    html = chips(("<0xF0>", "<0x9F>", "<0xA6>", "<0x8A>", " fox"), (1, 2, 3, 4, 5), LIGHT)
    assert "&lt;F0&gt;" in html and "🦊" in html and html.count("dashed") == 1


@pytest.mark.parametrize(
    "vocabulary",
    [{"ðŁ": 1, "¦Ĭ": 2, "Ġfox": 3}, [["a", 0.0], ["<0xF0>", 0.0], ["<0x9F>", 0.0], ["b", 0.0]]],
)
def test_unreadable_tokens_are_named_by_the_bytes_of_the_vocabulary(
    tmp_path: Path, vocabulary: object
) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    tokens = with_bytes(("\ufffd", "\ufffd", " fox"), (1, 2, 3), tmp_path)
    if isinstance(vocabulary, dict):
        assert tokens == ("<0xF0><0x9F>", "<0xA6><0x8A>", " fox")
        html = chips(tokens, (1, 2, 3), LIGHT)
        assert "&lt;F0&gt;&lt;9F&gt;" in html and "🦊" in html
    else:
        assert tokens == ("<0xF0>", "<0x9F>", " fox")


def test_a_vocabulary_that_is_gone_leaves_the_tokens(tmp_path: Path) -> None:
    assert with_bytes(("\ufffd",), (1,), tmp_path / "gone") == ("\ufffd",)


def test_a_file_is_traced_with_its_targets_and_what_cannot_be_read_is_named(app: AppTest) -> None:
    lines = (
        'prompt,label,target\n"The opposite of hot is",a, cold\n,b,\nThe capital of Texas is,,\n'
    )
    app.file_uploader(key="prompt file").set_value([("p.csv", lines.encode(), "text/csv")])
    app.button(key="trace many").click().run()
    for job in list(resources.backend().queue):
        job.wait(120)
    drawn(app)
    assert "Prompt 1 of 2. Skipped: line 3 (it has no prompt)." in text_of(app)
    assert app.session_state["session"].explain.targets == (" cold",)
    app.button(key="next").click().run()
    assert app.session_state["session"].explain == Explain()
    rows = app.session_state["many prompts"].rows
    assert [(row.label, row.target, row.state) for row in rows] == [
        ("a", " cold", "done"),
        ("", "", "done"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.jsonl", b"[" * 100_000, "p.jsonl has no prompt (line 1: it is not JSON"),
        ("p.csv", b"\xff\xfe", "p.csv is not UTF-8"),
        ("p.csv", b"prompt\n" + b"\n".join(b"%d" % n for n in range(501)), "at most 500 can be"),
    ],
)
def test_a_file_that_is_not_prompts_is_refused(
    app: AppTest, name: str, content: bytes, message: str
) -> None:
    app.file_uploader(key="prompt file").set_value([(name, content, "text/csv")])
    app.button(key="trace many").click().run()
    assert message in text_of(app) and not app.exception
    assert app.session_state["session"].prompt == PROMPT


def test_a_long_trace_says_what_it_takes_and_waits(
    app: AppTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cache.forecast.LONG_SECONDS", 0.0001)
    monkeypatch.setattr("cache.backend.LONG_SECONDS", 0.0001)
    app.text_area(key="prompt box").set_value("The opposite of old is").run()
    while not any("long trace" in box.value for box in app.info):
        app.run()
    assert re.search(
        r"long trace: 6 tokens, about [\d.]+ [kMG]B of [\d.]+ GB and \d+ seconds?", text_of(app)
    )
    assert resources.backend().key_of(TraceRequest("The opposite of old is")) is None
    app.button(key="fewer features").click().run()
    assert app.session_state["session"].explain.max_features == 1000
    app.button(key="agree").click().run()
    drawn(app)
    assert app.session_state["session"].explain.max_features == 1000


def test_a_known_graph_is_not_asked_about(app: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cache.backend.LONG_SECONDS", 0.0)
    app.run()
    assert not app.info and not app.exception
