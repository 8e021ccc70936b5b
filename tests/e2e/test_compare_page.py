"""Two graphs in one, in a real browser."""

from __future__ import annotations

import re

import pytest
from conftest import App, settled, with_query
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser


def counts(page: Page) -> str:
    """What is said of the comparison, once it is there."""
    said = page.get_by_text(re.compile(r"\d+ features? in both, \d+ only left"))
    expect(said).to_be_visible()
    settled(page)
    return said.inner_text()


def test_what_differs_makes_dallas_say_what_oakland_says(app: App, page: Page) -> None:
    page.goto(f"{app.url}/compare")
    counts(page)
    merged = page.locator(".st-key-merged .js-plotly-plot")
    expect(merged.get_by_text("Dallas / Oakland")).to_be_visible()
    expect(merged.get_by_text(re.compile("Austin 99.9 %"))).to_be_visible()
    expect(merged.get_by_text(re.compile("Sacramento 99.9 %"))).to_be_visible()
    expect(page.locator(".st-key-differences .js-plotly-plot .point").first).to_be_visible()
    expect(page.get_by_test_id("stDataFrame")).to_be_visible()

    page.get_by_role("button", name="Send what differs to Interventions").click()
    page.wait_for_url(re.compile("/interventions"))
    expect(page.get_by_role("heading", name="What differs from “Sacramento”")).to_be_visible()
    expect(page.get_by_text(re.compile(r"Sacramento is first \(9\d"))).to_be_visible()
    expect(page.get_by_test_id("stException")).to_have_count(0)


def test_another_prompt_alignment_and_transcoders_change_what_is_shared(
    app: App, page: Page
) -> None:
    page.goto(f"{app.url}/compare")
    first = counts(page)
    page.get_by_role("combobox", name="Compare it with").click()
    page.get_by_role("option", name="The abbreviation of the state containing Dallas is").click()
    expect(page.get_by_text(first)).to_have_count(0)
    second = counts(page)
    page.wait_for_url(re.compile("with=The\\+abbreviation"))
    page.get_by_role("radio", name="by feature, anywhere").click()
    expect(page.get_by_text(second)).to_have_count(0)
    counts(page)
    other = page.get_by_role("radiogroup", name="The other one traced with")
    other.get_by_role("radio", name="cross-layer").click()
    expect(page.get_by_text("here they are matched by name")).to_be_visible()
    counts(page)
    link = page.url
    page.goto("about:blank")
    page.goto(link)
    expect(page.get_by_text("here they are matched by name")).to_be_visible()


def test_another_target_is_explained_and_a_wrong_one_is_one_sentence(app: App, page: Page) -> None:
    same = "The capital of the state containing Dallas is"
    page.goto(with_query(f"{app.url}/compare", **{"with": same, "with_explain": "Sacramento"}))
    assert " in both" in counts(page)
    merged = page.locator(".st-key-merged .js-plotly-plot")
    expect(merged.get_by_text(re.compile("^Sacramento <0.1 %$"))).to_be_visible()
    box = page.get_by_label("On the left")
    box.fill("Zanzibar Road")
    box.press("Enter")
    expect(page.get_by_test_id("stAlert")).to_contain_text("Left: ")
    expect(page.get_by_test_id("stAlert")).to_contain_text("not one token of atlas")
    expect(page.get_by_test_id("stException")).to_have_count(0)
