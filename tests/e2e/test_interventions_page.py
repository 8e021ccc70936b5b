"""What-ifs side by side, in a real browser."""

from __future__ import annotations

import re

import pytest
from conftest import App, settled
from playwright.sync_api import Locator, Page, expect

pytestmark = pytest.mark.browser


def open_page(app: App, page: Page) -> None:
    page.goto(f"{app.url}/interventions")
    expect(page.get_by_text("Start with one of these")).to_be_visible(timeout=60_000)
    settled(page)


def column(page: Page, number: int) -> Locator:
    """The bordered column that holds the figure of scenario ``number``."""
    figure = page.locator(f".st-key-column-{number} .js-plotly-plot")
    expect(figure.locator(".bars .point").first).to_be_attached()
    settled(page)
    return page.get_by_test_id("stColumn").filter(has=figure)


def choose(page: Page, label: str, option: str) -> None:
    page.get_by_role("combobox", name=label).click()
    page.get_by_role("option", name=option).first.click()
    page.keyboard.press("Escape")


def test_texas_pushed_away_in_one_column_and_california_in_its_place_in_another(
    app: App, page: Page
) -> None:
    open_page(app, page)
    page.get_by_role("button", name="Push against “about Texas”", exact=True).click()
    pushed = column(page, 0)
    expect(pushed.get_by_text(re.compile(r"Austin 99\.9 % → <0\.1 %"))).to_be_visible()
    expect(pushed.get_by_text(re.compile("−2× about Texas at “Dallas”"))).to_be_visible()

    # The other column: the same group at −1×, and California's features from Oakland's prompt.
    choose(page, "Groups of features that share a name", "about Texas · 4 features")
    page.get_by_role("radio", name="−1×").click()
    page.get_by_role("button", name="Add", exact=True).click()
    expect(column(page, 1).get_by_text(re.compile("Austin 99.9 % → "))).to_be_visible()
    expect(page.get_by_text("It goes on with Sacramento")).to_be_visible()
    page.get_by_role("combobox", name="Put it into").nth(1).click()
    page.get_by_role("option", name=re.compile("^2: −1×")).click()
    page.get_by_role("button", name="Put in", exact=True).click()
    swapped = column(page, 1)
    expect(swapped.get_by_text(re.compile(r"Sacramento is first \(9\d %\)"))).to_be_visible()
    expect(swapped.get_by_text("put in: about California at “Dallas”")).to_be_visible()
    marked = swapped.locator("span", has_text=re.compile("^Sacramento$"))
    expect(marked.first).to_be_visible()  # the first token that differs is marked
    expect(column(page, 0).get_by_text(re.compile(r"Austin 99\.9 % → <0\.1 %"))).to_be_visible()
    expect(page.get_by_test_id("stException")).to_have_count(0)


def test_a_first_click_swaps_the_state_and_a_link_brings_it_back(app: App, page: Page) -> None:
    open_page(app, page)
    page.get_by_role("button", name=re.compile("^Put “about California” in the place")).click()
    expect(column(page, 0).get_by_text(re.compile(r"Sacramento is first"))).to_be_visible()
    page.wait_for_url(re.compile("scenarios="))
    link = page.url
    page.goto("about:blank")
    page.goto(link)
    expect(column(page, 0).get_by_text(re.compile(r"Sacramento is first"))).to_be_visible()


def test_columns_are_duplicated_renamed_moved_and_removed(app: App, page: Page) -> None:
    open_page(app, page)
    page.get_by_role("button", name="Push against “about Texas”", exact=True).click()
    expect(column(page, 0)).to_be_visible()
    page.get_by_role("button", name="Duplicate").click()
    column(page, 1).get_by_role("button", name="Rename").click()
    box = page.get_by_label("Name", exact=True)
    box.fill("Free attention")
    box.press("Enter")
    expect(page.get_by_role("heading", name="Free attention")).to_be_visible()
    column(page, 1).get_by_text("Attention held").click()
    expect(column(page, 1).get_by_role("switch")).not_to_be_checked()
    column(page, 1).get_by_role("button", name="◀").click()
    expect(column(page, 0).get_by_role("heading", name="Free attention")).to_be_visible()
    expect(column(page, 0).get_by_role("switch")).not_to_be_checked()
    expect(column(page, 1).get_by_role("switch")).to_be_checked()
    column(page, 0).get_by_role("button", name="Remove").click()
    expect(page.get_by_role("heading", name="Free attention")).to_have_count(0)
    expect(column(page, 0).get_by_role("heading", name="about Texas")).to_be_visible()


def test_a_sweep_draws_a_curve_and_marks_where_the_answer_flips(app: App, page: Page) -> None:
    open_page(app, page)
    page.get_by_role("button", name="Push against “about Texas”", exact=True).click()
    sweep = page.locator(".st-key-sweep .js-plotly-plot")
    expect(sweep.locator(".scatterlayer .trace").first).to_be_attached()
    expect(sweep.locator(".annotation-text").first).to_contain_text("→")
    expect(sweep.locator(".legendtext").first).to_have_text("Austin")


def test_another_prompt_in_the_sidebar_stays_on_the_page_and_starts_afresh(
    app: App, page: Page
) -> None:
    open_page(app, page)
    page.get_by_role("button", name="Push against “about Texas”", exact=True).click()
    expect(column(page, 0)).to_be_visible()
    page.get_by_role("button", name="Oakland → Sacramento").click()
    expect(
        page.get_by_role("button", name=re.compile("Push against “about California"))
    ).to_have_count(1)
    expect(page.locator(".st-key-column-0")).to_have_count(0)
    assert "/interventions" in page.url


def test_a_link_to_a_feature_that_is_not_there_fails_in_its_own_column(
    app: App, page: Page
) -> None:
    good = (
        '{"name":"good","edits":[{"feature":[1,887],"start":7,"stop":8,"operation":"scale",'
        '"value":-2}],"freeze_attention":true,"constrained_layers":null}'
    )
    bad = good.replace("good", "bad").replace("887", "99999")
    page.goto(f"{app.url}/interventions?scenarios=[{bad},{good}]")
    expect(page.get_by_text("layer 1 has no feature 99999")).to_be_visible(timeout=60_000)
    expect(column(page, 1).get_by_text(re.compile(r"Austin 99\.9 % → 0\.1 %"))).to_be_visible()


def test_an_emptied_box_keeps_the_prompt_and_the_columns(app: App, page: Page) -> None:
    """Also what a click looks like that overtakes the page's first drawing."""
    open_page(app, page)
    page.get_by_role("button", name="Push against “about Texas”", exact=True).click()
    expect(column(page, 0)).to_be_visible()
    box = page.get_by_label("Prompt: the text whose next token is explained")
    box.fill("")
    box.press("Enter")
    expect(box).to_have_value("The capital of the state containing Dallas is")
    expect(column(page, 0)).to_be_visible()
