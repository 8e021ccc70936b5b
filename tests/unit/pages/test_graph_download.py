"""Graphs leave the library as one HTML file, as tables, and many at once."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest
import streamlit as st
from large_graphs import large_graph

from cache import Annotations, StoreError, TraceRequest
from charts.thumbnail import thumbnail_svg
from pages.shared import graph_download, resources
from tracer.errors import TracerError
from tracer.graph.pruning import prune
from tracer.types import NodeId, Supernode, Thresholds

PROMPT = "The capital of the state containing Dallas is"
TEXAS = NodeId("feature", 1, 7, 887)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The first prompt's graph, with pins, notes and a label that is markup."""
    patch = pytest.MonkeyPatch()
    patch.setenv("CIRCUIT_STORE", str(tmp_path_factory.mktemp("download") / "store"))
    st.cache_resource.clear()
    backend = resources.backend()
    backend.trace(TraceRequest(PROMPT)).result(120)
    graph_key = backend.stored()[0].key
    backend.annotate(graph_key, title="</script><b>T", notes="a note")
    group = Supernode("<img src=x>", (TEXAS,))
    backend.save_annotations(graph_key, Annotations((), (group,)))
    resources.set_label(resources.backend().graph(graph_key), TEXAS.feature, "<i>Texas</i>")  # type: ignore[arg-type]
    yield graph_key
    patch.undo()
    st.cache_resource.clear()


def embedded(page: str, name: str) -> dict[str, Any]:
    match = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page, re.S)
    assert match is not None
    text = match[1]
    return json.loads(text[text.index("{") :])


def test_a_shared_file_is_complete_small_and_asks_nobody(key: str) -> None:
    content = graph_download.shared_file(key, Thresholds())
    page = content.decode()
    assert len(content) < graph_download.MOST_BYTES
    markup = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"(src|href|url)\s*[=(]", markup)
    data = embedded(page, "page-data")
    assert data["notes"] == "a note"
    assert data["groups"][0]["name"] == "<img src=x>" and data["groups"][0]["ids"] == [str(TEXAS)]
    card = data["cards"][str(TEXAS)]
    assert card["groups"][0]["examples"] and card["promoted"]
    assert data["next_tokens"][0][0] == "Austin"
    graph = embedded(page, "graph-data")
    assert "<i>Texas</i>" in json.dumps(graph)


def test_a_file_has_the_pins_that_are_shown_when_they_are_not_saved(key: str) -> None:
    shown = Annotations((TEXAS,), ())
    page = graph_download.shared_file(key, Thresholds(), shown).decode()
    data = embedded(page, "page-data")
    assert data["pinned"] == [str(TEXAS)] and data["groups"] == []


def test_a_published_graph_of_hundreds_of_nodes_fits_into_a_file(key: str) -> None:
    content = large_graph(n_tokens=11, n_features=300)
    job = resources.backend().import_graph(content, "large.json")
    page = graph_download.shared_file(job.result(60), resources.WHOLE)
    assert len(embedded(page.decode(), "graph-data")["side"]["id"]) == 323
    assert len(page) < 8_000_000


def test_texts_of_a_shared_file_are_never_markup(key: str) -> None:
    page = graph_download.shared_file(key, Thresholds()).decode()
    head = page[: page.index('<script type="application/json"')]
    assert "</script>" not in head and "<b>T" not in head
    for name in ("graph-data", "page-data"):
        start = page.index(f'id="{name}">') + len(f'id="{name}">')
        assert "<" not in page[start : page.index("</script>", start)]


def test_a_shared_file_leaves_out_cards_rather_than_grow(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete = graph_download.shared_file(key, Thresholds())
    monkeypatch.setattr(graph_download, "MOST_BYTES", len(complete) - 1)
    smaller = graph_download.shared_file(key, Thresholds())
    all_cards = embedded(complete.decode(), "page-data")["cards"]
    kept = embedded(smaller.decode(), "page-data")["cards"]
    assert 0 < len(kept) < len(all_cards) and str(TEXAS) in kept
    monkeypatch.setattr(graph_download, "MOST_BYTES", 1000)
    with pytest.raises(TracerError, match="lower the thresholds"):
        graph_download.shared_file(key, Thresholds())


def test_many_graphs_are_exported_in_one_zip(key: str) -> None:
    entries = [entry for entry in resources.backend().stored() if entry.key == key]
    for form, endings in (("JSON", [".json"]), ("CSV", ["-nodes.csv", "-edges.csv"])):
        content = graph_download.archive(entries, form, Thresholds())  # type: ignore[arg-type]
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            names = file.namelist()
            assert [n[-len(e) :] for n, e in zip(names, endings, strict=True)] == endings
            assert all(name.startswith(f"script-b-t-{key[:8]}") for name in names)
            if form == "CSV":
                nodes = pd.read_csv(file.open(names[0]))
                edges = pd.read_csv(file.open(names[1]))
                assert {"name", "layer", "activation", "influence", "id"} <= set(nodes.columns)
                assert str(TEXAS) in set(nodes["id"]) and "<i>Texas</i>" in set(nodes["name"])
                assert set(edges["from id"]) <= set(nodes["id"])
            else:
                assert json.loads(file.read(names[0]))["metadata"]["prompt"] == PROMPT


def test_a_graph_that_is_gone_is_named_in_the_zip(key: str) -> None:
    from dataclasses import replace

    entry = replace(resources.backend().stored()[0], key="f" * 32, title="gone")
    content = graph_download.archive([entry], "CSV", Thresholds())
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        assert b"gone: this graph is not in the library" in file.read("not exported.txt")
    with pytest.raises(StoreError, match="not in the library"):
        graph_download.shared_file("f" * 32, Thresholds())


def test_a_thumbnail_has_a_dot_for_every_kept_node(key: str) -> None:
    graph = resources.backend().graph(key)
    assert graph is not None
    pruned = prune(graph)
    picture = thumbnail_svg(pruned)
    assert picture.count("<circle") == len(pruned.rows) and "<text" not in picture
    numbers = re.findall(r'c[xy]="([-0-9.]+)"', picture)
    assert all(0 <= float(number) <= 132 for number in numbers)


def test_drawing_the_library_does_not_count_as_using_a_graph(key: str) -> None:
    before = resources.backend().stored()[0].used
    resources.backend().store._touched.clear()
    assert resources.backend().store.load(key, touch=False) is not None
    assert resources.backend().stored()[0].used == before
