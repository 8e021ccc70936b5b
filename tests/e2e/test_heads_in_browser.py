"""Attention heads in a real browser: what carried a node's input, and why a head looks there."""

from __future__ import annotations

import re

import pytest
from conftest import App, settled
from graph_actions import click_node, expect_graph, state
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser


_BEADS = """() => {
    const graph = circuitGraphs.graphs.get('trace'), box = graph.root.getBoundingClientRect();
    return { painted: graph.overlay.querySelectorAll('rect.bead').length,
        beads: graph.beads.map(bead => ({ ...bead, x: box.x + bead.x, y: box.y + bead.y,
            source: graph.side.id[graph.side.source[bead.edge]],
            target: graph.side.id[graph.side.target[bead.edge]] })),
        figures: circuitGraphs.timings.filter(([what]) => what === 'drawn').length };
}"""


def test_a_head_has_a_bead_on_its_edge_and_a_panel_that_says_why_it_looks_there(
    app: App, page: Page
) -> None:
    page.goto(app.url)
    expect_graph(page, "Austin")
    before = page.evaluate(_BEADS)
    assert before["painted"] == 0
    click_node(page, "feature-1-7-887")
    painted = page.locator(".st-key-graph-trace rect.bead")
    expect(painted.first).to_be_attached()
    settled(page)
    shown = page.evaluate(_BEADS)
    beads = shown["beads"]
    assert shown["painted"] == len(beads) >= 2
    assert {bead["target"] for bead in beads} == {"feature-1-7-887"}
    assert shown["figures"] == before["figures"]  # the figure is not drawn again

    page.mouse.move(beads[0]["x"], beads[0]["y"])
    tip = page.locator(".st-key-graph-trace .tip")
    expect(tip).to_contain_text(re.compile(r"\d+ % through head L\d H\d"))
    expect(tip).to_contain_text(beads[0]["text"])
    page.mouse.click(beads[0]["x"], beads[0]["y"])
    head = beads[0]["text"].rpartition("head ")[2]
    expect(page.get_by_role("heading", name=re.compile(f"{head} looks from"))).to_be_visible()
    settled(page)
    assert state(page)["selected"] == "feature-1-7-887"

    page.get_by_text("Carried by attention heads").click()
    expect(painted).to_have_count(0)
    assert state(page)["selected"] == "feature-1-7-887"
    page.get_by_text("Carried by attention heads").click()
    expect(painted).to_have_count(len(beads))
    click_node(page, "feature-4-8-1008")
    page.wait_for_function(
        "() => circuitGraphs.graphs.get('trace').beads[0]"
        " && circuitGraphs.beads.get('trace').node === 'feature-4-8-1008'"
    )
    settled(page)
    page.keyboard.press("Escape")
    expect(painted).to_have_count(0)

    # the panel leads from the node to the pairs that made the head look
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
