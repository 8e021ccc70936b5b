"""The Interventions page in a real browser."""

from __future__ import annotations

import re

import pytest
from conftest import App, downloaded, settled, unfold, with_query
from playwright.sync_api import Error, Locator, Page, expect

pytestmark = pytest.mark.browser
GROUPS = "Features to edit"
STRENGTH = "Steering strength (× activation)"
OFF = {
    "name": "Texas off",
    "edits": [{"feature": [1, 887], "start": 7, "stop": 8, "operation": "scale", "value": 0}],
    "freeze_attention": True,
    "constrained_layers": None,
}
MARKS = {
    "pinned": ["feature-4-8-1008"],
    "supernodes": [["Texas", "feature-1-7-887", "feature-2-7-859", "feature-2-7-529"]],
}


def open_page(app: App, page: Page) -> None:
    """Open the page; other tests may have left runs in the history of the prompt."""
    page.goto(f"{app.url}/interventions")
    page.get_by_text("Suggested scenarios").wait_for()
    settled(page)


def column(page: Page, number: int) -> Locator:
    """Return the column with the figure of scenario ``number``."""
    figure = page.locator(f".st-key-column-{number} .js-plotly-plot")
    figure.locator(".bars .point").first.wait_for(state="attached")
    settled(page)
    return page.get_by_test_id("stColumn").filter(has=figure)


def press(page: Page, label: str, key: str, times: int) -> None:
    """Move a slider with the keyboard; the server is told where it comes to rest."""
    slider = page.get_by_role("slider", name=label)
    for _ in range(times):
        before = slider.input_value()
        slider.press(key)
        expect(slider).not_to_have_value(before)
    page.wait_for_timeout(300)  # the browser sends the value with a delay
    settled(page)


def choose(page: Page, label: str, option: str) -> None:
    """Choose from a list; open it again if a redraw closed it."""
    choice = page.get_by_role("option", name=option).first
    for _ in range(5):
        page.get_by_role("combobox", name=label).click()
        try:
            choice.click(timeout=3_000)
            break
        except Error:
            continue
    else:
        pytest.fail(f"{label!r} has no {option!r}")
    page.keyboard.press("Escape")
    settled(page)


def test_texas_is_steered_against_in_one_column_and_replaced_in_another(
    app: App, page: Page
) -> None:
    open_page(app, page)
    page.get_by_role("button", name="Steer against “about Texas”", exact=True).click()
    steered = column(page, 0)
    expect(steered.get_by_text(re.compile(r"Austin 99\.9 % → <0\.1 %"))).to_be_visible()
    expect(steered.get_by_text(re.compile("−2× about Texas at “Dallas”"))).to_be_visible()

    # second column: the same group at −1×, and California's features from Oakland's prompt
    choose(page, GROUPS, "about Texas · 5 features")
    press(page, STRENGTH, "ArrowLeft", 4)
    page.get_by_role("button", name="Add", exact=True).click()
    expect(column(page, 1).get_by_text(re.compile("Austin 99.9 % → "))).to_be_visible()
    expect(column(page, 1).get_by_text(re.compile("−1× about Texas at “Dallas”"))).to_be_visible()
    page.get_by_role("tab", name="Another prompt").click()
    expect(page.get_by_text("Its next token: Sacramento")).to_be_visible()
    page.get_by_role("combobox", name="Add to column").click()
    page.get_by_role("option", name=re.compile("^2: −1×")).click()
    page.get_by_role("button", name="Transplant", exact=True).click()
    swapped = column(page, 1)
    expect(swapped.get_by_text(re.compile(r"top token: Sacramento \([89]\d %\)"))).to_be_visible()
    expect(swapped.get_by_text("set: about California at “Dallas”")).to_be_visible()
    marked = swapped.locator("span", has_text=re.compile("^Sacramento$"))
    expect(marked.first).to_be_visible()  # the first token that differs is marked
    expect(column(page, 0).get_by_text(re.compile(r"Austin 99\.9 % → <0\.1 %"))).to_be_visible()
    expect(page.get_by_test_id("stException")).to_have_count(0)


