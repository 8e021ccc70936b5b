"""How long a visitor waits: from a click to the drawn graph, in a real browser.

    python benchmarks/page_latency.py

Starts the app with an empty store and measures, in this order: the first graph of a cold server;
prompts never traced before (typed, then Enter); the same prompts again, now cached; clicks in the
gallery of cached prompts; and a click on a node until its panel is complete. "Drawn" means that the
graph's own answer on top is the new one. Medians of one run; quote them with the machine.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "e2e")]

from conftest import FLAGS, App, browser_path

PROMPTS = {
    "The capital of the state containing Tucson is": "Phoenix",
    "The capital of the state containing Savannah is": "Atlanta",
    "The capital of the state containing Reno is": "Carson City",
    "The capital of the state containing Toledo is": "Columbus",
    "The capital of the country containing Kyoto is": "Tokyo",
    "The language spoken in the country containing Cusco is": "Spanish",
    "The opposite of deep is": "shallow",
    "Das Gegenteil von heiß ist": "kalt",
    "calc: 21+34=": "55",
    "calc: 48+48=": "96",
}
_DRAWN = """answer => [...document.querySelectorAll('.st-key-graph .annotation-text')]
    .some(text => text.textContent.startsWith(answer + ' '))"""


def until_drawn(page: Page, answer: str) -> None:
    page.wait_for_function(_DRAWN, arg=answer, polling=10, timeout=60_000)


def type_prompts(page: Page) -> list[float]:
    """Milliseconds from Enter to the drawn graph, per prompt."""
    times = []
    for prompt, answer in PROMPTS.items():
        box = page.get_by_label("Prompt (the graph explains its next token)")
        box.fill(prompt)
        start = time.perf_counter()
        box.press("Enter")
        until_drawn(page, answer)
        times.append(1000 * (time.perf_counter() - start))
        page.wait_for_timeout(400)
    return times


def click_gallery(page: Page, rounds: int = 5) -> list[float]:
    """Milliseconds from a click on a gallery prompt to its graph; two prompts in turn."""
    entries = (("Dallas → Texas → TX", "TX"), ("Dallas → Texas → Austin", "Austin"))
    times = []
    for number in range(2 * (rounds + 1)):
        title, answer = entries[number % 2]
        button = page.get_by_role("button", name=title)
        start = time.perf_counter()
        button.click()
        until_drawn(page, answer)
        times.append(1000 * (time.perf_counter() - start))
        page.wait_for_timeout(400)
    return times[2:]


def click_nodes(page: Page) -> list[float]:
    """Milliseconds from a click on a feature in the list to its panel."""
    times = []
    for _ in range(5):
        jump = page.locator("[class*='st-key-begin-feature'] button").nth(len(times))
        start = time.perf_counter()
        jump.click()
        page.get_by_text("Turn this feature off").wait_for()
        times.append(1000 * (time.perf_counter() - start))
        page.wait_for_timeout(300)
        page.get_by_role("button", name="Show the full graph").click()
        page.get_by_text("Most influential features").wait_for()
        page.wait_for_timeout(300)
    return times


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path(), args=FLAGS)
        page = browser.new_page(viewport={"width": 1440, "height": 1000})
        started = time.perf_counter()
        app = App(Path(folder) / "store")
        try:
            page.goto(app.url)
            until_drawn(page, "Austin")
            cold = time.perf_counter() - started
            rows = {
                "new prompt": type_prompts(page),
                "cached prompt, typed": type_prompts(page),
                "cached prompt, clicked": click_gallery(page),
                "node to panel": click_nodes(page),
            }
        finally:
            app.stop()
            browser.close()
    print(f"server start to first graph, cold: {cold:.1f} s")
    print(f"{'ms':24}{'median':>8}{'min':>8}{'max':>8}{'n':>5}")
    for name, times in rows.items():
        median = statistics.median(times)
        print(f"{name:24}{median:>8.0f}{min(times):>8.0f}{max(times):>8.0f}{len(times):>5}")


if __name__ == "__main__":
    main()
