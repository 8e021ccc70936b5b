"""What-ifs side by side, in a real browser."""

from __future__ import annotations

import re

import pytest
from conftest import App, settled, unfold, with_query
from playwright.sync_api import Error, Locator, Page, expect

pytestmark = pytest.mark.browser
GROUPS = "Your pins and supernodes, and features that share a name"
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
    """Also after other tests have left runs in the history of the prompt."""
    page.goto(f"{app.url}/interventions")
    expect(page.get_by_text("Start with one of these")).to_be_visible()
    settled(page)


def column(page: Page, number: int) -> Locator:
    """The bordered column that holds the figure of scenario ``number``."""
    figure = page.locator(f".st-key-column-{number} .js-plotly-plot")
    expect(figure.locator(".bars .point").first).to_be_attached()
    settled(page)
    return page.get_by_test_id("stColumn").filter(has=figure)


def press(page: Page, label: str, key: str, times: int) -> None:
    """Move a slider with the keyboard, a step at a time."""
    slider = page.get_by_role("slider", name=label)
    for _ in range(times):
        before = slider.input_value()
        slider.press(key)
        expect(slider).not_to_have_value(before)
        page.wait_for_timeout(300)  # the browser waits a moment before it tells the server
        settled(page)


def choose(page: Page, label: str, option: str) -> None:
    """Pick from a list; a list that the page's own movement has closed is opened again."""
    wanted = page.get_by_role("option", name=option).first
    for _ in range(5):
        page.get_by_role("combobox", name=label).click()
        try:
            wanted.click(timeout=3_000)
            break
        except Error:
            continue
    else:
        pytest.fail(f"{label!r} has no {option!r}")
    page.keyboard.press("Escape")
    settled(page)


def test_texas_pushed_away_in_one_column_and_california_in_its_place_in_another(
    app: App, page: Page
) -> None:
    open_page(app, page)
    page.get_by_role("button", name="Push against “about Texas”", exact=True).click()
    pushed = column(page, 0)
    expect(pushed.get_by_text(re.compile(r"Austin 99\.9 % → <0\.1 %"))).to_be_visible()
    expect(pushed.get_by_text(re.compile("−2× about Texas at “Dallas”"))).to_be_visible()

    # The other column: the same group at −1×, and California's features from Oakland's prompt.
    choose(page, GROUPS, "about Texas · 5 features")
    press(page, "Strength, times their own activation", "ArrowLeft", 4)
    page.get_by_role("button", name="Add", exact=True).click()
    expect(column(page, 1).get_by_text(re.compile("Austin 99.9 % → "))).to_be_visible()
    expect(column(page, 1).get_by_text(re.compile("−1× about Texas at “Dallas”"))).to_be_visible()
    page.get_by_role("tab", name="Another prompt").click()
    expect(page.get_by_text("It goes on with Sacramento")).to_be_visible()
    page.get_by_role("combobox", name="Put it into").click()
    page.get_by_role("option", name=re.compile("^2: −1×")).click()
    page.get_by_role("button", name="Put in", exact=True).click()
    swapped = column(page, 1)
    expect(swapped.get_by_text(re.compile(r"Sacramento is first \([89]\d %\)"))).to_be_visible()
    expect(swapped.get_by_text("put in: about California at “Dallas”")).to_be_visible()
    marked = swapped.locator("span", has_text=re.compile("^Sacramento$"))
    expect(marked.first).to_be_visible()  # the first token that differs is marked
    expect(column(page, 0).get_by_text(re.compile(r"Austin 99\.9 % → <0\.1 %"))).to_be_visible()
    expect(page.get_by_test_id("stException")).to_have_count(0)


def test_one_supernode_changes_the_language(app: App, page: Page) -> None:
    page.goto(with_query(f"{app.url}/interventions", prompt="Das Gegenteil von klein ist"))
    expect(page.get_by_text("Start with one of these")).to_be_visible()
    settled(page)
    page.get_by_text("Add a what-if").click()
    choose(page, GROUPS, "say a German word")
    press(page, "Strength, times their own activation", "ArrowLeft", 4)
    page.get_by_role("button", name="Add", exact=True).click()
    expect(column(page, 0).get_by_text(re.compile("−1× say a German word"))).to_be_visible()
    page.get_by_role("tab", name="Another prompt").click()
    choose(page, "The prompt they come from", "El contrario de pequeño es")
    expect(page.get_by_text("It goes on with grande")).to_be_visible()
    choose(page, "Group of its features", "say a Spanish word")
    choose(page, "Put it into", "1: −1×: say a German word")
    settled(page)
    page.get_by_role("button", name="Put in", exact=True).click()
    expect(column(page, 0).get_by_text(re.compile(r"grande is first \((9\d|100)"))).to_be_visible()


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
    page.get_by_role("button", name="Oakland → California → Sacramento").click()
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
    expect(page.get_by_text("layer 1 has no feature 99999")).to_be_visible()
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


