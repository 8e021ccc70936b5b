"""Pins and supernodes of the Trace page in a real browser."""

from __future__ import annotations

import re

import pytest
from conftest import App, settled, unfold, visitor, with_query
from graph_actions import click_node, expect_graph, graph, lasso, state
from playwright.sync_api import Browser, Locator, Page, expect

pytestmark = pytest.mark.browser
PROMPT = "The capital of the state containing Oakland is"
CALIFORNIA = "feature-1-7-232"
DALLAS = "The capital of the state containing Dallas is"
TEXAS = ("feature-1-7-887", "feature-2-7-859")
OTHERS = ("feature-0-7-171", "feature-4-8-89")


def open_prompt(app: App, page: Page, **query: object) -> None:
    page.goto(with_query(app.url, prompt=PROMPT, **query))
    expect_graph(page, "Sacramento")


def pinned(page: Page) -> Locator:
    """Return the lines of the pinned nodes that are in no supernode."""
    return page.locator("[class*='st-key-unpin-pinned']")


def replacement(scores: str) -> float:
    """Return the replacement score in the sentence about the pinned subgraph."""
    return float(scores.split()[1].replace("%", "").strip("<"))


def group_all(page: Page, name: str) -> None:
    """Make a supernode of all pinned nodes."""
    box = page.get_by_role("textbox", name="Name", exact=True)
    unfold(page.get_by_role("button", name="Create supernode"), box)
    box.fill(name)
    box.press("Enter")
    settled(page)


def test_nodes_pinned_at_the_same_moment_are_all_pinned(app: App, page: Page) -> None:
    page.goto(with_query(app.url, prompt="The capital of the state containing Tucson is"))
    expect_graph(page, "Phoenix")
    ids = page.evaluate(
        """() => {
            const dateNow = Date.now, now = performance.now, moment = Date.now();
            Date.now = () => moment;
            performance.now = () => 0;
            const graph = circuitGraphs.graphs.get('trace'), { side } = graph;
            const nodes = graph.rank.filter(i => side.kind[i] === 'feature').slice(0, 3);
            nodes.forEach(i => graph.pin(i));
            Date.now = dateNow;
            performance.now = now;
            return nodes.map(i => side.id[i]);
        }"""
    )
    expect(pinned(page)).to_have_count(3)
    settled(page)
    assert set(state(page)["pinned"]) == set(ids)


def test_nodes_are_pinned_scored_grouped_and_saved_with_the_trace(
    app: App, browser: Browser, page: Page
) -> None:
    open_prompt(app, page, node=CALIFORNIA)
    page.get_by_role("button", name="Pin", exact=True).click()
    expect(page.get_by_role("button", name="Unpin", exact=True).first).to_be_visible()
    expect(pinned(page)).to_have_count(1)
    scores = page.get_by_text(re.compile(r"replacement \S+ % of \d+ % · completeness \S+ % of"))
    expect(scores).to_be_visible()
    before = scores.inner_text()
    for number, node in enumerate(OTHERS):
        click_node(page, node, ["Shift"])
        expect(pinned(page)).to_have_count(2 + number)
        expect(scores).not_to_have_text(before)
        settled(page)
        assert replacement(scores.inner_text()) > replacement(before)
        before = scores.inner_text()
    assert state(page)["selected"] == CALIFORNIA  # shift-click pins and selects nothing

    group_all(page, "California & co")
    expect(page.get_by_text("California & co 3 nodes")).to_be_visible()
    expect(pinned(page)).to_have_count(0)
    flow = page.locator(".st-key-flow-trace .flow")
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
    expect(page.get_by_role("heading", name="Pinned", exact=True)).to_be_visible()
    settled(page)
    unfold(page.get_by_role("button", name="Edit"), page.get_by_role("button", name="Ungroup"))
    page.get_by_role("button", name="Ungroup").click()
    expect(pinned(page)).to_have_count(3)


def test_a_lasso_groups_nodes_and_undo_and_redo_step_through_the_changes(
    app: App, page: Page
) -> None:
    page.goto(with_query(app.url, prompt=DALLAS, hide="errors"))
    expect_graph(page, "Austin")
    lasso(page, TEXAS)
    box = graph(page).get_by_label("Name of the supernode")
    expect(box).to_be_focused()
    box.fill("the <b>state</b>")
    box.press("Enter")
    grouped = page.get_by_text(re.compile(r"the <b>state</b> \d+ nodes"))
    expect(grouped).to_be_visible()
    settled(page)
    [members] = state(page)["groups"]
    assert set(TEXAS) <= set(members)

    undo, redo = (page.locator(f".st-key-{name}-pins button").first for name in ("undo", "redo"))
    undo.click()
    expect(grouped).to_have_count(0)
    settled(page)
    assert state(page)["groups"] == []
    redo.click()
    expect(grouped).to_be_visible()
    settled(page)
    assert state(page)["groups"] == [members]


def test_a_supernode_is_renamed_expanded_and_its_box_stays_where_it_is_dragged(
    app: App, page: Page
) -> None:
    marks = {"pinned": [], "supernodes": [["state", CALIFORNIA, "feature-0-7-171"]]}
    open_prompt(app, page, marks=marks)
    flow = page.locator(".st-key-flow-trace .flow")
    name = page.get_by_role("textbox", name="Name", exact=True)
    unfold(page.get_by_role("button", name="Edit"), name)
    name.fill("California")
    name.press("Enter")
    expect(flow.get_by_text("California", exact=True)).to_be_visible()
    settled(page)

    box = flow.locator(".box").filter(has_text="California")
    before = box.bounding_box()
    assert before is not None
    page.mouse.move(before["x"] + 10, before["y"] + 10)
    page.mouse.down()
    page.mouse.move(before["x"] + 110, before["y"] - 20, steps=5)
    page.mouse.up()
    page.wait_for_url(re.compile("%22at%22"))
    settled(page)
    box.scroll_into_view_if_needed()  # waits until no redraw replaces the box
    moved = box.bounding_box()
    assert moved is not None and abs(moved["x"] - before["x"] - 100) < 3
    page.reload()
    expect_graph(page, "Sacramento")
    box.scroll_into_view_if_needed()
    again = box.bounding_box()
    assert again is not None and abs(again["x"] - moved["x"]) < 3

    toggle = page.get_by_text("Show each node in the diagram")
    unfold(page.get_by_role("button", name="Edit"), toggle)
    toggle.click()
    expect(flow.locator(".box")).to_have_count(3)  # two features and the answer


def test_a_link_has_no_invalid_pins_and_keeps_valid_ones_until_another_prompt_drops_them(
    app: App, page: Page
) -> None:
    page.goto(with_query(app.url, prompt="calc: 36+59=", marks='{"pinned":["<b>"]}'))
    expect_graph(page, "95")
    expect(page.get_by_text("Pin what matters")).to_be_visible()
    expect(page.get_by_test_id("stException")).to_have_count(0)
    page.keyboard.press("Tab")
    graph(page).focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("p")
    expect(pinned(page)).to_have_count(1)
    page.wait_for_url(re.compile("marks=.*logit"))
    link = page.url
    page.goto("about:blank")
    page.goto(link)
    expect(pinned(page)).to_have_count(1)
    page.get_by_role("button", name="17 + 25 = 42").click()
    expect(pinned(page)).to_have_count(0)
