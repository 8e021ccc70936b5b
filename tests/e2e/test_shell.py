"""The shell in a real browser: the tour, bad links, and a graph that another tab deleted."""

from __future__ import annotations

import json

import pytest
from conftest import App, settled, visitor, with_query
from graph_actions import expect_graph
from large_graphs import large_graph
from playwright.sync_api import Browser, Page, expect

pytestmark = pytest.mark.browser


def test_the_tour_is_shown_once_and_closed_for_good(app: App, browser: Browser) -> None:
    context = visitor(browser, tour=True)
    page = context.new_page()
    page.goto(f"{app.url}/about")
    tour = page.get_by_role("region", name="Tour")
    expect(tour.get_by_text("1 of 5")).to_be_visible()
    tour.get_by_role("button", name="Next").click()
    expect(tour.get_by_text("2 of 5")).to_be_visible()
    page.goto(f"{app.url}/guide")
    expect(tour.get_by_text("2 of 5")).to_be_visible()  # it goes on where it was left
    tour.get_by_role("button", name="Close").click()
    expect(tour).to_have_count(0)
    page.goto(f"{app.url}/about")
    settled(page)
    expect(tour).to_have_count(0)
    context.close()


def test_a_bad_link_is_one_sentence_on_every_page_and_the_library_has_no_prompts(
    app: App, page: Page
) -> None:
    deep = "[" * 3000
    for path in ("trace", "interventions", "compare", "features", "library"):
        page.goto(with_query(f"{app.url}/{path}", graph="f" * 32, marks=deep, scenarios=deep))
        problem = page.get_by_text("cannot be read, it may have been cut off").first
        expect(problem, f"on the page {path}").to_be_visible()
        settled(page)
        expect(page.get_by_test_id("stException")).to_have_count(0)
        page.get_by_role("button", name="Close", exact=True).click()
        expect(page.get_by_text("it may have been cut off")).to_have_count(0)

    # prompts are in the sidebar only where they act, which is not in the library
    expect(page.get_by_role("heading", name="Prompts")).to_have_count(0)
    page.get_by_role("link", name="Trace a prompt").click()
    expect(page.get_by_role("heading", name="Prompts")).to_be_visible()


def test_a_graph_that_another_tab_deleted_is_one_sentence(app: App, page: Page) -> None:
    content = json.loads(large_graph(6, 30))
    content["nodes"][10]["clerp"] = "<img src=x onerror=alert(1)> & <b>bold</b>"
    content["metadata"]["slug"] = "<b>deleted</b>"
    page.goto(f"{app.url}/library")
    settled(page)
    file = {
        "name": "g.json",
        "mimeType": "application/json",
        "buffer": json.dumps(content).encode(),
    }
    page.locator("input[type=file]").set_input_files([file])  # type: ignore[list-item]
    expect(page.get_by_text("g.json was imported")).to_be_visible()
    settled(page)

    dialogs: list[str] = []
    other = page.context.new_page()
    other.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    page.get_by_role("button", name="Open graph").click()
    expect_graph(page, "yes")
    other.goto(page.url)
    expect_graph(other, "yes")
    names = other.evaluate("() => circuitGraphs.graphs.get('trace').side.name")
    assert any("<img src=x onerror=alert(1)> & <b>bold</b>" in name for name in names)

    page.get_by_role("link", name="Library").click()
    row = page.locator("[class*=st-key-graph-]").filter(has_text="<b>deleted</b>")
    row.get_by_role("button", name="More").click()
    page.get_by_role("button", name="Delete this graph").click()
    expect(page.get_by_text("“<b>deleted</b>” was deleted.")).to_be_visible()
    settled(page)

    other.get_by_text("Table", exact=True).click()
    gone = other.get_by_text("This graph is not in the library")
    expect(gone).to_be_visible()
    settled(other)
    expect(other.get_by_test_id("stException")).to_have_count(0)
    for path in ("interventions", "compare", "features"):
        other.goto(f"{app.url}/{path}?{other.url.partition('?')[2]}")
        expect(other.get_by_test_id("stAlert").first).to_be_visible()
        settled(other)
        expect(other.get_by_test_id("stException")).to_have_count(0)

    # the tab that deleted it can still bring it back
    page.get_by_role("button", name="Undo").click()
    expect(row).to_be_visible()
    settled(page)
    other.goto(f"{app.url}/?{other.url.partition('?')[2]}")
    expect(other.get_by_text("48 of 48 nodes of the file shown")).to_be_visible()
    assert dialogs == []
    other.close()
