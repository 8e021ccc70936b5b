"""The Compare page in a real browser."""

from __future__ import annotations

import re

import pytest
from conftest import App, settled, with_query
from graph_actions import click_node, expect_fitted, graph, state
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser


def counts(page: Page) -> str:
    """Return the sentence that counts shared features, once it is drawn."""
    sentence = page.get_by_text(re.compile(r"\d+ features? in both graphs, \d+ only left"))
    sentence.wait_for()
    settled(page)
    return sentence.inner_text()


def test_a_click_lights_edges_of_both_graphs_and_the_differences_turn_austin_into_sacramento(
    app: App, page: Page
) -> None:
    page.goto(f"{app.url}/compare")
    counts(page)
    merged = graph(page, "compare")
    expect(merged.locator("text.token", has_text="Dallas / Oakland")).to_be_visible()
    answers = merged.locator("[data-role=answers]")
    expect(answers.get_by_text(re.compile("Austin 99.9 %"))).to_be_visible()
    expect(answers.get_by_text(re.compile("Sacramento 99.9 %"))).to_be_visible()
    expect(page.locator(".st-key-differences .js-plotly-plot .point").first).to_be_visible()
    expect(page.get_by_test_id("stDataFrame")).to_be_visible()

    # a click lights edges in both graphs, and Escape clears it
    expect_fitted(page, "compare")
    node = page.evaluate(
        """() => {
            const graph = circuitGraphs.graphs.get('compare'), side = graph.side;
            const colours = i => new Set([...graph.inputs[i], ...graph.outputs[i]]
                .map(edge => side.edge_colour[edge]));
            return side.id[graph.rank.find(i => side.kind[i] === 'feature' && side.chip_of[i] < 0
                && colours(i).size > 1)];
        }"""
    )
    click_node(page, node, name="compare")
    lit = state(page, "compare")
    assert lit["selected"] == node and lit["curves"] > 2
    assert len(lit["strokes"]) > 1  # edges of both graphs, each in its colour
    page.keyboard.press("Escape")
    assert state(page, "compare")["selected"] is None

    page.get_by_role("button", name="Test the differences in Interventions").click()
    page.wait_for_url(re.compile("/interventions"))
    expect(page.get_by_role("heading", name="Difference to “Sacramento”")).to_be_visible()
    expect(page.get_by_text(re.compile(r"top token: Sacramento \(9\d"))).to_be_visible()
    expect(page.get_by_test_id("stException")).to_have_count(0)


def test_prompt_alignment_and_transcoders_change_what_is_shared(app: App, page: Page) -> None:
    page.goto(f"{app.url}/compare")
    first = counts(page)
    page.get_by_role("combobox", name="Compare with").click()
    page.get_by_role("option", name="The abbreviation of the state containing Dallas is").click()
    expect(page.get_by_text(first)).to_have_count(0)
    second = counts(page)
    page.wait_for_url(re.compile("with=The\\+abbreviation"))
    page.get_by_role("radio", name="by feature").click()
    expect(page.get_by_text(second)).to_have_count(0)
    counts(page)
    other = page.get_by_role("radiogroup", name="Transcoders for the right graph")
    other.get_by_role("radio", name="cross-layer").click()
    expect(page.get_by_text("features are matched by their label")).to_be_visible()
    counts(page)
    link = page.url
    page.goto("about:blank")
    page.goto(link)
    expect(page.get_by_text("features are matched by their label")).to_be_visible()


def test_a_target_can_be_chosen_and_an_invalid_one_is_reported(app: App, page: Page) -> None:
    same = "The capital of the state containing Dallas is"
    page.goto(with_query(f"{app.url}/compare", **{"with": same, "with_explain": "Sacramento"}))
    assert " in both graphs" in counts(page)
    merged = graph(page, "compare")
    answers = merged.locator("[data-role=answers]")
    expect(answers.get_by_text(re.compile("^Sacramento <0.1 %$"))).to_be_visible()
    box = page.get_by_role("textbox", name="Left target token")
    box.fill("Zanzibar Road")
    box.press("Enter")
    expect(page.get_by_test_id("stAlert")).to_contain_text("Left: ")
    expect(page.get_by_test_id("stAlert")).to_contain_text("Zanzibar Road")
    expect(page.get_by_test_id("stException")).to_have_count(0)
