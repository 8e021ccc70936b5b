"""How long a visitor waits, in a real browser, from the click to the last pixel.

    python benchmarks/page_latency.py [--graph dallas.json] [--rounds 12]

Starts the app with an empty store and measures the gallery's model, a made graph of 1,000 nodes and
10,000 edges, and the graphs named with ``--graph`` (published JSON, of Neuronpedia for example):

- *lit*: from a mouse press on a node until its edges are painted, two frames later;
- *panel*: from the same press until the panel shows the node, its inputs and its examples;
- *carried by*: from the same press until the panel says which heads carried the node's input;
- *drawn*: from the arrival of the graph's data until it is painted;
- *threshold*: from a key on the slider until the graph of the new threshold is painted;
- *cached prompt*, *new prompt*: from the key until the prompt's graph is painted;
- *gallery*: the same from a click in the sidebar on a cached prompt;
- *opening*: from the request for the page, with an empty browser cache, until its graph is painted.

The browser's own clock measures all of it. Medians of one run: quote them with the machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "e2e")]

from conftest import FLAGS, App, browser_path, settled

from cache import open_backend

PROMPTS = (
    "The capital of the state containing Tucson is",
    "The capital of the state containing Savannah is",
    "The capital of the state containing Reno is",
    "The capital of the state containing Toledo is",
    "The capital of the country containing Kyoto is",
    "The language spoken in the country containing Cusco is",
    "The opposite of deep is",
    "Das Gegenteil von heiß ist",
    "calc: 21+34=",
    "calc: 48+48=",
)

_WATCH = """
window.measure = {
  pressed: 0,
  // Milliseconds from the last press or key until `done()` has held for a painted frame.
  until(done, limit = 30000) {
    return new Promise((give, fail) => {
      const look = () => {
        let held = false;
        try { held = done(); } catch { held = false; }
        if (held) requestAnimationFrame(() => give(performance.now() - this.pressed));
        else if (performance.now() - this.pressed > limit) fail(new Error('too long'));
        else requestAnimationFrame(look);
      };
      look();
    });
  },
};
for (const kind of ['pointerdown', 'keydown']) {
  window.addEventListener(kind, () => { measure.pressed = performance.now(); }, { capture: true });
}
"""
_NODES = """() => {
  const graph = circuitGraphs.graphs.get('trace'), map = graph.map(), side = graph.side;
  const box = graph.root.getBoundingClientRect();
  return side.id.map((id, i) => ({ id, name: side.name[i], kind: side.kind[i], inputs:
      graph.inputs[i].length, x: box.x + map.x(side.x[i]), y: box.y + map.y(side.y[i]),
      influence: side.influence[i], folded: side.chip_of[i] >= 0 }))
    .filter(node => !node.folded && node.kind === 'feature' && node.inputs)
    .sort((a, b) => b.influence - a.influence);
}"""
_PANEL = """node => measure.until(() => {
  const graph = circuitGraphs.graphs.get('trace');
  const title = document.querySelector('.st-key-node-head h4')?.textContent;
  const first = graph.inputs[graph.index.get(node.id)][0];
  const rows = [...document.querySelectorAll('.neighbours [data-node]')];
  const input = graph.side.id[graph.side.source[first]];
  const examples = document.querySelector(node.examples);
  return title === node.name && rows.some(row => row.dataset.node === input) && examples;
})"""
_CARRIED = """choice => measure.until(() => {
  const lists = [...document.querySelectorAll('.neighbours .head b')];
  const carried = lists.find(title => title.textContent === 'Carried by');
  return document.querySelector(choice) && carried && !carried.closest('[data-stale=true]');
})"""
_LIT = "() => circuitGraphs.timings.filter(([what]) => what === 'lit').map(([, ms]) => ms)"
_DRAWN = "() => circuitGraphs.timings.filter(([what]) => what === 'drawn').map(([, ms]) => ms)"
_OTHER_GRAPH = """before => measure.until(() => {
  const graph = document.querySelector('.st-key-workspace .graph');
  return graph?.dataset.shown && graph.dataset.shown !== before;
})"""


def made_graph(n_nodes: int = 1_000, n_edges: int = 10_000, seed: int = 0) -> bytes:
    """Return a published graph with random nodes, crowded in the last column as real ones are."""
    random = np.random.default_rng(seed)
    tokens = ["<bos>", *(f" word{i}" for i in range(1, 12))]
    layers, n_logits = 26, 10
    places: set[tuple[int, int, int]] = set()
    while len(places) < n_nodes - len(tokens) - n_logits:
        layer = int(min(layers - 1, random.exponential(7)))
        position = int(random.choice([11, int(random.integers(1, 12))]))
        places.add((layer, position, int(random.integers(16_384))))
    nodes: list[dict[str, Any]] = [
        {"node_id": f"E_{i}_{i}", "feature": i, "layer": "E", "ctx_idx": i,
         "feature_type": "embedding", "token_prob": 0.0, "is_target_logit": False,
         "jsNodeId": f"E_{i}-0", "clerp": f"Emb: {token}", "influence": None, "activation": None}
        for i, token in enumerate(tokens)
    ]  # fmt: skip
    for layer, position, index in sorted(places):
        pair = (layer + index) * (layer + index + 1) // 2 + index
        nodes.append(
            {"node_id": f"{layer}_{index}_{position}", "feature": pair, "layer": str(layer),
             "ctx_idx": position, "feature_type": "cross layer transcoder", "token_prob": 0.0,
             "is_target_logit": False, "jsNodeId": f"{layer}_{index}-0", "clerp": "",
             "influence": 0.5, "activation": float(random.exponential(5))}
        )  # fmt: skip
    inner = len(nodes)
    for number in range(n_logits):
        nodes.append(
            {"node_id": f"{layers}_{number}_11", "feature": number, "layer": str(layers),
             "ctx_idx": 11, "feature_type": "logit", "token_prob": 0.5 / 2**number,
             "is_target_logit": number == 0, "jsNodeId": f"L_{number}-0",
             "clerp": f'Output " answer{number}" (p={0.5 / 2**number:.3f})', "influence": None,
             "activation": None}
        )  # fmt: skip
    depth = [-1 if n["layer"] == "E" else int(n["layer"]) for n in nodes]
    links: dict[tuple[int, int], float] = {}
    while len(links) < n_edges:
        source = int(random.integers(inner))
        target = int(random.integers(len(tokens), len(nodes)))
        if depth[source] < depth[target] and nodes[source]["ctx_idx"] <= nodes[target]["ctx_idx"]:
            links[source, target] = float(random.normal() * random.exponential(2))
    return json.dumps(
        {
            "metadata": {"slug": "made", "scan": "made", "transcoder_list": [], "prompt": "made",
                         "prompt_tokens": tokens, "node_threshold": 1.0, "schema_version": 1},
            "qParams": {},
            "nodes": nodes,
            "links": [{"source": nodes[s]["node_id"], "target": nodes[t]["node_id"], "weight": w}
                      for (s, t), w in links.items()],
        }
    ).encode()  # fmt: skip


def measure_heads(page: Page, rounds: int) -> list[float]:
    """Click nodes whose heads have not been asked for yet."""
    times = []
    for node in page.evaluate(_NODES)[:rounds]:
        page.evaluate("() => { measure.pressed = 0; }")
        page.mouse.move(node["x"], node["y"])
        page.wait_for_timeout(250)
        page.mouse.down()
        page.mouse.up()
        times.append(float(page.evaluate(_CARRIED, f".st-key-edge-into-{node['id']}")))
        settled(page)
        page.wait_for_timeout(250)
    page.keyboard.press("Escape")
    settled(page)
    return times


def keep_graphs(store: Path, files: list[Path]) -> dict[str, str]:
    """Import the graphs into a store and return the key of each by its title."""
    contents = {file.stem: file.read_bytes() for file in files} | {
        "made, 1,000 nodes": made_graph()
    }
    backend = open_backend(store)
    keys = {}
    for name, content in contents.items():
        job = backend.import_graph(content, f"{name}.json")
        job.wait(300)
        keys[name] = job.result()
    backend.close()
    return keys


def until_graph(page: Page) -> None:
    """Wait until a graph is painted and the server has nothing more to send."""
    page.locator(".st-key-workspace .graph[data-shown]").wait_for()
    settled(page)
    page.wait_for_timeout(600)


def measure_opening(browser: Browser, address: str, rounds: int) -> list[float]:
    """Open the page with an empty cache each time; the first round is not counted."""
    times = []
    for _ in range(rounds + 1):
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        page = context.new_page()
        page.set_default_timeout(180_000)
        page.add_init_script("localStorage.setItem('circuit-tour', 'closed')")
        page.goto(address)
        page.locator(".st-key-workspace .graph[data-shown]").wait_for()
        times.append(float(page.evaluate("() => performance.now()")))
        context.close()
    return times[1:]


def measure_clicks(page: Page, rounds: int, has_cards: bool) -> dict[str, list[float]]:
    """Click the most influential features, one after the other.

    A panel is complete with its examples, if the graph's features have any.
    """
    panel = []
    nodes = page.evaluate(_NODES)[:rounds]
    before = len(page.evaluate(_LIT))
    for node in nodes:
        mine = f".examples[data-of='{node['id']}'] span[title^=activation]"
        waiting = mine if has_cards else "body"
        page.evaluate("() => { measure.pressed = 0; }")
        page.mouse.move(node["x"], node["y"])
        page.wait_for_timeout(250)
        page.mouse.down()
        page.mouse.up()
        panel.append(float(page.evaluate(_PANEL, node | {"examples": waiting})))
        settled(page)
        page.wait_for_timeout(250)
    lit = page.evaluate(_LIT)[before:]
    page.keyboard.press("Escape")
    settled(page)
    return {"lit": lit, "panel": panel}


def measure_thresholds(page: Page, rounds: int) -> list[float]:
    """Move the node threshold by a step, to and fro."""
    page.locator(".st-key-thresholds button").first.click()
    slider = page.get_by_role("slider", name="Node threshold")
    slider.wait_for()
    times = []
    for number in range(rounds):
        before = page.evaluate(
            "() => document.querySelector('.st-key-workspace .graph').dataset.shown"
        )
        slider.press("ArrowLeft" if number % 4 < 2 else "ArrowRight")
        times.append(float(page.evaluate(_OTHER_GRAPH, before)))
        settled(page)
        page.wait_for_timeout(250)
    page.keyboard.press("Escape")
    return times


def measure_prompts(page: Page) -> list[float]:
    """Type every prompt and send it with the keyboard."""
    times = []
    for prompt in PROMPTS:
        box = page.locator(".st-key-prompt-bar textarea")
        before = page.evaluate(
            "() => document.querySelector('.st-key-workspace .graph').dataset.shown"
        )
        box.fill(prompt)
        page.evaluate("() => { measure.pressed = 0; }")
        box.press("Control+Enter")
        times.append(float(page.evaluate(_OTHER_GRAPH, before)))
        settled(page)
        page.wait_for_timeout(400)
    return times


def measure_gallery(page: Page, rounds: int) -> list[float]:
    """Click prompts of the gallery that were traced before; the first round is not counted."""
    titles = ("Oakland → California → Sacramento", "Dallas → Texas → Austin")
    times = []
    for number in range(rounds + len(titles)):
        before = page.evaluate(
            "() => document.querySelector('.st-key-workspace .graph').dataset.shown"
        )
        page.get_by_role("button", name=titles[number % len(titles)]).click()
        times.append(float(page.evaluate(_OTHER_GRAPH, before)))
        settled(page)
        page.wait_for_timeout(250)
    return times[len(titles) :]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--graph", type=Path, action="append", default=[], help="published JSON")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--only-heads", action="store_true", help="measure 'carried by' alone")
    chosen = parser.parse_args()
    rows: list[tuple[str, list[float]]] = []

    def keep(graph: str, what: str, measure: Callable[[], list[float]]) -> None:
        rows.append((f"{graph}: {what}", measure()))

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        store = Path(folder) / "store"
        keys = keep_graphs(store, chosen.graph)
        browser = playwright.chromium.launch(executable_path=browser_path(), args=FLAGS)
        app = App(store)
        try:
            addresses = {"atlas": app.url}
            for name, key in keys.items():
                addresses[name] = f"{app.url}/?{urllib.parse.urlencode({'graph': key})}"
            if not chosen.only_heads:
                opening = measure_opening(browser, app.url, min(chosen.rounds, 5))
                rows.append(("atlas: opening", opening))
            for name, address in addresses.items():
                page = browser.new_page(viewport={"width": 1440, "height": 900})
                page.set_default_timeout(180_000)
                page.add_init_script(_WATCH)
                page.add_init_script("localStorage.setItem('circuit-tour', 'closed')")
                page.goto(address)
                until_graph(page)
                if name == "atlas":
                    keep(name, "carried by", lambda page=page: measure_heads(page, chosen.rounds))
                if chosen.only_heads:
                    break
                for what, times in measure_clicks(page, chosen.rounds, name == "atlas").items():
                    rows.append((f"{name}: {what}", times))
                keep(name, "threshold", lambda page=page: measure_thresholds(page, chosen.rounds))
                if name == "atlas":
                    keep(name, "new prompt", lambda page=page: measure_prompts(page))
                    keep(name, "cached prompt", lambda page=page: measure_prompts(page))
                    keep(name, "gallery", lambda page=page: measure_gallery(page, chosen.rounds))
                keep(name, "drawn", lambda page=page: page.evaluate(_DRAWN))
                page.close()
        finally:
            app.stop()
            browser.close()
    print(f"{'milliseconds':36}{'median':>8}{'min':>8}{'max':>8}{'n':>5}")
    for name, times in rows:
        middle = statistics.median(times)
        print(f"{name:36}{middle:>8.0f}{min(times):>8.0f}{max(times):>8.0f}{len(times):>5}")


if __name__ == "__main__":
    main()
