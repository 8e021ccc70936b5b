"""The Trace page in a real browser."""

from __future__ import annotations

import re

import pytest
from conftest import App, settled
from graph_actions import click_node, expect_graph, state
from playwright.sync_api import Locator, Page, expect
from servers import ServerForks

pytestmark = pytest.mark.browser
FLAGSHIP = "The capital of the state containing Dallas is"
BAD_PROMPTS = {
    "The capital of Zürich is": "Zürich",
    "<script>alert(1)</script>": "<script>alert(1)</script>",
    "The opposite of 🦊 is": "🦊",
    "of " * 80: "64",
    "   ": "empty",
}
"""Prompts that cannot be traced, and what the sentence about each of them names."""


def bars(page: Page, key: str) -> Locator:
    """Return the labels of the bars in a small chart, top to bottom."""
    chart = page.locator(f".st-key-{key} .js-plotly-plot")
    expect(chart.locator(".bars .point").first).to_be_visible()
    return chart.locator(".ytick text, .bartext")


def write_prompt(page: Page, text: str) -> None:
    box = page.get_by_label("Prompt (the graph explains its next token)")
    box.fill(text)
    box.press("Control+Enter")


def test_a_feature_is_clicked_switched_off_and_reset(app: App, page: Page) -> None:
    page.goto(app.url)
    expect_graph(page, "Austin")

    page.get_by_role("button", name="Oakland → California → Sacramento").click()
    expect_graph(page, "Sacramento")
    page.get_by_role("button", name="Dallas → Texas → Austin").click()
    expect_graph(page, "Austin")
    expect(bars(page, "next-tokens").filter(has_text="Austin")).not_to_have_count(0)

    click_node(page, "feature-1-7-887")
    expect(page.get_by_role("heading", name="about Texas")).to_be_visible()
    expect(page.get_by_text("Top activations", exact=True)).to_be_visible()
    examples = page.locator(".examples span[title^=activation]")
    expect(examples.first).to_be_visible()
    text = " ".join(examples.all_text_contents())
    assert re.search("Laredo|Houston|Dallas|Texas", text)
    expect(page.get_by_text("Strongest inputs", exact=True)).to_be_visible()
    expect(page.get_by_text("Promoted and suppressed tokens")).to_be_visible()
    page.wait_for_url(re.compile("node=feature-1-7-887"))

    page.get_by_text("Turn this feature off").click()
    expect(page.get_by_text("Next token, 1 feature edited")).to_be_visible()
    settled(page)
    off = bars(page, "comparison").all_text_contents()
    page.get_by_text("−2×", exact=True).click()
    sentence = re.compile(r"Austin falls from 99\.\d % to .* is now the top token")
    expect(page.get_by_text(sentence)).to_be_visible()
    expect(bars(page, "comparison")).not_to_have_text(off)

    page.get_by_role("button", name="Reset edits").click()
    expect(page.get_by_text("1 feature edited")).to_have_count(0)
    settled(page)
    expect(page.get_by_role("switch", name="Turn this feature off")).not_to_be_checked()
    page.get_by_role("button", name="✕").click()
    expect(bars(page, "next-tokens").filter(has_text="Austin")).not_to_have_count(0)


def test_the_thresholds_and_the_transcoders_change_the_graph_and_an_input_selects_its_node(
    app: App, page: Page
) -> None:
    page.goto(f"{app.url}/?prompt={FLAGSHIP}&node=feature-2-7-859")
    expect_graph(page, "Austin")
    expect(page.get_by_text("Strongest inputs", exact=True)).to_be_visible()
    page.locator(".neighbours .entry", has_text=re.compile("about Texas.*layer 1")).first.click()
    facts = page.locator(".node-head .facts").first
    expect(facts).to_contain_text("L1/887")
    settled(page)
    page.get_by_role("button", name="✕").click()
    expect(page.get_by_text("Most influential features")).to_be_visible()
    assert state(page)["selected"] is None
    settled(page)

    shown = page.get_by_text(re.compile(r"\d+ of \d+ nodes shown"))
    before = shown.inner_text()
    page.get_by_role("radio", name="cross-layer").or_(
        page.get_by_role("button", name="cross-layer")
    ).first.click()
    expect(shown).not_to_have_text(before)
    expect_graph(page, "Austin")
    page.wait_for_url(re.compile("transcoders=cross-layer"))

    before = shown.inner_text()
    page.get_by_role("button", name="Thresholds").click()
    slider = page.get_by_role("slider", name="Node threshold")
    slider.focus()
    for _ in range(12):
        slider.press("ArrowLeft")
    expect(shown).not_to_have_text(before)
    page.wait_for_url(re.compile("nodes=0.6"))


def test_a_bad_prompt_is_one_sentence_with_a_way_back(app: App, page: Page) -> None:
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    page.goto(app.url)
    expect_graph(page, "Austin")
    for prompt, expected in BAD_PROMPTS.items():
        write_prompt(page, prompt)
        alert = page.get_by_test_id("stAlert")
        expect(alert, f"for {prompt!r}").to_contain_text(expected)
        expect(page.get_by_test_id("stException")).to_have_count(0)
        page.get_by_role("button", name=re.compile("Back to")).click()
        expect_graph(page, "Austin")
    write_prompt(page, "calc: 17+25=")
    expect_graph(page, "42")
    assert not dialogs


@pytest.mark.parametrize(
    ("path", "expected", "sidebar"),
    [
        ("/", "Next token", "Prompts"),
        ("/guide", "How to read a graph", "Trace a prompt"),
        (
            "/trace?prompt=The+opposite+of+small+is&transcoders=cross-layer&nodes=0.7",
            "Next token large",
            "Prompts",
        ),
    ],
)
def test_a_deep_link_to_a_cold_server_works(
    forks: ServerForks | None,
    tmp_path_factory: pytest.TempPathFactory,
    page: Page,
    path: str,
    expected: str,
    sidebar: str,
) -> None:
    """On the first visit to a server, pages must load through the main script, with the sidebar."""
    server = App(tmp_path_factory.mktemp("cold") / "store", forks=forks, is_cold=True)
    try:
        page.goto(server.url + path)
        text = page.get_by_test_id("stMain").get_by_text(re.compile(expected))  # minds the case
        expect(text.first).to_be_visible()
        expect(page.get_by_test_id("stSidebar").get_by_text(sidebar, exact=True)).to_be_visible()
        expect(page.get_by_text("Page not found")).to_have_count(0)
        expect(page.get_by_test_id("stException")).to_have_count(0)
        page.goto("about:blank")  # or it would look for its server
    finally:
        server.stop()
