"""A small graph in the JSON that other tools publish, and what can happen to it on the way."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

from tracer.interchange.graph_json import ExternalGraph, cantor_pair, read_graph_json

TOKENS = ["<bos>", " big", " dog"]


def node(name: str, kind: str, layer: str, position: int, **more: Any) -> dict[str, Any]:
    return {
        "node_id": name,
        "feature": more.pop("feature", 0),
        "layer": layer,
        "ctx_idx": position,
        "feature_type": kind,
        "jsNodeId": f"{name}-0",
        "clerp": more.pop("clerp", ""),
        **more,
    }


def published() -> dict[str, Any]:
    """Return two layers with a feature each, an old and a new error id, and an unknown kind."""
    feature = "cross layer transcoder"
    return {
        "metadata": {"slug": "s", "scan": "gemma", "prompt_tokens": [*TOKENS], "prompt": "big dog"},
        "qParams": {
            "pinnedIds": ["0_7_1", "0_1_2"],
            "supernodes": [["size", "0_7_1", "1_9_2"]],
            "linkType": "both",
        },
        "nodes": [
            node("E_5_1", "embedding", "E", 1),
            node("0_7_1", feature, "0", 1, feature=cantor_pair(0, 7), activation=2.5, own={"a": 1}),
            node("1_9_2", "unexplored node", "1", 2, feature=54, activation=None),
            node("0_1_2", "mlp reconstruction error", "1", 2, feature=-1),  # of layer 1
            node("0_-1_1", "mlp reconstruction error", "0", 1, feature=-1),
            node("lorsa", "lorsa", "1", 2, feature=3),
            node("3_11_2", "logit", "3", 2, clerp='Output " bark" (p=0.700)', token_prob=0.7),
            node("3_12_2", "logit", "3", 2, clerp='Output " run" (p=0.200)', token_prob=0.2),
        ],
        "links": [
            {"source": "E_5_1", "target": "0_7_1", "weight": 1.5},
            {"source": "0_7_1", "target": "1_9_2", "weight": -0.5},
            {"source": "0_1_2", "target": "3_11_2", "weight": 0.25},
            {"source": "1_9_2", "target": "3_11_2", "weight": 2},
            {"source": "lorsa", "target": "3_11_2", "weight": 9.0},
        ],
        "qk_only_nodes": {"x": {"node_id": "x"}},
    }


def read(stored: dict[str, Any]) -> ExternalGraph:
    return read_graph_json(json.dumps(stored).encode())


def changed(path: str, value: Any = None) -> dict[str, Any]:
    """Return `published` with the entry at ``path`` set to ``value``; None takes it out."""
    stored = copy.deepcopy(published())
    keys = [int(key) if key.isdecimal() else key for key in path.split("/")]
    place: Any = stored
    for key in keys[:-1]:
        place = place[key]
    if value is None:
        del place[keys[-1]]
    else:
        place[keys[-1]] = value
    return stored


DEEP = "[" * 600 + "]" * 600
TOO_DEEP = "[" * 100_000
RAW = (
    *("null", "true", "0", "-1", "3", "0.5", "1e400", "-1e400", "NaN", "Infinity", "1e38", "4e38"),
    *(
        "9" * 19,
        "9" * 4000,
        "9" * 5000,
        '""',
        '"x"',
        '"\\ud800"',
        '"' + "9" * 5000 + '"',
        '"0_7_1"',
    ),
    *("[]", "{}", "[1]", "[null]", '{"a": 1}', '[["a", "0_7_1"]]', DEEP, TOO_DEEP, '"[[1"', '"]"'),
    *('"[[\\"\\\\ud800\\", \\"0_7_1\\"]]"', f'"{TOO_DEEP}"', '"' + "9" * 5000 + '_1_2"', '"١_٢_1"'),
)
"""Values as they could be spelled in a file."""


def mutated(seed: int) -> bytes:
    """Return the file after one random accident: to a value, or to its bytes."""
    draw = random.Random(seed)
    stored: Any = published()
    stored["qParams"]["clerps"] = [["0_7_1", "large"]]
    stored["metadata"]["info"] = {
        "source_urls": ["https://neuronpedia.org/m/s"],
        "transcoder_set": "x",
        "generator": {"name": "n", "version": "1"},
    }
    stored["metadata"]["pruning_settings"] = {"node_threshold": 0.8}
    if seed % 4 == 0:
        content = bytearray(json.dumps(stored).encode())
        for _ in range(draw.choice([1, 1, 3])):
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        return bytes(content[: draw.choice([len(content)] * 3 + [draw.randrange(len(content))])])
    place = stored
    while True:
        key = draw.choice(list(place) if isinstance(place, dict) else list(range(len(place))))
        if not isinstance(place[key], dict | list) or not place[key] or draw.random() < 0.1:
            break
        place = place[key]
    if draw.random() < 0.2:
        del place[key]
        return json.dumps(stored).encode()
    place[key] = "REPLACED"
    return json.dumps(stored).replace('"REPLACED"', draw.choice(RAW)).encode()