def test_one_supernode_changes_the_language(app: App, page: Page) -> None:
    page.goto(with_query(f"{app.url}/interventions", prompt="Das Gegenteil von klein ist"))
    expect(page.get_by_text("Suggested scenarios")).to_be_visible()
    settled(page)
    page.get_by_text("Add edits").click()
    choose(page, GROUPS, "say a German word")
    press(page, STRENGTH, "ArrowLeft", 4)
    page.get_by_role("button", name="Add", exact=True).click()
    expect(column(page, 0).get_by_text(re.compile("−1× say a German word"))).to_be_visible()
    page.get_by_role("tab", name="Another prompt").click()
    choose(page, "Source prompt", "El contrario de pequeño es")
    expect(page.get_by_text("Its next token: grande")).to_be_visible()
    choose(page, "Features to transplant", "say a Spanish word")
    choose(page, "Add to column", "1: −1×: say a German word")
    settled(page)
    page.get_by_role("button", name="Transplant", exact=True).click()
    expect(
        column(page, 0).get_by_text(re.compile(r"top token: grande \((9\d|100)"))
    ).to_be_visible()


def test_a_suggestion_replaces_the_state_and_a_link_restores_it(app: App, page: Page) -> None:
    open_page(app, page)
    page.get_by_role(
        "button", name=re.compile("^Replace “about Texas” with “about California”")
    ).click()
    expect(column(page, 0).get_by_text("top token: Sacramento")).to_be_visible()
    page.wait_for_url(re.compile("scenarios="))
    link = page.url
    page.goto("about:blank")
    page.goto(link)
    expect(column(page, 0).get_by_text("top token: Sacramento")).to_be_visible()


def test_a_missing_feature_fails_only_in_its_own_column(app: App, page: Page) -> None:
    good = (
        '{"name":"good","edits":[{"feature":[1,887],"start":7,"stop":8,"operation":"scale",'
        '"value":-2}],"freeze_attention":true,"constrained_layers":null}'
    )
    bad = good.replace("good", "bad").replace("887", "99999")
    page.goto(f"{app.url}/interventions?scenarios=[{bad},{good}]")
    expect(page.get_by_test_id("stAlert").get_by_text("99999")).to_be_visible()
    expect(column(page, 1).get_by_text(re.compile(r"Austin 99\.9 % → 0\.1 %"))).to_be_visible()


def test_a_run_is_swept_its_columns_are_edited_another_prompt_clears_them_and_a_feature_is_found(
    app: App, page: Page
) -> None:
    open_page(app, page)
    page.get_by_role("button", name="Steer against “about Texas”", exact=True).click()
    expect(column(page, 0)).to_be_visible()
    sweep = page.locator(".st-key-sweep .js-plotly-plot")
    expect(sweep.locator(".scatterlayer .trace").first).to_be_attached()
    expect(sweep.locator(".annotation-text").first).to_contain_text("→")  # where the top flips
    expect(sweep.locator(".legendtext").first).to_have_text("Austin")

    page.get_by_role("button", name="Duplicate").click()
    column(page, 1).get_by_role("button", name="Rename").click()
    box = page.get_by_label("Name", exact=True)
    box.fill("Free attention")
    box.press("Enter")
    expect(page.get_by_role("heading", name="Free attention")).to_be_visible()
    column(page, 1).get_by_text("Freeze attention").click()
    expect(column(page, 1).get_by_role("switch")).not_to_be_checked()
    column(page, 1).get_by_role("button", name="◀").click()
    expect(column(page, 0).get_by_role("heading", name="Free attention")).to_be_visible()
    expect(column(page, 0).get_by_role("switch")).not_to_be_checked()
    expect(column(page, 1).get_by_role("switch")).to_be_checked()
    column(page, 0).get_by_role("button", name="Remove").click()
    expect(page.get_by_role("heading", name="Free attention")).to_have_count(0)
    expect(column(page, 0).get_by_role("heading", name="about Texas")).to_be_visible()

    # an empty box keeps the prompt: a click before the page is first drawn looks the same
    box = page.get_by_label("Prompt (the graph explains its next token)")
    box.fill("")
    box.press("Control+Enter")
    expect(box).to_have_value("The capital of the state containing Dallas is")
    expect(column(page, 0)).to_be_visible()

    page.get_by_role("button", name="Oakland → California → Sacramento").click()
    expect(
        page.get_by_role("button", name=re.compile("Steer against “about California"))
    ).to_have_count(1)
    expect(page.locator(".st-key-column-0")).to_have_count(0)
    assert "/interventions" in page.url
    settled(page)

    # a feature is found by its number and set from a position onward
    page.get_by_text("Add edits").click()
    page.get_by_role("tab", name="All features").click()
    box = page.get_by_label("Search all features by label or number")
    box.fill("Atlantis")
    box.press("Enter")
    expect(page.get_by_text("No feature label matches this search.")).to_be_visible()
    box.fill("L1/887")
    box.press("Enter")
    picked = page.get_by_role("combobox", name="Feature", exact=True)
    expect(picked).to_have_value("about Texas · L1/887")
    settled(page)
    where = page.locator(".st-key-where-found")
    where.get_by_role("radio", name="this position onward").click()
    settled(page)
    page.get_by_role("button", name="Add feature").click()
    expect(column(page, 0).get_by_text("set: about Texas at “is …”")).to_be_visible()


