"""Pins and supernodes of the Trace page in a real browser."""

from __future__ import annotations

import re

import pytest
from conftest import App, settled, visitor, with_query
from playwright.sync_api import Browser, Locator, Page, expect

pytestmark = pytest.mark.browser
PROMPT = "The capital of the state containing Oakland is"


def open_node(app: App, page: Page, node: str) -> None:
    page.goto(with_query(app.url, prompt=PROMPT, node=node))
    expect(page.get_by_text("Strongest inputs", exact=True)).to_be_visible()
    settled(page)


def chips(page: Page) -> Locator:
    return page.locator(".st-key-pinned-nodes .react-aria-ComboBox [data-tag]")


def click_node(page: Page, node: str) -> None:
    """Click the marker of a feature."""
    at = page.evaluate(
        """node => {
            const plot = document.querySelector('.st-key-graph .js-plotly-plot');
            const trace = plot.data.find(t => t.name === 'feature');
            const i = trace.customdata.indexOf(node);
            const axes = plot._fullLayout, box = plot.getBoundingClientRect();
            return {
                x: box.x + axes.xaxis._offset + axes.xaxis.l2p(trace.x[i]),
                y: box.y + axes.yaxis._offset + axes.yaxis.l2p(trace.y[i]),
            };
        }""",
        node,
    )
    page.mouse.click(at["x"], at["y"])


def test_nodes_are_pinned_grouped_and_saved_with_the_trace(
    app: App, browser: Browser, page: Page
) -> None:
    open_node(app, page, "feature-1-7-232")
    page.get_by_role("button", name="Pin", exact=True).click()
    expect(page.get_by_role("button", name="Unpin")).to_be_visible()
    expect(chips(page)).to_have_count(1)

    page.get_by_text("Pin on click").click()
    settled(page)
    page.mouse.wheel(0, -3000)
    for number, node in enumerate(("feature-0-7-171", "feature-4-8-89")):
        click_node(page, node)
        expect(chips(page)).to_have_count(2 + number)
        settled(page)

    page.get_by_role("button", name="Create supernode").click()
    page.get_by_label("Supernode name").fill("California & co")
    page.get_by_role("button", name="Create", exact=True).click()
    expect(page.get_by_text("California & co 3 nodes")).to_be_visible()
    expect(chips(page)).to_have_count(0)
    flow = page.locator(".st-key-flow .js-plotly-plot")
    expect(flow.get_by_text("California & co")).to_be_visible()
    expect(flow.get_by_text("Sacramento").first).to_be_visible()

    # another visitor without the link sees the annotations saved with the trace
    context = visitor(browser)
    other = context.new_page()
    other.goto(with_query(app.url, prompt=PROMPT))
    expect(other.get_by_text("California & co 3 nodes")).to_be_visible()
    context.close()

    # the supernode is a group on the Interventions page
    page.get_by_role("link", name="Interventions").click()
    expect(page.get_by_text("Suggested scenarios")).to_be_visible()
    settled(page)
    page.get_by_role("button", name="Steer against “California & co”").click()
    expect(page.get_by_text("−2× about California at “Oakland”")).to_be_visible()
    settled(page)
    page.get_by_role("link", name="Trace").click()
    expect(page.get_by_role("heading", name="Pinned nodes")).to_be_visible()
    settled(page)
    page.get_by_role("button", name="Ungroup").click()
    expect(chips(page)).to_have_count(3)


def test_a_node_is_pinned_by_search_and_the_link_keeps_it(app: App, page: Page) -> None:
    page.goto(with_query(app.url, prompt="calc: 36+59="))
    expect(page.get_by_role("heading", name="Pin nodes")).to_be_visible()
    settled(page)
    search = page.locator(".st-key-pinned-nodes input")
    search.click()
    search.fill("position 4")
    page.get_by_role("option").first.click()
    expect(chips(page)).to_have_count(1)
    page.wait_for_url(re.compile("marks=.*token"))
    name = chips(page).first.inner_text()
    link = page.url
    page.goto("about:blank")
    page.goto(link)
    expect(chips(page).first).to_contain_text(name)
    page.get_by_role("button", name="17 + 25 = 42").click()
    expect(chips(page)).to_have_count(0)


def test_invalid_annotations_in_a_link_are_dropped(app: App, page: Page) -> None:
    page.goto(with_query(app.url, prompt="calc: 80+40=", marks='{"pinned":["<b>"]}'))
    expect(page.get_by_role("heading", name="Pin nodes")).to_be_visible()
    expect(page.get_by_test_id("stException")).to_have_count(0)
