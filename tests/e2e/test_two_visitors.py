"""Two visitors of one server take turns, and keep each other's pins and runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE, App, settled, unfold, visitor, with_query
from graph_actions import expect_graph
from playwright.sync_api import Browser, Page, expect
from servers import ServerForks

pytestmark = pytest.mark.browser

SHORT = "The opposite of hot is"
CITIES = ("Dallas", "Oakland", "Seattle", "Lyon", "Osaka", "Recife")
PINNED = ("feature-1-7-232", "feature-0-7-171")
OAKLAND = "The capital of the state containing Oakland is"
BOX = "Prompt (the graph explains its next token)"
REPEATS = 7


def long_prompt(number: int, repeats: int = REPEATS) -> str:
    """Return a prompt that takes seconds, another one for each number."""
    words = [CITIES[number // 6**place % 6] for place in range(repeats)]
    return " ".join(f"The capital of the state containing {city} is" for city in words)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, forks: ServerForks | None) -> Iterator[App]:
    """A server that logs how long each request waited."""
    store = tmp_path_factory.mktemp("server") / "store"
    server = App(store, {"CIRCUIT_LOG": "json"}, forks=forks)
    yield server
    server.stop()


@pytest.fixture
def two(browser: Browser, page: Page) -> Iterator[tuple[Page, Page]]:
    other = visitor(browser)
    yield page, other.new_page()
    other.close()


def trace_in_turn(page: Page, prompts: list[str]) -> None:
    """Trace prompts with the box for many, and wait until they are under way."""
    more = page.get_by_text("Many prompts")
    unfold(page.get_by_role("button", name="Options"), more)
    more.click()
    page.get_by_role("textbox", name="One prompt per line").fill("\n".join(prompts))
    page.get_by_role("button", name="Trace them in turn").click()
    expect(page.get_by_text(f"of {len(prompts)} prompts traced")).to_be_visible()


def ended(log: Path) -> list[dict[str, Any]]:
    """Return the log's lines about ended requests."""
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line["logger"] == "cache.requests"]


def test_pins_of_both_tabs_are_kept_and_a_short_prompt_waits_for_at_most_one_of_thirty_long_ones(
    app: App, two: tuple[Page, Page]
) -> None:
    for page, node in zip(two, PINNED, strict=True):  # both have read before one writes
        page.goto(with_query(app.url, prompt=OAKLAND, node=node))
        expect_graph(page, "Sacramento")
    for page in two:
        page.get_by_role("button", name="Pin", exact=True).click()
        expect(page.get_by_role("button", name="Unpin", exact=True).first).to_be_visible()
        settled(page)
    for page in two:
        page.goto(with_query(app.url, prompt=OAKLAND))
        expect(page.locator("[class*='st-key-unpin-pinned']")).to_have_count(2)
        expect_graph(page, "Sacramento")

    # one traces thirty long prompts; a short one of the other waits for at most one of them
    busy, quick = two
    trace_in_turn(busy, [*map(long_prompt, range(30))])
    before = len(ended(app.log))
    quick.get_by_label(BOX).fill(SHORT)
    quick.get_by_role("button", name="Trace", exact=True).click()
    expect_graph(quick, "cold")
    busy.keyboard.press("Escape")
    busy.get_by_role("button", name="Stop", exact=True).click()
    later = ended(app.log)[before:]
    own = next(line for line in later if line["sessions"] != later[0]["sessions"])
    long_ones = [line for line in ended(app.log) if line["sessions"] != own["sessions"]]
    assert own["waited"] <= max(line["seconds"] for line in long_ones) + 0.2
    assert len(later) < 29, "the others were still waiting"


CLICK_CANCEL = """() => {
  window.cancels = 0;
  const click = () => {
    const button = [...document.querySelectorAll('button')].find(b => b.textContent === 'Cancel');
    if (button && button !== window.pressed) { window.pressed = button; window.cancels++; button.click(); }
  };
  new MutationObserver(click).observe(document.body, { childList: true, subtree: true });
}"""  # noqa: E501
ASKED = """cancels => {
  const app = document.querySelector('[data-testid=stApp]');
  return window.cancels > cancels
    || (location.search.includes('is+The') && app.dataset.testScriptState === 'notRunning');
}"""


def cancelled(page: Page, prompt: str) -> bool:
    """Trace a prompt and cancel it at once; return False if the trace had ended before."""
    cancels = page.evaluate("() => window.cancels")
    page.get_by_label(BOX).fill(prompt)
    page.get_by_role("button", name="Trace", exact=True).click()
    page.wait_for_function(ASKED, arg=cancels)
    agree = page.get_by_role("button", name="Trace it")  # a slow machine asks first
    shown = page.get_by_text("nodes shown")
    expect(agree.or_(shown)).to_be_visible()
    if agree.is_visible():
        agree.click()
        expect(agree).to_have_count(0)
    expect(shown).to_be_visible()
    settled(page)
    return page.get_by_label(BOX).input_value() == OAKLAND


def test_one_cancel_leaves_the_run_of_the_other_visitor_alone(
    app: App, two: tuple[Page, Page]
) -> None:
    """Both want a trace that waits; one has it in a list, the other cancels it."""
    patient, hasty = two
    for page in two:
        page.goto(with_query(app.url, prompt=OAKLAND, transcoders="cross-layer"))
        expect_graph(page, "Sacramento")
    hasty.evaluate(CLICK_CANCEL)
    prompts = [long_prompt(number) for number in range(100, 108)]
    before = len(ended(app.log))
    trace_in_turn(patient, prompts)
    # the last first: it is the turn of the one who asks for little, so a trace may end too soon
    shared = next((prompt for prompt in reversed(prompts) if cancelled(hasty, prompt)), None)
    assert shared is not None, "every trace had ended before it could be cancelled"
    expect_graph(hasty, "Sacramento")
    patient.keyboard.press("Escape")
    expect(patient.get_by_text("Prompt 1 of 8.")).to_be_visible(timeout=3 * PATIENCE)
    for _ in range(len(prompts) - prompts.index(shared)):
        patient.get_by_role("button", name="◀").click()
        settled(patient)
    expect(patient.get_by_label(BOX)).to_have_value(shared)
    expect_graph(patient, "Austin")
    later = ended(app.log)[before:]
    traces = [line for line in later if "direct effects" in line["phases"]]
    assert len(traces) == 8, "each ran once"
    assert {line["message"] for line in later} == {"done"}