def test_a_run_is_exported_restored_and_changed_and_pins_and_a_token_are_followed(
    app: App, page: Page
) -> None:
    page.goto(with_query(f"{app.url}/interventions", scenarios=[OFF], marks=MARKS))
    expect(column(page, 0)).to_be_visible()
    table = downloaded(page, page.get_by_role("button", name="Download as CSV"))
    text = table.read_text(encoding="utf-8")
    assert "Texas off, Austin," in text and "baseline, Austin," in text
    script = downloaded(page, page.get_by_role("button", name="Download as Python script"))
    assert "tracer.run_scenarios" in script.read_text(encoding="utf-8")

    page.get_by_text("Run these scenarios on other prompts").click()
    page.get_by_text("Run on these prompts").click()
    expect(page.get_by_test_id("stDataFrame")).to_be_visible()
    expect(page.get_by_test_id("stException")).to_have_count(0)

    column(page, 0).get_by_role("button", name="Remove").click()
    expect(page.locator(".st-key-column-0")).to_have_count(0)
    settled(page)
    page.get_by_text(re.compile("Earlier runs on this prompt")).click()
    latest = page.locator("p", has_text=re.compile("^Texas off ")).first
    expect(latest).to_be_visible()
    page.get_by_role("button", name="Restore").first.click()
    expect(column(page, 0).get_by_text("off: about Texas at “Dallas”")).to_be_visible()

    # pins are watched, and a token is tracked
    watched = page.locator(".st-key-pins-0 .js-plotly-plot")
    expect(watched.get_by_text("Texas", exact=True)).to_be_visible()
    track = page.get_by_role("textbox", name="Track token")
    track.fill("Sacramento")
    track.press("Enter")
    expect(page.get_by_text("Probability of Sacramento: <0.1 %")).to_be_visible()
    expect(column(page, 0).get_by_text("Sacramento <0.1 % → <0.1 %")).to_be_visible()
    page.wait_for_url(re.compile("follow=Sacramento"))
    track.fill("Zanzibar Road")
    track.press("Enter")
    alert = page.get_by_test_id("stAlert").filter(has_text="Zanzibar Road")
    expect(alert).to_have_count(1)

    # the steering strength of an edit
    before = column(page, 0).locator("p", has_text="Austin 99.9 % →").inner_text()
    slider = "Edit strength (× activation)"
    unfold(
        column(page, 0).get_by_role("button", name="Change"),
        page.get_by_role("slider", name=slider),
    )
    press(page, slider, "ArrowLeft", 8)
    expect(column(page, 0).get_by_text("−2× about Texas at “Dallas”")).to_be_visible()
    expect(column(page, 0).locator("p", has_text="Austin 99.9 % →")).not_to_have_text(before)

    page.get_by_text("Freeze norms").click()
    settled(page)
    page.wait_for_url(re.compile("freeze_norms%22%3Atrue"))


def test_the_graph_is_checked_against_the_model_and_supernodes_are_switched_off(
    app: App, page: Page
) -> None:
    page.goto(with_query(f"{app.url}/interventions", marks=MARKS))
    page.get_by_text("Run check").click()
    ranked = page.locator(".st-key-ranked .js-plotly-plot")
    expect(ranked.locator(".bars .point")).to_have_count(4)  # the pin and the supernode's three
    measured = page.locator(".st-key-flow-Measured .flow")
    expect(measured.get_by_text("Texas", exact=True)).to_be_visible()
    expect(measured.get_by_text("off", exact=True)).to_be_visible()
    expect(measured.get_by_text(re.compile(r"activation \d+ %"))).to_be_visible()

    page.get_by_role("radio", name="most influential features").click()
    expect(ranked.locator(".bars .point").nth(15)).to_be_attached()
    fit = page.get_by_text(re.compile(r"Correlation r = 0\.9\d, slope")).first
    expect(fit).to_be_visible()
    page.get_by_role("radio", name="attention only").click()
    expect(page.get_by_text(re.compile(r"Correlation r = −?-?0\.[0-4]")).first).to_be_visible()
