"""A chat for a model with a chat template, in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
from conftest import App, settled, unfold, with_query
from playwright.sync_api import Page, expect
from transformers import AutoTokenizer

pytestmark = pytest.mark.browser

TEMPLATE = (
    "{% for m in messages %}{{ {'system': 'w40', 'user': 'w41', 'assistant': 'w42'}[m.role] }} "
    "{{ m.content }} {% endfor %}{% if add_generation_prompt %}w42{% endif %}"
)


def test_a_chat_is_written_shown_as_it_is_read_and_traced(
    app: App, page: Page, tmp_path: Path
) -> None:
    model = tiny.save_model(tmp_path / "chatty")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(model)
    own = tiny.save_transcoders(tmp_path / "set")
    page.goto(
        with_query(f"{app.url}/trace", prompt="w1 w2", model=str(model), transcoders=str(own))
    )
    expect(page.get_by_text("nodes shown")).to_be_visible()
    settled(page)
    chat = page.get_by_text("Chat", exact=True)
    unfold(page.get_by_role("button", name="Options"), chat)
    chat.click()
    expect(page.get_by_text("Write a message to see the prompt it becomes")).to_be_visible()
    message = page.get_by_placeholder("Message")
    message.fill("w7 w9")
    message.press("Control+Enter")
    shown = page.get_by_test_id("stPopoverBody").get_by_test_id("stCode")
    expect(shown).to_have_text("w41 w7 w9 w42")
    page.get_by_text("End where the answer begins").click()
    expect(shown).not_to_contain_text("w42")
    settled(page)
    page.get_by_text("End where the answer begins").click()
    expect(shown).to_contain_text("w42")
    settled(page)
    page.get_by_role("button", name="Trace this chat").click()
    expect(page.get_by_label("Prompt (the graph explains its next token)")).to_have_value(
        "w41 w7 w9 w42"
    )
    expect(page.get_by_text("nodes shown")).to_be_visible()
    settled(page)
    expect(page.get_by_test_id("stException")).to_have_count(0)
    assert "w41+w7+w9+w42" in page.url
