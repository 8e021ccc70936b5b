"""The panel of the selected node in a real browser."""

from __future__ import annotations

import re

import pytest
from conftest import App, settled, with_query
from graph_actions import click_node, expect_graph, state
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser
PROMPT = "The capital of the state containing Dallas is"
TEXAS = "feature-1-7-887"
_PANEL = """() => [...document.querySelectorAll('.st-key-node-head, .st-key-neighbours-trace')]
    .map(part => [part.innerText, part.getBoundingClientRect().bottom])"""
_HOLD = """() => {
    const graph = circuitGraphs.graphs.get('trace'), send = graph.send, held = [];
    graph.send = event => held.push(event);
    window.sendHeld = count => held.splice(0, count).forEach(send);
    window.release = () => { graph.send = send; sendHeld(held.length); };
}"""


def test_a_click_fills_the_panel_before_the_server_hears_of_it_and_no_older_answer_replaces_it(
    app: App, page: Page
) -> None:
    page.goto(with_query(app.url, prompt=PROMPT))
    expect_graph(page, "Austin")
    settled(page)
    answer = page.evaluate("""() => {
        const graph = circuitGraphs.graphs.get('trace');
        return graph.side.id[graph.rank.find(i => graph.side.kind[i] === 'logit')];
    }""")
    title, column = page.locator(".node-head h4"), page.locator("[data-ahead]")
    for node, name in ((TEXAS, "about Texas"), (answer, "Austin"), (TEXAS, "about Texas")):
        page.evaluate(_HOLD)
        click_node(page, node)
        expect(title).to_have_text(name)
        expect(column).to_be_attached()
        ahead = page.evaluate(_PANEL)
        page.evaluate("() => release()")
        expect(column).to_have_count(0)
        settled(page)
        answered = page.evaluate(_PANEL)
        assert [text for text, _ in ahead] == [text for text, _ in answered]
        assert [end for _, end in ahead] == pytest.approx([end for _, end in answered], abs=3)
    expect(
        page.locator(f".examples[data-of={TEXAS}] span[title^=activation]").first
    ).to_be_visible()

    # an answer to an earlier click does not replace the panel
    page.keyboard.press("Escape")
    expect(page.get_by_text("Most influential features")).to_be_visible()
    settled(page)
    page.evaluate(_HOLD)
    click_node(page, TEXAS)
    expect(title).to_have_text("about Texas")
    page.locator(".neighbours .entry").first.click()
    expect(title).not_to_have_text("about Texas")
    second = state(page)["selected"]
    name = title.inner_text()
    page.evaluate("() => sendHeld(1)")  # the server hears of the first click alone
    page.wait_for_url(re.compile(f"node={TEXAS}"))
    settled(page)
    assert (title.inner_text(), state(page)["selected"]) == (name, second)
    page.evaluate("() => release()")
    page.wait_for_url(re.compile(f"node={second}"))
    settled(page)
    assert (title.inner_text(), state(page)["selected"]) == (name, second)


def test_the_panel_shows_the_feature_its_neighbours_examples_and_a_text_of_ones_own(
    app: App, page: Page
) -> None:
    page.goto(with_query(app.url, prompt=PROMPT))
    expect_graph(page, "Austin")
    click_node(page, TEXAS)
    expect(page.get_by_role("heading", name="about Texas")).to_be_visible()
    facts = page.locator(".node-head .facts").first
    expect(facts).to_contain_text(re.compile(r"L1/887 · activation 2\.\d+ .* influence \d+ %"))
    expect(page.locator(".st-key-histogram .js-plotly-plot .bars .point").first).to_be_attached()
    expect(page.get_by_text("active on 0.5 % of tokens")).to_be_visible()
    settled(page)

    # both signs, strongest first, all on demand
    entries = page.locator(".neighbours .entry")
    expect(entries.locator(".bar .positive").first).to_be_visible()
    expect(entries.locator(".bar .negative").first).to_be_attached()
    few = entries.count()
    page.locator(".neighbours .more").first.click()
    assert entries.count() > few
    weights = page.evaluate(
        """() => { const g = circuitGraphs.graphs.get('trace'), i = g.selected;
            return [g.inputs[i].length, g.outputs[i].length]; }"""
    )
    page.locator(".neighbours .more", has_text="Show all").first.click()
    assert entries.count() >= sum(weights)  # also edges below the edge threshold
    count = page.locator(".neighbours .count").first
    expect(count).to_have_text(
        re.compile(r"^\d+ (in|out)puts, \d+ drawn at an edge threshold of 0\.98$")
    )

    # the examples by quantile; hovering a token shows its activation
    groups = page.get_by_text(re.compile("^(Top activations|Upper half|Lower half)$"))
    expect(groups).to_have_count(3)
    shaded = page.locator(".examples span[title^=activation]")
    expect(shaded.first).to_have_attribute("title", re.compile(r"activation \d+\.\d\d"))
    settled(page)

    # a text of one's own is shaded too
    text = page.get_by_role("textbox", name="Try your own text")
    text.fill("The capital of the state containing Houston is")
    text.press("Control+Enter")
    expect(page.get_by_text("Fires most at “Houston”")).to_be_visible()
    expect(page.get_by_test_id("stException")).to_have_count(0)


def test_back_and_forward_step_through_the_selected_nodes(app: App, page: Page) -> None:
    page.goto(with_query(app.url, prompt=PROMPT, node=TEXAS))
    expect_graph(page, "Austin")
    page.locator(".neighbours .entry").first.click()
    page.wait_for_url(re.compile(r"node=(?!feature-1-7-887)"))
    settled(page)
    second = state(page)["selected"]
    page.get_by_role("button", name="←").click()
    page.wait_for_url(re.compile(f"node={TEXAS}"))
    settled(page)
    assert state(page)["selected"] == TEXAS
    page.get_by_role("button", name="→", exact=True).click()
    page.wait_for_url(re.compile(f"node={second}"))
    settled(page)
    assert state(page)["selected"] == second
