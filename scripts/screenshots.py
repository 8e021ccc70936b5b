"""Take a picture of every page: light and dark, in a large and in a small window.

    python scripts/screenshots.py pictures [--graph dallas.json] [--only trace-large-light]

Starts the app with two traced prompts, imports the graphs named with ``--graph`` (published JSON,
of Neuronpedia for example), and needs Chromium, as the browser tests do.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, Error, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "e2e")]

from conftest import FLAGS, NO_ANIMATION, PATIENCE, TRACED, App, browser_path, with_query  # noqa: E402

from cache import TraceRequest, open_backend  # noqa: E402

SIZES = {"large": (1440, 900), "small": (1024, 768)}
PROMPT = "The capital of the state containing Dallas is"
TEXAS = "feature-1-7-887"
TOUR = "tour"
"""The picture that has the tour; in all others it is closed."""
MARKS = {
    "pinned": ["feature-4-8-1008"],
    "supernodes": [["Texas", TEXAS, "feature-2-7-859", "feature-2-7-529"]],
}
TEXAS_FEATURES = ((0, 183, 7), (1, 887, 7), (2, 529, 7), (2, 859, 7), (1, 887, 8), (4, 1008, 8))
"""Layer, number and position of features about Texas in that graph."""
CALIFORNIA_FEATURES = ((0, 171, 0.77), (1, 347, 1.52), (1, 904, 2.21), (2, 410, 2.07))
"""Layer, number and activation of features about California at Oakland, in the same sentence."""


def edit(
    layer: int, feature: int, position: int, operation: str, value: float
) -> dict[str, object]:
    """Return one edit of a scenario, as links have it."""
    return {
        "feature": [layer, feature],
        "start": position,
        "stop": position + 1,
        "operation": operation,
        "value": value,
    }


def scenarios() -> list[dict[str, object]]:
    """Return the columns of the Interventions page: against Texas, and California in its place."""
    against = [edit(*place, "scale", -2.0) for place in TEXAS_FEATURES]
    removed = [edit(*place, "scale", -1.0) for place in TEXAS_FEATURES]
    put_in = [edit(layer, name, 7, "set", value) for layer, name, value in CALIFORNIA_FEATURES]
    return [
        {"name": name, "edits": edits, "freeze_attention": True, "constrained_layers": None}
        for name, edits in (
            ("Texas steered against", against),
            ("California for Texas", removed + put_in),
        )
    ]


def fill(store: Path, files: list[Path]) -> dict[str, str]:
    """Trace the prompts that are shown, import the graphs, and return their keys by file name."""
    backend = open_backend(store)
    for job in [backend.trace(TraceRequest(prompt)) for prompt in TRACED]:
        job.result(600)
    keys = {}
    for file in files:
        job = backend.import_graph(file.read_bytes(), file.name)
        job.wait(300)
        keys[file.stem] = job.result()
    backend.close()
    return keys


def addresses(url: str, keys: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the name and the address of every picture."""
    yield TOUR, with_query(url, prompt=PROMPT)
    yield "trace", with_query(url, prompt=PROMPT)
    yield "trace-selected", with_query(url, prompt=PROMPT, node=TEXAS)
    yield "trace-pinned", with_query(url, prompt=PROMPT, marks=MARKS)
    yield "heads", with_query(url, prompt=PROMPT, view="heads", head="4:0:8:7")
    yield "novels-girl", with_query(url, prompt="The girl was so happy that", model="novels")
    yield "novels-darcy", with_query(url, prompt="Elizabeth looked at Mr.", model="novels")
    for name, key in keys.items():
        yield f"graph-{name}", with_query(url, graph=key, nodes="1", edges="1")
    yield "interventions", with_query(f"{url}/interventions", prompt=PROMPT, scenarios=scenarios())
    yield "features", with_query(f"{url}/features", prompt=PROMPT)
    yield "feature", with_query(f"{url}/features", prompt=PROMPT, feature="L1/887")
    for page in ("compare", "library", "models", "guide", "about"):
        yield page, f"{url}/{page}"


def wait_until_quiet(page: Page) -> None:
    """Wait until nothing has been running, empty or on its way for three seconds."""
    busy = page.locator(
        "[data-testid=stProgress], [data-testid=stSkeleton], [data-stale=true], "
        ".graph:not([data-shown]), [data-testid=stApp]:not([data-test-script-state=notRunning])"
    )
    quiet = 0
    while quiet < 6:
        page.wait_for_timeout(500)
        quiet = 0 if busy.count() else quiet + 1


def picture(page: Page, address: str, file: Path, complete: bool) -> None:
    """Open an address and save what it shows; ``complete`` also takes what is below the window."""
    page.goto(address)
    page.get_by_test_id("stMain").locator("h1, h2, h3, h4, h5, p").first.wait_for()
    wait_until_quiet(page)
    if complete:
        height = page.evaluate(
            "() => document.querySelector('.stMainBlockContainer').scrollHeight + 60"
        )
        page.set_viewport_size({"width": page.viewport_size["width"], "height": int(height)})
        page.wait_for_timeout(1000)
    page.screenshot(path=file)


def take(browser: Browser, url: str, keys: dict[str, str], chosen: argparse.Namespace) -> None:
    """Take every picture whose name contains ``chosen.only``."""
    for size, (width, height) in SIZES.items():
        for theme in ("light", "dark"):
            for name, address in addresses(url, keys):
                full = f"{name}-{size}-{theme}"
                if chosen.only and not any(part in full for part in chosen.only):
                    continue
                context = browser.new_context(
                    viewport={"width": width, "height": height}, color_scheme=theme
                )
                context.set_default_timeout(PATIENCE)
                context.add_init_script(NO_ANIMATION)
                if name != TOUR:
                    context.add_init_script("localStorage.setItem('circuit-tour', 'closed')")
                page = context.new_page()
                try:
                    picture(page, address, chosen.folder / f"{full}.png", chosen.complete)
                    print(full)
                except Error as error:
                    print(f"{full} failed: {error}")
                context.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--graph", type=Path, action="append", default=[], help="published JSON")
    parser.add_argument("--only", action="append", default=[], help="part of a picture's name")
    parser.add_argument("--complete", action="store_true", help="also what is below the window")
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        store = Path(folder) / "store"
        keys = fill(store, chosen.graph)
        app = App(store)
        browser = playwright.chromium.launch(executable_path=browser_path(), args=FLAGS)
        try:
            take(browser, app.url, keys, chosen)
        finally:
            app.stop()
            browser.close()


if __name__ == "__main__":
    main()
