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


def test_the_panel_shows_the_feature_its_neighbours_and_examples(app: App, page: Page) -> None:
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
    shaded = page.locator("[data-testid=stHtml] span[title^=activation]")
    expect(shaded.first).to_have_attribute("title", re.compile(r"activation \d+\.\d\d"))


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


def test_a_text_of_ones_own_is_shaded_in_the_panel(app: App, page: Page) -> None:
    page.goto(with_query(app.url, prompt=PROMPT, node=TEXAS))
    expect_graph(page, "Austin")
    text = page.get_by_role("textbox", name="Try your own text")
    text.fill("The capital of the state containing Houston is")
    text.press("Control+Enter")
    expect(page.get_by_text("Fires most at “Houston”")).to_be_visible()
    expect(page.get_by_test_id("stException")).to_have_count(0)
