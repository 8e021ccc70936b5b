"""The Library page: empty, and while files are imported."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import streamlit as st
from example_graphs import dallas_graph
from page_components import component_data
from streamlit.testing.v1 import AppTest

from cache.graph_files import ImportedGraph, read_import
from pages.shared import resources

ROOT = Path(__file__).resolve().parents[3]


def test_an_empty_library_explains_how_to_fill_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIRCUIT_STORE", str(tmp_path / "store"))
    st.cache_resource.clear()
    app = AppTest.from_string(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom pages.library import view\n"
        "view.draw()",
        default_timeout=60,
    ).run()
    assert not app.exception
    assert len(app.info) == 1 and "trace a prompt" in app.info[0].value
    assert "drop a graph file" in app.info[0].value
    st.cache_resource.clear()


class SlowReader:
    """Holds every import until ``open`` is set."""

    def __init__(self) -> None:
        self.read: list[str] = []
        self.open = threading.Event()

    def __call__(self, content: bytes, name: str, check: object) -> ImportedGraph:
        self.read.append(name)
        assert self.open.wait(60)
        return read_import(content, name)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowReader]:
    reader = SlowReader()
    monkeypatch.setattr("cache.backend.read_upload", reader)
    yield reader
    reader.open.set()


@pytest.fixture
def visitor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], AppTest]]:
    monkeypatch.setenv("CIRCUIT_STORE", str(tmp_path / "store"))
    st.cache_resource.clear()

    def arrive() -> AppTest:
        app = AppTest.from_file(str(ROOT / "pages" / "shell" / "main.py"), default_timeout=60)
        app.query_params["graph"] = "0" * 32  # a graph that is gone: nothing is traced
        app.run()  # registers the pages
        return app.switch_page(str(ROOT / "pages" / "library" / "page.py")).run()

    yield arrive
    st.cache_resource.clear()


def graph_file(slug: str = "big-dog") -> bytes:
    node = {"ctx_idx": 0, "feature": 11, "jsNodeId": "x", "clerp": "bark", "token_prob": 0.5}
    logit = node | {"node_id": "1_11_0", "layer": "1", "feature_type": "logit"}
    metadata = {"slug": slug, "scan": "gemma", "prompt": "dog", "prompt_tokens": ["dog"]}
    return json.dumps({"metadata": metadata, "nodes": [logit], "links": []}).encode()


def dropped(app: AppTest, *files: tuple[str, bytes]) -> AppTest:
    app.file_uploader[0].set_value([(name, content, "x/y") for name, content in files]).run()
    assert not app.exception
    return app


def messages(app: AppTest) -> list[str]:
    return [box.value.replace("\\", "") for box in [*app.success, *app.error]]


def progress_of(app: AppTest) -> list[str]:
    return [bar.proto.text.replace("\\", "") for bar in app.get("progress")]


def wait_for_imports() -> None:
    for job in list(resources.backend().imports):
        job.wait(60)


def test_a_large_file_is_imported_in_the_background(
    visitor: Callable[[], AppTest], slow: SlowReader
) -> None:
    app = dropped(visitor(), ("dog.json", graph_file()))
    [bar] = progress_of(app)
    assert bar.startswith("dog.json: ")
    assert not messages(app)
    assert len(app.info) == 1  # the page below is drawn, and still empty
    slow.open.set()
    wait_for_imports()
    app.run()  # as the page does by itself once the file is read
    assert messages(app) == ["dog.json was imported (0 features)."]
    assert not app.get("progress") and slow.read == ["dog.json"]
    app.run()
    assert len(messages(app)) == 1 and slow.read == ["dog.json"]
    app.button(key="open imported 0").click().run()
    assert resources.backend().stored()[0].key in app.query_params["graph"]
    assert not app.exception and component_data(app, "chart")


def test_a_slow_failing_import_is_reported_and_not_repeated(
    visitor: Callable[[], AppTest], slow: SlowReader
) -> None:
    app = dropped(visitor(), ("dog.json", b"{"), ("cat.pt", b"no"))
    assert len(app.get("progress")) == 2
    slow.open.set()
    wait_for_imports()
    for _ in range(3):
        app.run()
        first, second = messages(app)
        assert first.startswith("dog.json: ") and "JSON" in first and first.endswith(".")
        assert second.startswith("cat.pt: ") and ".pt" in second and second.endswith(".")
    assert slow.read == ["dog.json", "cat.pt"] and not app.get("progress")


def test_visitors_see_their_own_imports_which_stay_when_more_are_added(
    visitor: Callable[[], AppTest], slow: SlowReader
) -> None:
    app = dropped(visitor(), ("dog.json", graph_file()))
    other = dropped(visitor(), ("cat.json", graph_file("cat")))
    [bar] = progress_of(other)
    assert bar.startswith("cat.json: ")
    app = dropped(app, ("cow.json", graph_file("cow")))
    assert len(app.get("progress")) == 2
    slow.open.set()
    wait_for_imports()
    assert [each.partition(" ")[0] for each in messages(app.run())] == ["dog.json", "cow.json"]
    assert [each.partition(" ")[0] for each in messages(other.run())] == ["cat.json"]
    assert len(resources.backend().stored()) == 3
    captions = "".join(each.value for each in app.caption).replace("\\", "")
    assert re.search(r"Imported graphs \(3\) use [\d.]+ kB of 2\.0 GB and stay until you", captions)


def test_graphs_are_described_found_deleted_and_restored(visitor: Callable[[], AppTest]) -> None:
    backend = resources.backend()
    keys = [
        backend.import_graph(graph_file(f"dog-{number}"), f"{number}.json").result(60)
        for number in range(14)
    ]
    app = visitor()
    assert not app.exception
    assert len([b for b in app.button if b.label == "Open"]) == 12
    app.button(key="show more").click().run()
    assert len([b for b in app.button if b.label == "Open"]) == 14
    first = keys[0]
    app.text_input(key=f"tags {first}").set_value(" odd , odd,a  b").run()
    app.text_area(key=f"notes {first}").set_value("barks <b>loud</b>").run()
    app.text_input(key=f"title {first}").set_value("Alpha").run()
    assert not app.exception
    entry = next(entry for entry in backend.stored() if entry.key == first)
    assert (entry.title, entry.notes, entry.tags) == ("Alpha", "barks <b>loud</b>", ("odd", "a b"))
    app.text_input(key="library search").set_value("loud").run()
    assert [b.key for b in app.button if b.label == "Open"] == [f"open {first}"]
    app.text_input(key="library search").set_value("").run()
    app.selectbox(key="library order").set_value("Title").run()
    assert next(b.key for b in app.button if b.label == "Open") == f"open {first}"

    app.button(key=f"delete {first}").click().run()
    assert "“Alpha” was deleted." in app.info[0].value.replace("\\", "")
    assert all(entry.key != first for entry in backend.stored())
    app.run()
    app.switch_page(str(ROOT / "pages" / "about" / "page.py")).run()
    app.switch_page(str(ROOT / "pages" / "library" / "page.py")).run()
    app.button(key="undo delete").click().run()
    assert not app.exception and not app.info
    entry = next(entry for entry in backend.stored() if entry.key == first)
    assert (entry.title, entry.notes, entry.tags) == ("Alpha", "barks <b>loud</b>", ("odd", "a b"))
    app.text_input(key=f"title {first}").set_value("").run()  # its title protects an import
    assert next(entry for entry in backend.stored() if entry.key == first).title == "Alpha"


def test_a_damaged_graph_is_listed_with_its_reason_and_place(
    visitor: Callable[[], AppTest], tmp_path: Path
) -> None:
    store = resources.backend().store
    store.save("a" * 32, dallas_graph())
    app = visitor()
    assert not any("damaged" in each.label for each in app.expander)
    (file,) = (tmp_path / "store").rglob("a" * 32 + ".*")
    file.write_bytes(file.read_bytes()[:-40])
    assert store.load("a" * 32) is None
    app.run()
    assert any(each.label == "1 damaged file set aside" for each in app.expander)
    text = "\n".join(each.value for each in [*app.markdown, *app.caption]).replace("\\", "")
    assert re.search(r"a{32}\.\w+\S* set aside on .*, because .+\.", text)
    assert str(tmp_path / "store" / "damaged") in text
