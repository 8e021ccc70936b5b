"""Start the app as a user does, and drive a real browser against it."""

from __future__ import annotations

import json
import os
import shutil
import sys
import urllib.parse
from collections.abc import Generator, Iterator
from pathlib import Path

import evidence
import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    Error,
    Locator,
    Page,
    TimeoutError,
    ViewportSize,
    expect,
    sync_playwright,
)
from servers import App, ServerForks

from cache import TraceRequest, open_backend

# Chromium fetches scripts on a background thread, which compiles them anew. Without it, and with a
# profile on the disk, V8 keeps what it has compiled: from the second load on a page takes half the
# CPU time. Of equal options the last counts, so those of Playwright that change pages are repeated.
DISABLED_FEATURES = (
    "BackgroundResourceFetch",
    "AvoidUnnecessaryBeforeUnloadCheckSync",
    "DestroyProfileOnBrowserClose",
    "HttpsUpgrades",
    "OptimizationHints",
    "PaintHolding",
    "ThirdPartyStoragePartitioning",
)
SETTINGS = (
    "v8CacheOptions=3",  # at the first load, not only at the second
    "primaryHoverType=2",
    "availableHoverTypes=2",
    "primaryPointerType=4",
    "availablePointerTypes=4",
)
FLAGS = [
    f"--disable-features={','.join(DISABLED_FEATURES)}",
    f"--blink-settings={','.join(SETTINGS)}",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

PATIENCE = 90_000  # milliseconds: a busy machine is slow, and a passing test does not wait
# Streamlit opens an expander in half a second, during which its contents move. On a busy machine,
# what was under the mouse at the press is elsewhere at the release, and the click is lost.
NO_ANIMATION = """
const animate = Element.prototype.animate;
Element.prototype.animate = function (frames) { return animate.call(this, frames, 0); };
"""

TRACED = (
    "The capital of the state containing Dallas is",
    "The capital of the state containing Oakland is",
    "calc: 36+59=",
)

WINDOW: ViewportSize = {"width": 1440, "height": 1000}

expect.set_options(timeout=PATIENCE)

_EVIDENCE = pytest.StashKey[Path]()


@pytest.fixture(scope="session", autouse=True)
def _evidence(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The folder in which failed tests save what their pages showed."""
    pytestconfig.stash[_EVIDENCE] = tmp_path_factory.mktemp("evidence")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add to a failure what the pages showed, before they are closed."""
    report = yield
    if report.failed and call.when == "call" and isinstance(item, pytest.Function):
        folder = item.config.stash[_EVIDENCE]
        report.sections += evidence.collect(item.name, item.funcargs, folder)
    return report


def browser_path() -> str | None:
    """Return the system's browser, or None for Playwright's own."""
    names = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


def with_query(url: str, **parameters: object) -> str:
    """Return a deep link; parameters that are not text are sent as JSON."""
    texts = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in parameters.items()
    }
    return f"{url}?{urllib.parse.urlencode(texts)}"


_SETTLED = """() => {
  const app = document.querySelector('[data-testid=stApp]');
  return app?.dataset.testScriptState === 'notRunning' && !document.querySelector('[data-stale=true]');
}"""  # noqa: E501


def settled(page: Page) -> None:
    """Wait until the server has nothing more to send.

    (``expect`` would describe the complete page, for its error message, at every try.)
    """
    page.wait_for_function(_SETTLED, polling=50)  # not at every frame, which would then be drawn


def unfold(button: Locator, inside: Locator) -> None:
    """Open a popover and wait for its contents; open it again if a redraw closed it."""
    for _ in range(5):
        button.click()
        try:
            inside.wait_for(timeout=10_000)
            return
        except Error:
            continue
    pytest.fail(f"{button} never showed {inside}")


def downloaded(page: Page, button: Locator) -> Path:
    """Click a download button and return the file.

    A redraw replaces the address of a file that is made on demand. On a busy machine a click can
    come in between; then it is repeated, as a visitor would.
    """
    for _ in range(4):
        try:
            with page.expect_download(timeout=25_000) as download:
                button.click()
        except TimeoutError:
            continue
        return Path(download.value.path())
    pytest.fail(f"{button} downloads nothing")


@pytest.fixture(scope="session")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserContext]:
    """The profile of most tests, in the system's Chromium or else Playwright's own.

    It is on the disk and kept for all tests, so that scripts are loaded and compiled once.
    """
    with sync_playwright() as playwright:
        try:
            opened = playwright.chromium.launch_persistent_context(
                tmp_path_factory.mktemp("profile"),
                executable_path=browser_path(),
                args=FLAGS,
                viewport=WINDOW,
                reduced_motion="reduce",
            )
        except Error as error:
            reason = "no browser: install chromium, or run python -m playwright install chromium"
            if os.environ.get("CI"):
                pytest.fail(f"{reason} ({error})")
            pytest.skip(reason)
        prepare(opened)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def browser(profile: BrowserContext) -> Browser:
    """The browser of the profile, for more visitors."""
    assert profile.browser is not None
    return profile.browser


@pytest.fixture(scope="session")
def forks() -> Iterator[ServerForks | None]:
    """A process that starts servers quickly; None on systems where forking is not safe."""
    if sys.platform != "linux":
        yield None
        return
    forks = ServerForks()
    yield forks
    forks.close()


@pytest.fixture(scope="session")
def traced_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the prompts that most tests begin with, so that servers need not trace them."""
    store = tmp_path_factory.mktemp("traced") / "store"
    backend = open_backend(store)
    for job in [backend.trace(TraceRequest(prompt)) for prompt in TRACED]:
        job.result(600)
    backend.close()
    return store


@pytest.fixture(scope="module")
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, traced_store: Path
) -> Path:
    """The store of a module's server. It is empty if the module says EMPTY_LIBRARY."""
    store = tmp_path_factory.mktemp("server") / "store"
    if not getattr(request.module, "EMPTY_LIBRARY", False):
        shutil.copytree(traced_store, store)
    return store


@pytest.fixture(scope="module")
def app(store: Path, forks: ServerForks | None) -> Iterator[App]:
    """One server for a module's tests."""
    server = App(store, forks=forks)
    yield server
    server.stop()


def prepare(context: BrowserContext, tour: bool = False) -> BrowserContext:
    """Make a visitor of a new context, one who has closed the tour unless asked."""
    context.set_default_timeout(PATIENCE)
    evidence.listen(context)
    context.add_init_script(NO_ANIMATION)
    if not tour:
        context.add_init_script("localStorage.setItem('circuit-tour', 'closed')")
    return context


def visitor(browser: Browser, tour: bool = False) -> BrowserContext:
    """A new visitor with a window 1440 pixels wide, who has closed the tour unless asked."""
    return prepare(browser.new_context(viewport=WINDOW, reduced_motion="reduce"), tour)


@pytest.fixture
def page(profile: BrowserContext) -> Iterator[Page]:
    """A page whose storage is cleared afterwards; it must send requests to its own server only."""
    opened = profile.new_page()
    requests: list[str] = []
    opened.on("request", lambda request: requests.append(request.url))
    yield opened
    if opened.url.startswith("http"):
        opened.evaluate("() => { localStorage.clear(); sessionStorage.clear(); }")
    for left in profile.pages[1:]:  # the first is blank, and keeps the browser open
        left.close()
    profile.clear_cookies()
    external = [
        url for url in requests if not url.startswith(("http://localhost:", "data:", "blob:"))
    ]
    assert not external, f"the page sent requests to other hosts: {external}"
