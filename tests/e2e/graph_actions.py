"""What a visitor does with a graph on a page, and what the graph then shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from conftest import settled
from playwright.sync_api import Locator, Page, expect

Key = Literal["Alt", "Control", "ControlOrMeta", "Meta", "Shift"]

_POINT = """([name, id]) => {
    const graph = circuitGraphs.graphs.get(name), i = graph.index.get(id), map = graph.map();
    graph.root.scrollIntoView({ block: 'nearest' });
    const box = graph.root.getBoundingClientRect();
    return [box.x + map.x(graph.side.x[i]), box.y + map.y(graph.side.y[i])];
}"""
_STATE = """name => {
    const graph = circuitGraphs.graphs.get(name), ids = nodes => [...nodes].map(i => graph.side.id[i]);
    return { selected: graph.selected === null ? null : graph.side.id[graph.selected],
        pinned: ids(graph.pinned), hovered: graph.hovered === null ? null : graph.side.id[graph.hovered],
        groups: graph.groups.map(group => ids(group.nodes)), range: graph.ranges(),
        part: [...graph.ranges()[0].map(x => x / graph.side.width), ...graph.ranges()[1].map(y => y / graph.side.height)],
        curves: graph.overlay.querySelectorAll('path').length,
        strokes: [...new Set([...graph.overlay.querySelectorAll('path')].map(p => p.getAttribute('stroke')))],
        names: [...graph.overlay.querySelectorAll('text:not(.axis)')].map(t => t.textContent),
        digest: graph.root.dataset.shown,
        nodes: graph.side.id, chips: graph.side.chips.map(chip => chip.members.length) };
}"""  # noqa: E501
_FITS = """name => {
    const graph = circuitGraphs.graphs.get(name), { width, height } = graph.space();
    const fits = (real, asked) => Math.abs(real / asked - 1) <= 0.04;
    const [asked, high] = graph.side.asked;
    return graph.fixedHeight || fits(width, asked) && fits(height, high);
}"""


def graph(page: Page, name: str = "trace") -> Locator:
    """Return the graph component of that name."""
    return page.locator(f".st-key-graph-{name} .graph")


def expect_fitted(page: Page, name: str = "trace") -> None:
    """Wait until the graph is laid out for its size, which the browser reports once.

    (``expect`` would describe the complete page at every try, see :func:`settled`.)
    """
    shown = f".st-key-graph-{name} .graph[data-shown]:not([data-shown=''])"
    page.locator(shown).wait_for(state="attached")
    page.wait_for_function(_FITS, arg=name)
    settled(page)


def expect_graph(page: Page, answer: str, name: str = "trace") -> None:
    """Wait for a graph with ``answer`` among the tokens it explains."""
    drawn = graph(page, name)
    drawn.locator("[data-role=answers] text", has_text=answer).first.wait_for()
    expect_fitted(page, name)
    expect(page.get_by_test_id("stException")).to_have_count(0)


def state(page: Page, name: str = "trace") -> dict[str, Any]:
    """Return what the graph shows: selection, pins, range, own edges, names."""
    shown: dict[str, Any] = page.evaluate(_STATE, name)
    return shown


def point(page: Page, node: str, name: str = "trace") -> tuple[float, float]:
    """Scroll to the graph and return where on the screen a node is."""
    x, y = page.evaluate(_POINT, [name, node])
    return float(x), float(y)


def click_node(page: Page, node: str, keys: Sequence[Key] = (), name: str = "trace") -> None:
    """Click a node, with keys held down."""
    x, y = point(page, node, name)
    for key in keys:
        page.keyboard.down(key)
    page.mouse.click(x, y)
    for key in keys:
        page.keyboard.up(key)


def lasso(page: Page, nodes: Sequence[str], name: str = "trace", margin: float = 12) -> None:
    """Draw a line around nodes with the lasso tool."""
    points = [point(page, node, name) for node in nodes]
    left, right = min(x for x, _ in points) - margin, max(x for x, _ in points) + margin
    top, bottom = min(y for _, y in points) - margin, max(y for _, y in points) + margin
    graph(page, name).hover()
    graph(page, name).get_by_role("button", name="Draw around nodes").click()
    page.mouse.move(left, top)
    page.mouse.down()
    for x, y in ((right, top), (right, bottom), (left, bottom), (left, top)):
        page.mouse.move(x, y, steps=4)
    page.mouse.up()
