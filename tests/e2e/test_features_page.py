"""The Features page in a real browser: find a feature, read it, name it, see the name elsewhere."""

from __future__ import annotations

import re

import pytest
from conftest import App, settled, with_query
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser

PROMPT = "The capital of the state containing Dallas is"


def click_row(page: Page, row: int) -> None:
    """Click into the first column of a table, which is drawn on a canvas."""
    box = page.get_by_test_id("stDataFrame").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 60, box["y"] + 35 * row + 52)


def test_a_feature_is_found_opened_named_traced_where_it_fires_and_keeps_its_name(
    app: App, page: Page
) -> None:
    page.goto(with_query(f"{app.url}/features", prompt=PROMPT))
    expect(page.get_by_text("Click one to open it")).to_be_visible()
    settled(page)
    page.get_by_label("Name contains").fill("L1/887")
    page.get_by_label("Name contains").press("Enter")
    expect(page.get_by_text(re.compile(r"^[12] active features? of"))).to_be_visible()
    settled(page)
    click_row(page, 0)
    expect(page.get_by_role("heading", name="about Texas")).to_be_visible()
    expect(page.get_by_text("Fires most at “Dallas”")).to_be_visible()
    settled(page)
    assert "feature=L1%2F887" in page.url

    box = page.get_by_role("textbox", name="Your label")
    box.fill("<b>Lone Star</b>")
    box.press("Enter")
    expect(page.get_by_role("heading", name="<b>Lone Star</b>")).to_be_visible()
    settled(page)
    link = page.url
    page.goto(link)  # a reload
    expect(page.get_by_role("heading", name="<b>Lone Star</b>")).to_be_visible()
    expect(page.get_by_text("L1/887 · your label")).to_be_visible()
    settled(page)

    # a prompt is traced where the feature fires
    expect(page.get_by_text("Trace a prompt where it fires")).to_be_visible()
    settled(page)
    page.get_by_role("button", name="people from Dallas").click()
    expect(page.get_by_text("nodes shown")).to_be_visible()
    assert "people+from+Dallas" in page.url
    settled(page)

    page.goto(with_query(f"{app.url}/trace", prompt=PROMPT, node="feature-1-7-887"))
    expect(page.get_by_text("<b>Lone Star</b>").first).to_be_visible()
    expect(page.get_by_test_id("stException")).to_have_count(0)


def test_the_dictionary_is_searched_and_a_neighbour_opened(app: App, page: Page) -> None:
    search = {"in": "dictionary", "by": "promoted", "find": " Austin"}
    page.goto(with_query(f"{app.url}/features", prompt=PROMPT, **search))
    expect(page.get_by_text("Click one to open it")).to_be_visible()
    settled(page)
    click_row(page, 0)
    expect(page.get_by_text("L0/67 · ")).to_be_visible()
    settled(page)
    neighbour = page.get_by_role("button", name="z +").first
    expect(neighbour).to_be_visible()
    settled(page)  # the neighbours come after the rest, and redraw the page
    shown = re.compile(r"feature=L0%2F67\b")
    expect(page).to_have_url(shown)
    neighbour.click()
    expect(page).not_to_have_url(shown)  # its own neighbours may name L0/67 again
    expect(page).to_have_url(re.compile(r"feature=L"))
    settled(page)
    text = page.get_by_role("textbox", name="Try your own text")
    text.fill("The capital of Texas is")
    text.press("Control+Enter")
    settled(page)
    expect(page.get_by_test_id("stException")).to_have_count(0)
    page.go_back()
