"""The interactive graph in a real browser: mouse, keyboard, touch, filters, long prompts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import App, downloaded, settled, unfold, with_query
from graph_actions import click_node, expect_graph, graph, point, state
from large_graphs import large_graph
from playwright.sync_api import Page, expect
from servers import ServerForks

from cache import open_backend

pytestmark = pytest.mark.browser
PROMPT = "The capital of the state containing Dallas is"
TEXAS = "feature-1-7-887"
ALL = {"nodes": "1", "edges": "1"}


@pytest.fixture(scope="module")
def large(store: Path) -> dict[int, str]:
    """The keys of graphs of 8, 60 and 300 tokens in the store."""
    backend = open_backend(store)
    keys = {
        tokens: backend.import_graph(large_graph(tokens, features), f"{tokens}.json").result(120)
        for tokens, features in ((8, 600), (60, 400), (300, 600))
    }
    backend.close()
    return keys


@pytest.fixture(scope="module")
def app(large: dict[int, str], app: App) -> App:
    """The module's server, which has found the large graphs in its store."""
    return app


_OPACITIES = """() => [...document.querySelectorAll('.graph .scatterlayer > .trace')].map(
    trace => getComputedStyle(trace).opacity)"""
_ANSWER = """() => {    // where the likeliest answer's name is, and where it belongs
    const graph = circuitGraphs.graphs.get('trace'), { side } = graph, map = graph.map();
    const text = graph.root.querySelector('[data-role=answers] [font-weight=bold]');
    const answer = graph.rank.find(i => side.kind[i] === 'logit');
    return [[+text.getAttribute('x'), +text.getAttribute('y')],
        [map.x(side.x[answer] + 7), map.y(side.y[answer]) + 3]];
}"""
_DRAWN = "() => circuitGraphs.timings.filter(([what]) => what === 'drawn').length"


def test_zoom_selection_and_pins_survive_clicks_and_thresholds(app: App, page: Page) -> None:
    page.goto(with_query(app.url, prompt=PROMPT))
    expect_graph(page, "Austin")
    page.evaluate("() => { document.querySelector('.graph').dataset.same = 'yes'; }")
    graph(page).focus()
    page.keyboard.press("+")
    zoomed = state(page)["range"]
    text, node = page.evaluate(_ANSWER)
    assert text == pytest.approx(node, abs=1)  # the names follow the zoom
    click_node(page, TEXAS)
    lit = state(page)
    assert lit["selected"] == TEXAS and lit["curves"] > 5  # its own edges, before any answer
    expect(page.get_by_role("heading", name="about Texas")).to_be_visible()
    settled(page)
    click_node(page, "feature-2-7-859", ["Shift"])
    expect(page.get_by_role("heading", name="Pinned", exact=True)).to_be_visible()
    settled(page)
    before = state(page)
    assert before["range"] == zoomed and before["pinned"] == ["feature-2-7-859"]
    picture = downloaded(page, page.get_by_title("Download this picture as SVG")).read_text()
    assert re.search(r"<text[^>]*>Austin 99.9 %</text>", picture) and "about Texas" in picture
    assert 'data-role="labels"' not in picture  # the selected node and its neighbours are named
    faded = re.findall(r'class="trace [^>]*opacity: ([\d.]+);', picture)
    assert faded == page.evaluate(_OPACITIES)
    assert "0.28" in faded

    slider = page.get_by_role("slider", name="Node threshold")
    unfold(page.get_by_role("button", name="Thresholds"), slider)
    for _ in range(10):
        slider.press("ArrowLeft")
    page.wait_for_function(
        "digest => document.querySelector('.graph').dataset.shown !== digest", arg=before["digest"]
    )
    page.keyboard.press("Escape")
    settled(page)
    after = state(page)
    assert len(after["nodes"]) < len(before["nodes"])
    assert after["selected"] == TEXAS and after["pinned"] == ["feature-2-7-859"]
    assert after["part"] == pytest.approx(before["part"], abs=0.01)  # fewer layers need less height
    expect(page.locator(".graph[data-same=yes]")).to_have_count(1)  # never made anew

    count = page.evaluate(_DRAWN)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"count => ({_DRAWN})() > count", arg=count)
    settled(page)
    dark = state(page)
    assert dark["selected"] == TEXAS and dark["part"] == pytest.approx(after["part"], abs=0.01)