def test_pins_are_watched_and_a_chosen_token_is_followed(app: App, page: Page) -> None:
    page.goto(with_query(f"{app.url}/interventions", scenarios=[OFF], marks=MARKS))
    watched = page.locator(".st-key-pins-0 .js-plotly-plot")
    expect(watched.get_by_text("Texas", exact=True)).to_be_visible()
    follow = page.get_by_label("Follow the probability of")
    follow.fill("Sacramento")
    follow.press("Enter")
    expect(page.get_by_text("Probability of Sacramento: <0.1 %")).to_be_visible()
    expect(column(page, 0).get_by_text("Sacramento <0.1 % → <0.1 %")).to_be_visible()
    page.wait_for_url(re.compile("follow=Sacramento"))
    follow.fill("Zanzibar Road")
    follow.press("Enter")
    expect(page.get_by_text("is not one token of atlas")).to_be_visible()

    # The strength of an edit, in units of the feature's own activation.
    before = column(page, 0).locator("p", has_text="Austin 99.9 % →").inner_text()
    slider = "about Texas at “Dallas”, times its activation"
    unfold(
        column(page, 0).get_by_role("button", name="Change"),
        page.get_by_role("slider", name=slider),
    )
    press(page, slider, "ArrowLeft", 8)
    expect(column(page, 0).get_by_text("−2× about Texas at “Dallas”")).to_be_visible()
    expect(column(page, 0).locator("p", has_text="Austin 99.9 % →")).not_to_have_text(before)

    page.get_by_text("Norms held").click()
    settled(page)
    page.wait_for_url(re.compile("freeze_norms%22%3Atrue"))


def test_any_feature_is_found_by_its_label_and_set_from_there_on(app: App, page: Page) -> None:
    open_page(app, page)
    page.get_by_text("Add a what-if").click()
    page.get_by_role("tab", name="Any feature").click()
    box = page.get_by_label("Search all features by label, or by number")
    box.fill("Atlantis")
    box.press("Enter")
    expect(page.get_by_text("No feature's label holds these words.")).to_be_visible()
    box.fill("L1/887")
    box.press("Enter")
    found = page.get_by_role("combobox", name="Feature", exact=True)
    expect(found).to_have_value("about Texas · L1/887")
    settled(page)
    where = page.locator(".st-key-where-found")
    where.get_by_role("radio", name="from there on").click()
    settled(page)
    page.get_by_role("button", name="Set it").click()
    expect(column(page, 0).get_by_text("put in: about Texas at “is …”")).to_be_visible()


def test_the_graph_is_checked_against_the_model(app: App, page: Page) -> None:
    page.goto(with_query(f"{app.url}/interventions", marks=MARKS | {"pinned": []}))
    page.get_by_text("Check it").click()
    ranked = page.locator(".st-key-ranked .js-plotly-plot")
    expect(ranked.locator(".bars .point")).to_have_count(3)
    page.get_by_role("radio", name="the strongest features").click()
    expect(ranked.locator(".bars .point").nth(15)).to_be_attached()
    said = page.get_by_text(re.compile(r"Correlation r = 0\.9\d, slope")).first
    expect(said).to_be_visible()
    page.get_by_role("radio", name="attention only").click()
    expect(page.get_by_text(re.compile(r"Correlation r = −?-?0\.[0-4]")).first).to_be_visible()


def test_supernodes_are_switched_off_in_a_flow_diagram(app: App, page: Page) -> None:
    page.goto(with_query(f"{app.url}/interventions", marks=MARKS))
    page.get_by_text("Check it").click()
    measured = page.locator(".st-key-flow-Measured .js-plotly-plot")
    expect(measured.get_by_text("Texas", exact=True)).to_be_visible()
    expect(measured.get_by_text("off", exact=True)).to_be_visible()
    expect(measured.get_by_text(re.compile(r"\d % left"))).to_be_visible()


def test_a_run_comes_back_from_the_history_and_goes_to_other_prompts_and_files(
    app: App, page: Page
) -> None:
    page.goto(with_query(f"{app.url}/interventions", scenarios=[OFF]))
    expect(column(page, 0)).to_be_visible()
    with page.expect_download() as table:
        page.get_by_role("button", name="Download as CSV").click()
    text = table.value.path().read_text(encoding="utf-8")
    assert "Texas off, Austin," in text and "unchanged, Austin," in text
    with page.expect_download() as script:
        page.get_by_role("button", name="Download as Python script").click()
    assert "tracer.run_scenarios" in script.value.path().read_text(encoding="utf-8")

    page.get_by_text("Try these columns on other prompts").click()
    page.get_by_text("Run them").click()
    expect(page.get_by_test_id("stDataFrame")).to_be_visible()
    expect(page.get_by_test_id("stException")).to_have_count(0)

    column(page, 0).get_by_role("button", name="Remove").click()
    expect(page.locator(".st-key-column-0")).to_have_count(0)
    settled(page)
    page.get_by_text(re.compile("Earlier runs on this prompt")).click()
    latest = page.locator("p", has_text=re.compile("^Texas off ")).first
    expect(latest).to_be_visible()
    page.get_by_role("button", name="Bring back").first.click()
    expect(column(page, 0).get_by_text("off: about Texas at “Dallas”")).to_be_visible()
