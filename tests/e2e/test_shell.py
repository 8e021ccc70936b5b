"""The shell in a real browser: the tour, bad links, and a graph that another tab deleted."""

from __future__ import annotations

import pytest
from conftest import App, settled, visitor, with_query
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


@pytest.mark.parametrize("path", ["trace", "interventions", "compare", "features", "library"])
def test_a_bad_link_is_one_sentence_on_every_page(app: App, page: Page, path: str) -> None:
    deep = "[" * 3000
    page.goto(with_query(f"{app.url}/{path}", graph="f" * 32, marks=deep, scenarios=deep))
    expect(page.get_by_text("cannot be read, it may have been cut off").first).to_be_visible()
    settled(page)
    expect(page.get_by_test_id("stException")).to_have_count(0)
    page.get_by_role("button", name="Close", exact=True).click()
    expect(page.get_by_text("it may have been cut off")).to_have_count(0)


def test_prompts_are_in_the_sidebar_only_where_they_act(app: App, page: Page) -> None:
    page.goto(with_query(f"{app.url}/library", graph="f" * 32))
    settled(page)
    expect(page.get_by_role("heading", name="Prompts")).to_have_count(0)
    page.get_by_role("link", name="Trace a prompt").click()
    expect(page.get_by_role("heading", name="Prompts")).to_be_visible()