def test_the_keyboard_walks_pins_searches_and_clears(app: App, page: Page) -> None:
    page.goto(with_query(app.url, prompt="The capital of the state containing Tucson is"))
    expect_graph(page, "Phoenix")
    graph(page).focus()
    page.keyboard.press("ArrowDown")  # begins at the likeliest answer
    assert str(state(page)["selected"]).startswith("logit-")
    page.keyboard.press("ArrowDown")
    first = state(page)["selected"]
    page.keyboard.press("ArrowRight")
    second = state(page)["selected"]
    page.keyboard.press("ArrowLeft")
    assert state(page)["selected"] == first != second
    inputs = page.evaluate(
        """() => { const g = circuitGraphs.graphs.get('trace'), answer = g.rank.find(
            i => g.side.kind[i] === 'logit');
            return g.inputs[answer].map(edge => g.side.id[g.side.source[edge]]); }"""
    )
    assert [first, second] == inputs[:2]
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("p")
    pinned = state(page)["pinned"]
    assert pinned == [state(page)["selected"]]
    expect(page.get_by_role("heading", name="Pinned", exact=True)).to_be_visible()
    settled(page)

    page.keyboard.press("/")
    box = graph(page).get_by_role("textbox", name="Find a node")
    expect(box).to_be_focused()
    box.fill("Tucson")
    page.keyboard.press("Enter")
    found = state(page)["selected"]
    assert "Tucson" in page.evaluate(
        """id => { const g = circuitGraphs.graphs.get('trace'), i = g.index.get(id);
            return g.side.name[i] + g.side.place[i]; }""",
        found,
    )
    page.wait_for_url(re.compile(f"node={found}"))
    page.keyboard.press("Escape")
    assert state(page)["selected"] is None
    expect(page.get_by_text("Most influential features")).to_be_visible()


def test_hovering_lights_a_node_in_graph_and_lists_and_the_table_has_all_nodes_and_edges(
    app: App, page: Page
) -> None:
    page.goto(with_query(app.url, prompt=PROMPT))
    expect_graph(page, "Austin")
    row = page.locator(".neighbours .entry").first
    node = row.get_attribute("data-node")
    assert node is not None
    row.hover()
    assert state(page)["hovered"] == node
    page.mouse.move(*point(page, node))
    expect(row).to_have_class(re.compile("lit"))
    tip = graph(page).locator(".tip")
    expect(tip).to_be_visible()
    expect(tip).to_contain_text(row.locator(".name").inner_text())

    # the table has the graph's nodes and edges
    count = len(state(page)["nodes"])
    page.get_by_role("radio", name="Table").click()
    tables = page.get_by_test_id("stDataFrame")
    expect(tables).to_have_count(2)
    expect(graph(page)).to_have_count(0)
    page.wait_for_url(re.compile("view=table"))
    settled(page)
    rows = tables.first.locator("table[role=grid]")
    expect(rows).to_have_attribute("aria-rowcount", str(count + 1))
    # the first row: a click selects the node
    box = tables.first.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 12, box["y"] + 52)
    page.wait_for_url(re.compile("node="))
    page.get_by_role("radio", name="Graph", exact=True).click()
    expect_graph(page, "Austin")
    assert state(page)["selected"] is not None


def test_a_plus_k_opens_a_list_and_every_layer_and_token_fits_the_window(
    app: App, large: dict[int, str], page: Page
) -> None:
    page.set_viewport_size({"width": 1440, "height": 900})
    page.goto(with_query(app.url, graph=large[8], **ALL))
    expect_graph(page, "yes")
    box = graph(page).bounding_box()
    assert box is not None and box["y"] + box["height"] <= 900
    shown = state(page)
    assert len(shown["nodes"]) == 8 + 600 + 9 + 3 and sum(shown["chips"]) > 0
    assert page.evaluate(
        """() => { const g = circuitGraphs.graphs.get('trace'), map = g.map();
            return g.side.id.every((id, i) => map.x(g.side.x[i]) >= 0 && map.y(g.side.y[i]) >= 0
                && map.x(g.side.x[i]) <= map.width && map.y(g.side.y[i]) <= map.height); }"""
    )
    layers = graph(page).locator("text.layer").all_text_contents()
    assert {"0", "25"} <= set(layers)
    x, y = page.evaluate(
        """() => { const g = circuitGraphs.graphs.get('trace'), map = g.map(), box =
            g.root.getBoundingClientRect(), chip = g.side.chips[0];
            return [box.x + map.x(chip.x), box.y + map.y(chip.y)]; }"""
    )
    page.mouse.click(x, y)
    rows = graph(page).locator(".list .row")
    expect(rows).to_have_count(shown["chips"][0])
    name = rows.last.locator(".name").inner_text()
    rows.last.click()
    expect(page.get_by_role("heading", name=name)).to_be_visible()


@pytest.mark.parametrize("tokens", [60, 300])
def test_a_long_prompt_starts_at_its_end_and_can_be_scrolled(
    app: App, large: dict[int, str], page: Page, tokens: int
) -> None:
    page.goto(with_query(app.url, graph=large[tokens], **ALL))
    expect_graph(page, "yes")
    graph(page).scroll_into_view_if_needed()
    assert graph(page).locator("text.token").all_text_contents()[-1].startswith("word")
    visible = """() => { const g = circuitGraphs.graphs.get('trace'), map = g.map();
        return g.side.id.filter((id, i) => g.side.kind[i] === 'token' && map.x(g.side.x[i]) >= 0
            && map.x(g.side.x[i]) <= map.width).map(id => +id.split('-')[3]); }"""
    assert max(page.evaluate(visible)) == tokens - 1
    overview = graph(page).locator(".overview")
    expect(overview).to_be_visible()
    bar = overview.bounding_box()
    assert bar is not None
    page.mouse.click(bar["x"] + 3, bar["y"] + bar["height"] / 2)
    assert min(page.evaluate(visible)) == 0
    graph(page).focus()
    page.keyboard.press("0")  # all of it
    assert len(page.evaluate(visible)) == tokens


