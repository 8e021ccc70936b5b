"""What a first visitor does from end to end, in a real browser; nothing is lost on the way."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import App, downloaded, settled, unfold, visitor
from graph_actions import click_node, expect_graph, state
from playwright.sync_api import Browser, expect

pytestmark = pytest.mark.browser

CALIFORNIA = "feature-1-7-232"
OTHER = "feature-0-7-171"
LABEL = "the <i>Golden</i> State"
GROUP = "where <b>it</b> is"


def test_what_a_first_visitor_makes_is_in_the_file_they_share(
    app: App, browser: Browser, tmp_path: Path
) -> None:
    context = visitor(browser, tour=True)
    page = context.new_page()
    page.goto(app.url)
    tour = page.get_by_role("region", name="Tour")
    expect(tour.get_by_text("1 of 5")).to_be_visible()
    tour.get_by_role("button", name="Close").click()
    expect_graph(page, "Austin")

    # a prompt of the gallery, a feature, its name
    page.get_by_role("button", name="Oakland → California → Sacramento").click()
    expect_graph(page, "Sacramento")
    click_node(page, CALIFORNIA)
    box = page.get_by_role("textbox", name="Your label")
    unfold(page.get_by_role("button", name="Rename"), box)
    box.fill(LABEL)
    box.press("Enter")
    expect(page.get_by_role("heading", name=LABEL)).to_be_visible()
    settled(page)

    # two features become a supernode
    pins = page.locator("[class*='st-key-unpin-pinned']")
    for count, node in enumerate((CALIFORNIA, OTHER), start=1):
        click_node(page, node, ["Shift"])
        expect(pins).to_have_count(count)
        settled(page)
    name = page.get_by_role("textbox", name="Name", exact=True)
    unfold(page.get_by_role("button", name="Create supernode"), name)
    name.fill(GROUP)
    name.press("Enter")
    expect(page.get_by_text(f"{GROUP} 2 nodes")).to_be_visible()
    settled(page)

    # a reload of the bare address of the prompt loses neither
    page.reload()
    expect_graph(page, "Sacramento")
    expect(page.get_by_text(f"{GROUP} 2 nodes")).to_be_visible()
    expect(page.get_by_role("heading", name=LABEL)).to_be_visible()
    [members] = state(page)["groups"]
    assert set(members) == {CALIFORNIA, OTHER}
    settled(page)

    shared = downloaded(page, page.get_by_role("button", name="Share as one file"))
    file = tmp_path / "graph.html"
    file.write_bytes(shared.read_bytes())
    context.close()
    assert file.stat().st_size < 8_000_000

    # the file opens from the disk, without a network
    offline = browser.new_context(offline=True)
    shared = offline.new_page()
    errors: list[str] = []
    requests: list[str] = []
    shared.on("pageerror", lambda error: errors.append(str(error)))
    shared.on("request", lambda request: requests.append(request.url))
    shared.goto(file.as_uri())
    expect(shared.get_by_role("heading", name=re.compile("containing Oakland is"))).to_be_visible()
    panel = shared.locator("#panel")
    expect(panel.get_by_text(GROUP)).to_be_visible()
    panel.get_by_role("button", name=LABEL).first.click()
    expect(panel.get_by_role("heading", name=LABEL)).to_be_visible()
    expect(panel.get_by_text(re.compile("Top activations", re.I)).first).to_be_visible()
    expect(panel.get_by_text("Sacramento").first).to_be_attached()
    assert errors == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in requests)
    offline.close()
