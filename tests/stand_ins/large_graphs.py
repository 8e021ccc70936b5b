"""Published graphs of any size, crowded in the last column as real ones are."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from published_graphs import node

from tracer.interchange.graph_json import cantor_pair


def large_graph(n_tokens: int, n_features: int, n_layers: int = 26, seed: int = 0) -> bytes:
    """Return a graph with a feature in every layer and, in the layers, error nodes."""
    random = np.random.default_rng(seed)
    tokens = ["<bos>", *(f" word{i}" for i in range(1, n_tokens))]
    last = n_tokens - 1
    nodes: list[dict[str, Any]] = [
        node(f"E_{i}_{i}", "embedding", "E", i, feature=i) for i in range(n_tokens)
    ]
    for number in range(n_features):
        layer = number % n_layers if number < n_layers else int(random.integers(n_layers))
        position = int(random.choice([last, random.integers(1, n_tokens)]))
        index = 100 + number
        nodes.append(
            node(
                f"{layer}_{index}_{position}",
                "cross layer transcoder",
                str(layer),
                position,
                feature=cantor_pair(layer, index),
                activation=float(random.exponential(5)),
                clerp=f"label {number}",
            )
        )
    for layer in range(0, n_layers, 3):
        nodes.append(node(f"0_{layer}_{last}", "mlp reconstruction error", str(layer), last))
    inner = len(nodes)
    for number, name in enumerate(("yes", "no", "maybe")):
        share = 0.6 / 3**number
        nodes.append(
            node(
                f"{n_layers}_{number}_{last}",
                "logit",
                str(n_layers),
                last,
                feature=number,
                clerp=f'Output " {name}" (p={share:.3f})',
                token_prob=share,
            )
        )
    links = [(i, inner) for i in range(n_tokens, inner)]  # everything reaches the answer
    depth = [-1 if n["layer"] == "E" else int(n["layer"]) for n in nodes]
    for target in range(n_tokens, len(nodes)):
        if nodes[target]["feature_type"] == "mlp reconstruction error":
            continue
        for source in random.choice(inner, size=min(inner, 12), replace=False):
            is_before = nodes[source]["ctx_idx"] <= nodes[target]["ctx_idx"]
            if depth[source] < depth[target] and is_before:
                links.append((int(source), target))
    return json.dumps(
        {
            "metadata": {
                "slug": f"large-{n_tokens}-{n_features}",
                "scan": "made",
                "prompt": "".join(tokens[1:]).strip(),
                "prompt_tokens": tokens,
            },
            "qParams": {},
            "nodes": nodes,
            "links": [
                {
                    "source": nodes[source]["node_id"],
                    "target": nodes[target]["node_id"],
                    "weight": float(random.normal() + 0.5),
                }
                for source, target in dict.fromkeys(links)
            ],
        }
    ).encode()
