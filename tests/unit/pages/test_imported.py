"""Graphs imported from other tools on the pages, without a browser."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from page_components import component_data
from streamlit.testing.v1 import AppTest

import tracer
from cache import TraceRequest
from pages.shared import resources, stored_graph

MAIN = Path(__file__).resolve().parents[3] / "pages" / "shell" / "main.py"


def published() -> dict[str, Any]:
    def node(name: str, kind: str, layer: str, position: int, **more: Any) -> dict[str, Any]:
        stored = {"node_id": name, "feature": 0, "layer": layer, "ctx_idx": position}
        return stored | {"feature_type": kind, "jsNodeId": name, "clerp": ""} | more

    feature = "cross layer transcoder"
    ends = [("E_5_1", "0_7_1", 1.5), ("0_7_1", "1_9_2", -0.5), ("1_9_2", "3_11_2", 2.0)]
    return {
        "metadata": {
            "slug": "big-dog",
            "scan": "gemma-2-2b",
            "prompt_tokens": ["<bos>", " big", " dog"],
            "prompt": "<bos> big dog",
            "info": {
                "source_urls": ["https://example.org/set", "javascript:alert(1)"],
                "generator": {"name": "circuit-tracer", "version": "0.2"},
            },
            "pruning_settings": {"node_threshold": 0.8, "edge_threshold": 0.85},
        },
        "qParams": {"pinnedIds": ["1_9_2"], "supernodes": [["size", "0_7_1"]]},
        "nodes": [
            node("E_5_1", "embedding", "E", 1),
            node("0_7_1", feature, "0", 1, clerp="large <b>things</b>"),
            node("1_9_2", feature, "1", 2, activation=2.5),
            node("3_11_2", "logit", "3", 2, clerp='Output " bark" (p=0.700)', token_prob=0.7),
        ],
        "links": [{"source": s, "target": t, "weight": w} for s, t, w in ends],
    }


@pytest.fixture(scope="module")
def key(store: None) -> str:
    content = json.dumps(published()).encode()
    return resources.backend().import_graph(content, "big.json").result(60)


def opened(**query: str) -> AppTest:
    test = AppTest.from_file(str(MAIN), default_timeout=60)
    for name, value in query.items():
        test.query_params[name] = value
    test.run()
    assert not test.exception
    return test


def shown(app: AppTest) -> str:
    parts = [*app.markdown, *app.caption, *app.info, *app.error]
    # without the backslashes that keep Markdown from being read into a text
    # and the invisible characters that keep an address from becoming a link
    text = "\n".join(part.value for part in parts).replace("\u200b", "")
    return re.sub(r"\\(.)", r"\1", text)


def test_an_imported_graph_is_drawn_unpruned_with_its_origin(key: str) -> None:
    app = opened(graph=key, nodes="1", edges="1")
    text = shown(app)
    assert "<bos> big dog **bark**" in text
    assert "big-dog: imported, created by circuit-tracer 0.2 from the model gemma-2-2b" in text
    assert "pruned to 80 % of node influence and 85 % of edge influence" in text
    assert "influence and scores below refer to the part that was kept" in text
    assert "6 of 6 nodes of the file shown." in text
    assert any("large" in button.label for button in app.button)
    assert not any(box.key == "prompt box" for box in app.text_area)


def test_a_link_without_thresholds_shows_the_graph_as_its_file_has_it(key: str) -> None:
    app = opened(graph=key)
    assert "6 of 6 nodes of the file shown." in shown(app)
    assert (app.query_params["nodes"], app.query_params["edges"]) == ("1", "1")
    app = opened(graph=key, nodes="0.1", edges="0.98")
    assert app.slider(key="node threshold").value == 0.1
    app.slider(key="node threshold").set_value(0.8).run()
    app.slider(key="edge threshold").set_value(0.98).run()
    assert (app.query_params["nodes"], app.query_params["edges"]) == ("0.8", "0.98")


def test_its_pins_and_supernodes_are_shown_and_can_be_changed(key: str) -> None:
    app = opened(graph=key)
    assert "**size** :gray[1 node]" in shown(app)
    assert len([b for b in app.button if b.key.startswith("unpin pinned")]) == 1
    next(button for button in app.button if button.label == "Ungroup").click().run()
    assert not app.exception
    annotations = resources.backend().annotations(key)
    assert annotations.supernodes == () and len(annotations.pinned) == 2


@pytest.mark.parametrize(
    ("node", "activation"), [("feature-0-1-7", "unknown"), ("feature-1-2-9", "2.50")]
)
def test_a_feature_shows_what_the_file_contains_and_has_no_switch(
    key: str, node: str, activation: str
) -> None:
    app = opened(graph=key, node=node)
    text = shown(app)
    assert f"activation {activation} " in component_data(app, "head")["facts"]
    assert "No examples: this graph was imported without its model" in text
    assert "https://example.org/set" in text
    assert not any("Turn this feature off" in toggle.label for toggle in app.toggle)


@pytest.mark.parametrize(
    ("provenance", "expected"),
    [
        ({"imported": True}, ""),
        ({"device": "cpu", "dtype": "float32"}, "Computed on the CPU in float32."),
        (
            {"device": "H100", "dtype": "bfloat16", "forward_dtype": "float32", "tf32": True},
            "Computed on H100 in bfloat16, forward pass in float32, with TF32 products.",
        ),
    ],
)
def test_the_device_and_data_types_are_shown_where_known(
    key: str, provenance: dict[str, Any], expected: str
) -> None:
    graph = resources.backend().graph(key)
    assert graph is not None
    assert stored_graph.computed_sentence(replace(graph, provenance=provenance)) == expected


def test_no_model_is_opened_for_it(key: str) -> None:
    opened(graph=key)
    backend = resources.backend()
    assert backend.device is None and backend.queue == ()


def test_another_prompt_closes_it(key: str) -> None:
    app = opened(graph=key, nodes="1", edges="1")
    app.button(key="close graph").click().run()
    assert "graph" not in app.query_params and "nodes" not in app.query_params
    assert app.text_area(key="prompt box").value
    app = opened(graph=key)
    app.button(key="sidebar close graph").click().run()
    app.button(key="next").click().run()
    assert "graph" not in app.query_params
    assert "Oakland" in app.text_area(key="prompt box").value


def test_a_missing_graph_is_reported_with_a_way_back(store: None) -> None:
    app = opened(graph="f" * 32)
    assert len(app.error) == 1 and "not in the library" in app.error[0].value
    app.button(key="close graph").click().run()
    assert not app.error and app.text_area(key="prompt box").value


def test_the_interventions_page_says_that_the_model_is_missing(key: str) -> None:
    app = opened(graph=key)
    app.switch_page(str(MAIN.parents[1] / "interventions" / "page.py")).run()
    assert not app.exception
    assert "This graph was imported without its model" in shown(app)
    assert not app.slider


def test_the_library_lists_and_renames_it(key: str) -> None:
    app = opened(graph=key)
    app.switch_page(str(MAIN.parents[1] / "library" / "page.py")).run()
    assert not app.exception
    text = shown(app)
    assert "**big-dog**" in text and "gemma-2-2b · imported · " in text
    app.text_input(key=f"title {key}").set_value("Barking").run()
    assert "**Barking**" in shown(app)
    assert [e.title for e in resources.backend().stored() if e.key == key] == ["Barking"]


def test_a_small_graph_is_not_pruned_again(key: str, monkeypatch: Any) -> None:
    graph = resources.backend().graph(key)
    assert graph is not None
    assert stored_graph.first_thresholds(graph) == resources.WHOLE
    monkeypatch.setattr(stored_graph, "_DRAWN_WHOLE", 5)
    assert stored_graph.first_thresholds(graph).node == 0.8


def test_a_traced_graph_opens_with_its_prompt_and_model(store: None) -> None:
    backend, prompt = resources.backend(), "The capital of the state containing Oakland is"
    plain_job = backend.trace(TraceRequest(prompt))
    aimed_job = backend.trace(TraceRequest(prompt, targets=(" California",)))
    graphs = [job.result(60) for job in (plain_job, aimed_job)]
    keys = [backend.store.key_of(job.key) or job.key for job in (plain_job, aimed_job)]
    assert keys[0] != keys[1]

    app = opened()
    app.switch_page(str(MAIN.parents[1] / "library" / "page.py")).run()
    assert "computed on the CPU in float32" in shown(app)
    app.button(key=f"open {keys[0]}").click().run()  # the prompt leads to it
    assert "graph" not in app.query_params
    assert app.text_area(key="prompt box").value == prompt

    feature = next(n for n in tracer.prune(graphs[1]).nodes if n.kind == "feature")
    app = opened(graph=keys[1], node=str(feature))
    assert app.query_params["prompt"] == prompt and app.query_params["graph"] == keys[1]
    assert "**California**" not in shown(app) and "From the library" in shown(app)
    toggle = next(t for t in app.toggle if "Turn this feature off" in t.label)
    toggle.set_value(True).run()
    assert "KL divergence" in shown(app)


def test_imported_graphs_can_be_compared_and_missing_activations_are_unknown(key: str) -> None:
    other = published()
    other["metadata"]["slug"] = "small-cat"
    other["nodes"][2]["node_id"] = other["links"][1]["target"] = "1_10_2"
    other["links"][2]["source"] = "1_10_2"
    second = resources.backend().import_graph(json.dumps(other).encode(), "cat.json").result(60)
    app = opened(graph=key, with_graph=second)
    app.switch_page(str(MAIN.parents[1] / "compare" / "page.py")).run()
    assert not app.exception
    assert "1 feature in both graphs, 1 only left, 1 only right" in shown(app)
    table = app.dataframe[0].value.set_index("index")
    assert table.loc[9, "activation left"] == 2.5
    assert table.loc[9, "activation right"] != table.loc[9, "activation right"]  # not a number
    assert not any(button.key == "send differences" for button in app.button)
    app = opened(with_graph="f" * 32)
    app.switch_page(str(MAIN.parents[1] / "compare" / "page.py")).run()
    assert any("no longer in the library" in error.value for error in app.error)


def test_its_attention_is_not_split_because_it_comes_without_its_model(key: str) -> None:
    app = opened(graph=key, node="logit-2-2-11", head="0:0")
    text = shown(app)
    assert "Attention is not split by heads: this graph was imported without its model." in text
    assert not any(toggle.key == "carried" for toggle in app.toggle)
    assert not app.error  # the head of the link is not asked about
    text = shown(opened(graph=key, view="heads"))
    assert "This graph was imported without its model, so its edges cannot be split" in text
