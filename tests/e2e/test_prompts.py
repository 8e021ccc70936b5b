"""Prompts in a real browser: several lines, unknown words, a contrast, many at once."""

from __future__ import annotations

import pytest
from conftest import App, settled, unfold, with_query
from graph_actions import click_node, expect_graph
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser

PROMPT = "The capital of the state containing Dallas is"
BOX = "Prompt (the graph explains its next token)"


def test_a_prompt_of_two_lines_is_traced_with_the_button(app: App, page: Page) -> None:
    page.goto(with_query(f"{app.url}/trace", prompt=PROMPT))
    expect_graph(page, "Austin")  # laid out for the window, so no redraw is on its way
    page.get_by_label(BOX).fill("The captial of\nTexas is")
    page.get_by_role("button", name="Trace", exact=True).click()
    expect(page.get_by_text("has no token for")).to_be_visible()
    settled(page)
    assert "The+captial+of%0ATexas+is" in page.url
    page.get_by_role("button", name="capital", exact=True).click()
    expect(page.get_by_text("The captial of")).to_have_count(0)
    expect(page.get_by_label(BOX)).to_have_value("The capital of\nTexas is")
    settled(page)
    expect(page.get_by_test_id("stException")).to_have_count(0)


def test_a_contrast_is_explained_and_the_tokens_have_their_ids(app: App, page: Page) -> None:
    page.goto(with_query(f"{app.url}/trace", prompt=PROMPT, target="contrast", of=" Austin"))
    expect_graph(page, "Austin")
    for node in ("feature-1-7-887", "feature-2-7-859"):  # the page is drawn again and again
        click_node(page, node)
        settled(page)
    against = page.get_by_role("textbox", name="Against the token")
    unfold(page.get_by_role("button", name="Options"), against)
    expect(page.get_by_role("textbox", name="Token", exact=True)).to_have_value(" Austin")
    many = page.get_by_label("One prompt per line")
    page.get_by_text("Many prompts", exact=True).click()
    expect(many).to_be_visible()
    against.fill(" Sacramento")
    against.press("Enter")
    expect(page.get_by_text("explains “Austin” against “Sacramento”")).to_be_visible()
    expect(page.get_by_text("nodes shown")).to_be_visible()
    settled(page)
    expect(many).to_be_visible()  # open, although what was above it has gone
    assert "against=+Sacramento" in page.url


def test_an_event_after_a_click_does_not_bring_the_old_prompt_back_and_many_prompts_are_traced(
    app: App, page: Page
) -> None:
    page.goto(with_query(f"{app.url}/trace", prompt=PROMPT))
    expect(page.get_by_text("nodes shown")).to_be_visible()
    settled(page)
    page.wait_for_function(
        """() => {
            const button = text => [...document.querySelectorAll('button, summary')]
                .find(each => each.innerText.includes(text));
            if (!button('▶') || !button('Diagnostics')) return false;
            button('▶').click();
            setTimeout(() => button('Diagnostics').click(), 60);
            return true;
        }"""
    )
    expect(page.get_by_label(BOX)).not_to_have_value(PROMPT)
    expect(page.get_by_text("For a bug report")).to_be_visible()
    settled(page)
    expect(page.get_by_label(BOX)).not_to_have_value(PROMPT)

    more = page.get_by_text("Many prompts")
    unfold(page.get_by_role("button", name="Options"), more)
    more.click()
    lines = page.get_by_role("textbox", name="One prompt per line")
    lines.fill("The capital of Texas is\nThe opposite of hot is")
    page.get_by_role("button", name="Trace them in turn").click()
    expect(page.get_by_text("Prompt 1 of 2.")).to_be_visible()
    settled(page)
    page.keyboard.press("Escape")
    page.get_by_role("button", name="▶").click()
    expect(page.get_by_text("Prompt 2 of 2.")).to_be_visible()
    expect(page.get_by_label(BOX)).to_have_value("The opposite of hot is")
    expect(page.get_by_text("nodes shown")).to_be_visible()


def test_a_text_atlas_has_no_words_for_is_traced_with_the_model_of_english(
    app: App, page: Page
) -> None:
    page.goto(with_query(f"{app.url}/trace", prompt="The girl was so happy that"))
    page.get_by_role("button", name="Trace it with novels").click()
    expect_graph(page, "she")
    expect(page.get_by_role("button", name="The boy → he")).to_be_visible()  # its own gallery
    page.locator(".neighbours .entry").first.click()
    expect(page.get_by_text("Natásha").first).to_be_visible()  # an example, from War and Peace
    expect(page.get_by_test_id("stException")).to_have_count(0)
