"""The Library page in a real browser: a graph is imported, drawn, pinned and exported."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
from conftest import App, downloaded, settled, unfold, with_query
from graph_actions import graph
from playwright.sync_api import Page, expect

from charts.text import percent

pytestmark = pytest.mark.browser
EMPTY_LIBRARY = True


def published() -> dict[str, Any]:
    """A graph with three layers, a label, and a node of an unknown kind."""

    def node(name: str, kind: str, layer: str, position: int, **more: Any) -> dict[str, Any]:
        stored = {"node_id": name, "feature": 0, "layer": layer, "ctx_idx": position}
        return stored | {"feature_type": kind, "jsNodeId": name, "clerp": ""} | more

    feature = "cross layer transcoder"
    ends = [("E_5_1", "0_7_1", 1.5), ("0_7_1", "2_9_2", -0.5), ("2_9_2", "4_11_2", 2.0)]
    return {
        "metadata": {
            "slug": "big-dog",
            "scan": "gemma-2-2b",
            "prompt_tokens": ["<bos>", " big", " dog"],
            "prompt": "<bos> big dog",
        },
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both"},
        "nodes": [
            node("E_5_1", "embedding", "E", 1),
            node("0_7_1", feature, "0", 1, clerp="large <b>things</b>", activation=1.0),
            node("2_9_2", feature, "2", 2, activation=2.5),
            node("strange", "lorsa", "1", 2),
            node("4_11_2", "logit", "4", 2, clerp='Output " bark" (p=0.700)', token_prob=0.7),
        ],
        "links": [{"source": s, "target": t, "weight": w} for s, t, w in ends],
    }


def drop(page: Page, name: str, content: bytes) -> None:
    file = {"name": name, "mimeType": "application/octet-stream", "buffer": content}
    page.locator("input[type=file]").set_input_files([file])  # type: ignore[list-item]


def exported(page: Page) -> dict[str, Any]:
    button = page.get_by_role("button", name="JSON", exact=True)
    unfold(page.get_by_role("button", name="More", exact=True), button)
    stored: dict[str, Any] = json.loads(downloaded(page, button).read_bytes())
    page.keyboard.press("Escape")
    return stored


def test_a_graph_is_imported_pinned_and_exported_with_the_pin(app: App, page: Page) -> None:
    page.goto(f"{app.url}/library")
    expect(page.get_by_text("The library is empty")).to_be_visible()
    drop(page, "dog.json", json.dumps(published()).encode())
    expect(page.get_by_text("dog.json was imported")).to_be_visible()
    settled(page)
    assert exported(page) == published()

    page.get_by_role("button", name="Open graph").click()
    expect(page.get_by_text("imported from the model gemma-2-2b")).to_be_visible()
    settled(page)
    drawn = graph(page)
    expect(drawn.locator("[data-role=labels]").get_by_text("large <b>things</b>")).to_be_visible()
    kinds = page.evaluate("() => [...new Set(circuitGraphs.graphs.get('trace').side.kind)].sort()")
    assert kinds == ["feature", "logit", "lorsa", "token"]
    page.locator(".neighbours .entry", has_text="large <b>things</b>").first.click()
    expect(page.get_by_text("No examples: this graph was imported")).to_be_visible()
    page.get_by_role("button", name="Pin", exact=True).click()
    expect(page.get_by_role("button", name="Unpin", exact=True)).to_be_visible()
    settled(page)

    page.get_by_role("link", name="Library").click()
    expect(page.get_by_text("gemma-2-2b · imported")).to_be_visible()
    settled(page)
    changed = published()
    changed["qParams"]["pinnedIds"] = ["0_7_1"]
    assert exported(page) == changed


def test_a_link_to_a_missing_graph_leads_back(app: App, page: Page) -> None:
    page.goto(with_query(app.url, graph="f" * 32))
    expect(page.get_by_text("This graph is not in the library")).to_be_visible()
    page.get_by_role("button", name="Back to the prompts").click()
    expect(page.get_by_label("Prompt (the graph explains its next token)")).to_be_visible()


def test_files_are_imported_described_deleted_and_exported_and_one_that_is_no_graph_is_refused(
    app: App, page: Page
) -> None:
    page.goto(f"{app.url}/library")
    expect(page.get_by_role("heading", name="Library")).to_be_visible()
    settled(page)
    drop(page, "notes.pt", b"not a graph")
    expect(page.get_by_text("notes.pt: ")).to_be_visible()
    expect(page.get_by_test_id("stException")).to_have_count(0)

    # a large file is imported in the background
    large = published()
    large["metadata"]["slug"] = "large-dog"
    large["padding"] = [0.5] * 1_500_000  # takes longer to read than the page waits
    drop(page, "large.json", json.dumps(large).encode())
    page.get_by_text("large.json was imported").wait_for()
    expect(page.get_by_text("Imported graphs (")).to_be_visible()
    settled(page)
    expect(page.get_by_test_id("stProgress")).to_have_count(0)
    expect(page.get_by_test_id("stException")).to_have_count(0)

    described = published()
    described["metadata"]["slug"] = "to-describe"
    drop(page, "described.json", json.dumps(described).encode())
    expect(page.get_by_text("described.json was imported")).to_be_visible()
    settled(page)
    row = page.locator("[class*=st-key-graph-]").filter(has_text="to-describe")
    title = page.get_by_label("Title")
    unfold(row.get_by_role("button", name="More"), title)
    title.fill("A <b>big</b> dog")
    title.press("Enter")
    settled(page)
    row = page.locator("[class*=st-key-graph-]").filter(has_text="A <b>big</b> dog")
    expect(row.locator("img")).to_be_visible()
    tags = page.get_by_label("Tags, separated by commas")
    if not tags.is_visible():
        unfold(row.get_by_role("button", name="More"), tags)
    tags.fill("animals, drafts")
    tags.press("Enter")
    expect(row.get_by_text("animals")).to_be_visible()
    settled(page)
    delete = page.get_by_role("button", name="Delete this graph")
    if not delete.is_visible():
        unfold(row.get_by_role("button", name="More"), delete)
    delete.click()
    expect(page.get_by_text("“A <b>big</b> dog” was deleted.")).to_be_visible()
    settled(page)
    page.get_by_role("button", name="Undo").click()
    expect(row.get_by_text("animals")).to_be_visible()
    expect(page.get_by_test_id("stException")).to_have_count(0)

    # many graphs are exported in one zip
    for name in ("first", "second"):
        stored = published()
        stored["metadata"]["slug"] = f"zip-{name}"
        drop(page, f"{name}.json", json.dumps(stored).encode())
        expect(page.get_by_text(f"{name}.json was imported")).to_be_visible()
        settled(page)
    button = page.get_by_role("button", name=re.compile(r"Download \d+ graphs"))
    unfold(page.get_by_role("button", name="Export …"), button)
    page.get_by_text("CSV: a table of nodes and one of edges").click()
    settled(page)
    with zipfile.ZipFile(downloaded(page, button)) as file:
        names = file.namelist()
        tables = [name for name in names if name.startswith("zip-")]
        assert len(tables) == 4 and "not exported.txt" not in names
        nodes = next(name for name in tables if name.endswith("-nodes.csv"))
        assert b"large <b>things</b>" in file.read(nodes)
    expect(page.get_by_test_id("stException")).to_have_count(0)


def test_a_graph_is_shared_as_one_file_that_opens_without_a_server(
    app: App, page: Page, tmp_path: Path
) -> None:
    page.goto(f"{app.url}/library")
    settled(page)
    shared = published()
    shared["metadata"]["slug"] = "shared"
    shared["qParams"] = {"pinnedIds": ["0_7_1"], "supernodes": [["<i>size</i>", "2_9_2"]]}
    drop(page, "shared.json", json.dumps(shared).encode())
    expect(page.get_by_text("shared.json was imported")).to_be_visible()
    settled(page)
    row = page.locator("[class*=st-key-graph-]").filter(has_text="shared").first
    shared = downloaded(page, row.get_by_role("button", name="Share"))
    file = tmp_path / "shared.html"
    file.write_bytes(shared.read_bytes())
    assert file.stat().st_size < 8_000_000
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.set_content(file.read_text(encoding="utf-8"))
    expect(page.get_by_role("heading", name="<bos> big dog")).to_be_visible()
    expect(page.locator("#panel").get_by_text("<i>size</i>")).to_be_visible()
    page.locator("#panel").get_by_role("button", name="large <b>things</b>").first.click()
    expect(
        page.locator("#panel").get_by_role("heading", name="large <b>things</b>")
    ).to_be_visible()
    expect(page.locator("#panel").get_by_text("Outputs (1)")).to_be_visible()
    for share in (
        0.0,
        1e-7,
        0.0004,
        0.0007,
        0.03,
        0.0423,
        0.0994,
        0.0996,
        0.5,
        0.9951,
        0.9999,
        1.0,
    ):
        assert page.evaluate("share => percent(share)", share) == percent(share)
    assert errors == []
