"""Attention heads in a real browser: what carried a node's input, and why a head looks there."""

from __future__ import annotations

import re

import pytest
from conftest import App, settled
from graph_actions import click_node, expect_graph
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser


def test_a_click_leads_from_a_node_to_the_pairs_that_made_a_head_look(app: App, page: Page) -> None:
    page.goto(app.url)
    expect_graph(page, "Austin")
    click_node(page, "feature-4-8-1008")
    entries = page.locator(".st-key-neighbours-carriers .entry")
    expect(page.get_by_text("Carried by", exact=True)).to_be_visible()
    expect(entries.first).to_be_visible()
    expect(page.get_by_text(re.compile("Attention steps"))).to_be_visible()

    entries.filter(has_text=re.compile(r"L4 H0.*from Dallas")).click()
    expect(page.get_by_role("heading", name=re.compile("L4 H0 looks from “is”"))).to_be_visible()
    page.wait_for_url(re.compile("head=4(:|%3A)0"))
    settled(page)
    expect(page.get_by_text("What it looks for")).to_be_visible()
    expect(page.get_by_text("What it found")).to_be_visible()

    bars = page.locator(".st-key-strip .bars .point")
    expect(bars).to_have_count(9)
    bars.nth(8).locator("path").click(force=True)  # a small bar: the last word itself
    expect(page.get_by_role("heading", name="L4 H0 looks from “is” at “is”")).to_be_visible()
    settled(page)

    page.locator(".st-key-graph-as").get_by_text("Heads", exact=True).click()
    expect(page.get_by_text("Edges that L4 H0 carries")).to_be_visible()
    settled(page)
    expect(page.get_by_test_id("stException")).to_have_count(0)
