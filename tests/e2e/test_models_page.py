"""The Models page in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml
from conftest import App, settled, with_query
from hub_server import HubServer
from neuronpedia_server import NeuronpediaServer, feature
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser

OWN = {
    "models": [
        {
            "name": "tiny",
            "repo": "lab/tiny",
            "parameters": 60_000,
            "layers": 3,
            "d_model": 32,
            "sets": [
                {"name": "plain", "repo": "lab/set", "features": 24, "neuronpedia": "tiny/set"}
            ],
        },
        {
            "name": "closed",
            "repo": "lab/closed",
            "gated": True,
            "licence": "Lab",
            "sets": [{"name": "plain", "repo": "lab/set", "features": 24}],
        },
        {
            "name": "huge",
            "repo": "lab/huge",
            "parameters": 10**15,
            "layers": 3,
            "d_model": 32,
            "sets": [{"name": "plain", "repo": "lab/set", "features": 24}],
        },
    ]
}


class AllFeatures(dict[str, Any]):
    """Answers for every feature, labelled with its number."""

    def get(self, place: str, default: Any = None) -> Any:
        name = f"named {place.rpartition('/')[2]}"
        return feature(explanations=[{"description": name}])


@pytest.fixture(scope="module")
def networked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """The app with a local Hub and a local Neuronpedia."""
    root = tmp_path_factory.mktemp("models")
    with HubServer() as hub, NeuronpediaServer() as neuronpedia:
        neuronpedia.answers = AllFeatures()
        hub.add("lab/tiny", tiny.save_model(root / "model"))
        hub.add("lab/set", tiny.save_transcoders(root / "set"))
        hub.add("lab/closed", root / "model", gated=True, token="good")
        (root / "models.yaml").write_text(yaml.safe_dump(OWN))
        app = App(
            root / "store",
            {
                "CIRCUIT_OFFLINE": "",
                "CIRCUIT_HOME": str(root / "home"),
                "CIRCUIT_MODELS": str(root / "models.yaml"),
                "HF_ENDPOINT": hub.url,
                "HF_HOME": str(root / "hf"),
                "HF_HUB_CACHE": str(root / "hf" / "hub"),
                "HF_TOKEN": "",
                "HF_HUB_DISABLE_XET": "1",
                "NEURONPEDIA_URL": neuronpedia.url,
                "NO_PROXY": "127.0.0.1,localhost",
            },
        )
        yield app
        app.stop()


def look_at(page: Page, name: str) -> None:
    page.get_by_role("button", name=name).click()
    expect(page.get_by_role("heading", name=name, exact=True)).to_be_visible()
    settled(page)


def test_a_model_is_downloaded_used_labelled_and_unloaded(networked: App, page: Page) -> None:
    page.goto(f"{networked.url}/models")
    expect(page.get_by_text("This machine:")).to_be_visible()
    look_at(page, "tiny")
    expect(page.get_by_text("Fits:")).to_be_visible()
    page.get_by_role("button", name="Ask the Hub for the exact size").click()
    expect(page.get_by_role("button", name="Download 1")).to_contain_text("kB")
    page.get_by_role("button", name="Download").click()
    page.get_by_role("button", name="Use this model").click()
    box = page.get_by_role("textbox", name="Prompt")
    box.fill("w1 w7 w2 w30 w11")
    box.press("Control+Enter")
    expect(page.get_by_text("Most influential features")).to_be_visible()
    named = page.locator(".neighbours .entry", has_text="named ").first
    expect(named).to_be_visible()  # labels load in the background, then the page is redrawn
    named.click()
    expect(page.get_by_text("Top activations")).to_be_visible()
    expect(page.get_by_text("Austin").first).to_be_visible()
    assert "model=tiny" in page.url and "transcoders=plain" in page.url
    page.get_by_role("link", name="Models", exact=True).click()
    expect(page.get_by_text("In use.")).to_be_visible()
    page.get_by_role("button", name="Unload").click()
    settled(page)
    page.reload()
    expect(page.get_by_text("In use.")).to_be_visible()
    expect(page.get_by_role("button", name="Unload")).to_have_count(0)


def test_a_model_says_why_it_cannot_be_used_and_an_own_one_is_added_and_removed(
    networked: App, page: Page, tmp_path: Path
) -> None:
    page.goto(with_query(f"{networked.url}/models", look="closed"))
    expect(page.get_by_text("Gated (Lab)")).to_be_visible()
    page.get_by_role("button", name="Download").click()
    expect(page.get_by_test_id("stAlert").get_by_text("lab/closed")).to_be_visible()
    expect(page.get_by_role("button", name="Download")).to_be_visible()
    settled(page)

    look_at(page, "huge")
    expect(page.get_by_text("Does not fit: 4,000,000 GB needed")).to_be_visible()
    expect(page.get_by_text("too large for this machine").first).to_be_visible()

    model, transcoders = (
        tiny.save_model(tmp_path / "m"),
        tiny.save_transcoders(tmp_path / "own-set"),
    )
    page.get_by_text("Add your own model").click()
    page.get_by_role("textbox", name="Name", exact=True).fill("mine")
    page.get_by_role("textbox", name="Model", exact=True).fill("/no/where")
    page.get_by_role("textbox", name="Transcoders", exact=True).fill(str(transcoders))
    page.get_by_role("button", name="Add model").click()
    expect(page.get_by_text("/no/where")).to_be_visible()
    page.get_by_role("textbox", name="Model", exact=True).fill(str(model))
    page.get_by_role("button", name="Add model").click()
    expect(page.get_by_role("heading", name="mine", exact=True)).to_be_visible()
    expect(page.get_by_role("button", name="Use this model")).to_be_visible()
    page.get_by_role("button", name="Remove from my list").click()
    expect(page.get_by_role("button", name="mine")).to_have_count(0)


def test_a_link_to_a_missing_model_leads_to_the_models_page(networked: App, page: Page) -> None:
    link = with_query(networked.url, model="lab/other", transcoders="lab/set", prompt="w1 w2")
    page.goto(link)
    expect(page.get_by_test_id("stAlert")).to_contain_text("lab/other")
    page.get_by_role("button", name="Models", exact=True).click()
    expect(page.get_by_text("It is not on the list")).to_be_visible()
    page.go_back()
    page.goto(link)
    page.get_by_role("button", name="Back to atlas").click()
    expect(page.get_by_text("Transcoders for atlas")).to_be_visible()


def test_offline_mode_is_shown(app: App, page: Page) -> None:
    page.goto(with_query(f"{app.url}/models", look="gemma-2-2b"))
    expect(page.get_by_text("offline").first).to_be_visible()
    expect(page.get_by_role("button", name="Download")).to_have_count(0)