def test_filters_say_what_they_hide_and_a_link_restores_them(app: App, page: Page) -> None:
    messages: list[bytes] = []

    def note(frame: bytes | str) -> None:
        messages.extend([frame] if isinstance(frame, bytes) else [])

    page.on("websocket", lambda socket: socket.on("framereceived", note))
    page.goto(with_query(app.url, prompt=PROMPT, **ALL))
    expect_graph(page, "Austin")
    shown = page.get_by_text(re.compile(r"\d+ of \d+ nodes shown"))
    everything = shown.inner_text()
    assert "errors" not in everything
    errors = page.get_by_text("Error nodes", exact=True)
    unfold(page.get_by_role("button", name="Filters"), errors)
    messages.clear()
    count = page.evaluate(_DRAWN)
    errors.click()
    expect(shown).to_contain_text(re.compile(r"\d+ errors"))
    settled(page)
    digest = state(page)["digest"].split()[0].encode()
    sent = [i for i, message in enumerate(messages) if digest in message]
    page_sent = next(i for i, message in enumerate(messages) if b"nodes shown" in message)
    assert sent[0] < page_sent and len(sent) == 2  # the graph comes first, then with its page
    assert page.evaluate(_DRAWN) == count + 1
    page.get_by_text("Dense features", exact=True).click()
    page.wait_for_url(re.compile("hide=errors(,|%2C)dense"))
    low = page.get_by_role("slider", name="Layers").first
    low.press("ArrowRight")
    expect(shown).to_contain_text(re.compile(r"\d+ in other layers"))
    page.get_by_text("Only negative edges", exact=True).click()
    expect(shown).to_contain_text(re.compile(r"[\d,]+ of [\d,]+ edges are negative"))
    settled(page)
    assert page.evaluate("() => circuitGraphs.graphs.get('trace').side.weight.every(w => w < 0)")
    kinds = page.evaluate("() => circuitGraphs.graphs.get('trace').side.kind")
    assert "error" not in kinds
    hidden, link = shown.inner_text(), page.url
    page.goto("about:blank")
    page.goto(link)
    expect(shown).to_have_text(hidden)
    unfold(
        page.get_by_role("button", name="Filters"),
        page.get_by_role("button", name="Show everything"),
    )
    page.get_by_role("button", name="Show everything").click()
    expect(shown).to_have_text(everything)


def test_a_tap_selects_and_a_long_press_pins(app: App, page: Page) -> None:
    page.set_viewport_size({"width": 1024, "height": 768})
    touch = page.context.new_cdp_session(page)
    touch.send("Emulation.setTouchEmulationEnabled", {"enabled": True})

    def put_down(x: float, y: float) -> None:
        finger = {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]}
        touch.send("Input.dispatchTouchEvent", finger)

    def lift() -> None:
        touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    page.goto(with_query(app.url, prompt="The capital of the state containing Fresno is"))
    expect_graph(page, "Sacramento")
    nodes = page.evaluate(
        """() => { const g = circuitGraphs.graphs.get('trace'); return g.rank.filter(i =>
            g.side.kind[i] === 'feature' && g.side.chip_of[i] < 0).map(i => g.side.id[i]); }"""
    )
    x, y = point(page, nodes[0])
    put_down(x + 9, y)  # a finger is not exact
    lift()
    assert state(page)["selected"] == nodes[0]
    settled(page)
    x, y = point(page, nodes[1])
    put_down(x, y)
    page.wait_for_timeout(700)  # the finger stays down
    lift()
    expect(page.get_by_role("heading", name="Pinned", exact=True)).to_be_visible()
    assert state(page)["pinned"] == [nodes[1]] and state(page)["selected"] == nodes[0]


def test_below_a_base_path_the_graph_loads_plotly_from_the_server(
    tmp_path_factory: pytest.TempPathFactory, forks: ServerForks | None, page: Page
) -> None:
    server = App(tmp_path_factory.mktemp("base") / "store", None, "/tools/circuits", forks)
    try:
        scripts: list[str] = []
        page.on("request", lambda request: scripts.append(request.url))
        page.goto(with_query(f"{server.url}/", prompt=PROMPT))
        expect_graph(page, "Austin")
        assert [url for url in scripts if "/assets/plotly-" in url] == [
            next(u for u in scripts if u.startswith(f"{server.url}/assets/plotly-"))
        ]
        expect(page.locator(".st-key-plotly-loader")).to_have_count(0)
        click_node(page, TEXAS)
        expect(page.get_by_role("heading", name="about Texas")).to_be_visible()
        page.goto("about:blank")  # or it would look for its server
    finally:
        server.stop()
