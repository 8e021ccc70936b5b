"""A small graph in the JSON of each tool that publishes graphs."""

from __future__ import annotations

from typing import Any


def node(name: str, kind: str, layer: str, position: int, **more: Any) -> dict[str, Any]:
    stored = {"node_id": name, "feature": 0, "layer": layer, "ctx_idx": position}
    return stored | {"feature_type": kind, "jsNodeId": f"{name}-0", "clerp": ""} | more


def link(source: str, target: str, weight: float) -> dict[str, Any]:
    return {"source": source, "target": target, "weight": weight}


def neuronpedia() -> dict[str, Any]:
    """Return it as Neuronpedia writes it, with an unknown kind of node and unknown keys."""
    return {
        "metadata": {
            "slug": "big-dog",
            "scan": "gemma-2-2b",
            "prompt_tokens": ["<bos>", " big", " dog"],
            "prompt": "<bos> big dog",
            "schema_version": 1,
            "info": {
                "source_urls": ["https://example.org/set"],
                "transcoder_set": "someone/clt",
                "generator": {"name": "circuit-tracer", "version": "0.2.0"},
            },
            "pruning_settings": {"node_threshold": 0.8, "edge_threshold": 0.85},
            "mine": [1],
        },
        "qParams": {
            "pinnedIds": ["0_7_1", "3_11_2", "lorsa"],
            "supernodes": [["size", "0_7_1", "lorsa"]],
            "linkType": "both",
        },
        "nodes": [
            node("E_5_1", "embedding", "E", 1),
            node("0_7_1", "cross layer transcoder", "0", 1, activation=2.5, clerp="large things"),
            node("1_9_2", "cross layer transcoder", "1", 2, own={"a": 1}),
            node("1_-1_2", "mlp reconstruction error", "1", 2),
            node("lorsa", "lorsa", "1", 2),
            node("3_11_2", "logit", "3", 2, clerp='Output " bark" (p=0.700)', token_prob=0.7),
        ],
        "links": [
            link("E_5_1", "0_7_1", 1.5),
            link("0_7_1", "1_9_2", -0.5),
            link("1_-1_2", "3_11_2", 0.25),
            link("1_9_2", "3_11_2", 2.0),
            link("lorsa", "3_11_2", 9.0),
        ],
        "qk_only_nodes": {"x": 1},
    }


def circuit_tracers_own() -> dict[str, Any]:
    """Return it as circuit-tracer's local server saves it: lists as text, old ids of errors."""
    stored = neuronpedia()
    stored["qParams"] = {
        "pinnedIds": "0_7_1,3_11_2",
        "supernodes": '[["size","0_7_1"]]',
        "clerps": '[["1_9_2","barks"]]',
        "clickedId": None,
    }
    stored["nodes"][3]["node_id"] = "0_1_2"  # layer 1, position 2
    stored["links"][2]["source"] = "0_1_2"
    return stored


def bare() -> dict[str, Any]:
    """Return only what the schema requires; one feature has its paired index in the field only."""
    stored = neuronpedia()
    keys = ("slug", "scan", "prompt_tokens", "prompt")
    stored["metadata"] = {key: stored["metadata"][key] for key in keys}
    stored["qParams"] = {}
    stored["nodes"][1] |= {"node_id": "first", "feature": 35}  # layer 0 and feature 7, paired
    stored["nodes"] = [n for n in stored["nodes"] if n["node_id"] != "lorsa"]
    stored["links"] = stored["links"][:4]
    stored["links"][0]["target"] = stored["links"][1]["source"] = "first"
    return stored


FLAVOURS = {"neuronpedia": neuronpedia, "own": circuit_tracers_own, "bare": bare}
