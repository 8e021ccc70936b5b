"""Graphs with attention features, as tools that replace attention layers too publish them."""

from __future__ import annotations

from typing import Any

import numpy as np
from published_graphs import node
from random_graphs import random_graph

from tracer.graph.generic import GenericNode
from tracer.graph.graph import AttributionGraph
from tracer.interchange.graph_json import cantor_pair

TOKENS = ["<bos>", "The", " capital", " of", " France", " is"]
LAST = 5


def feature(layer: int, index: int, position: int, kind: str = "cross layer transcoder") -> Any:
    """Return a feature; attention features of a layer share its number with its MLP features."""
    paired = cantor_pair(layer, index)
    entry = node(f"{layer}_{kind[:3]}_{index}_{position}", kind, "", position, feature=paired)
    return entry | {"layer": layer, "clerp": f"F{paired}", "activation": 1.5}


def leaf(kind: str, name: str, layer: int, position: int, label: str = "") -> Any:
    """Return an error or a bias: a node that is not a feature and has no inputs."""
    entry = node(f"{layer}_{name}_{position}", kind, "", position, clerp=label)
    return entry | {"layer": layer, "feature": None, "activation": None}


def france() -> dict[str, Any]:
    """Return a graph in which France reaches Paris only through attention features.

    The first MLP layer knows France, an attention feature of the second layer moves it to the last
    token, where an MLP feature of the same layer says Paris.
    """
    tokens = [
        node(f"E_{number}_{number}", "embedding", "E", number) for number in range(len(TOKENS))
    ]
    knows, moves = feature(0, 7, 4), feature(1, 3, LAST, "lorsa")
    says = feature(1, 9, LAST)
    moves["qk_tracing_results"] = {
        "pair_wise_contributors": [[knows["node_id"], "E_4_4", 0.5], ["1_bias_b_5", "0_x_5", 0.25]],
        "top_q_marginal_contributors": [["E_5_5", 0.125]],
        "top_k_marginal_contributors": [["0_cro_8_4", -0.5], ["nowhere", 1.0], ["E_4_4"]],
    }
    output = node("2_11_5", "logit", "2", LAST, clerp='Logit " Paris" (p=0.800)', token_prob=0.8)
    return {
        "metadata": {
            "slug": "france",
            "scan": "qwen3-1.7b",
            "prompt_tokens": TOKENS,
            "prompt": "The capital of France is",
        },
        "qParams": {},
        "nodes": [
            *tokens,
            knows,
            moves,
            says,
            leaf("lorsa error", "error_attn", 1, LAST, 'Err: attn " is"'),
            leaf("mlp reconstruction error", "error_mlp", 0, 4),
            leaf("bias", "bias_attn_bO", 1, LAST, "L1 Bias (attn_bO)"),
            leaf("bias", "bias_mlp_bout", 1, LAST, "L1 Bias (mlp_bout)"),
            output | {"token": " Paris"},
        ],
        "links": [
            {"source": "E_4_4", "target": knows["node_id"], "weight": 3.0},
            {"source": "0_error_mlp_4", "target": moves["node_id"], "weight": 1.0},
            {"source": knows["node_id"], "target": moves["node_id"], "weight": 3.0},
            {"source": moves["node_id"], "target": says["node_id"], "weight": 4.0},
            {"source": "1_error_attn_5", "target": says["node_id"], "weight": -2.0},
            {"source": "1_bias_attn_bO_5", "target": says["node_id"], "weight": 1.0},
            {"source": "1_bias_mlp_bout_5", "target": output["node_id"], "weight": 0.5},
            {"source": "E_5_5", "target": output["node_id"], "weight": 0.5},
            {"source": says["node_id"], "target": output["node_id"], "weight": 3.0},
        ],
        "qk_only_nodes": {
            "0_cro_8_4": {
                **feature(0, 8, 4),
                "node_id": "0_cro_8_4",
                "clerp": "countries",
            },
            "1_bias_b_5": leaf("bias", "bias_b", 1, LAST),
            "0_x_5": leaf("unknown", "x", 0, LAST),
        },
    }


def random_attention_graph(seed: int, n_layers: int = 4, n_pos: int = 5) -> AttributionGraph:
    """Return a causal graph with attention features before the MLP features of their layer.

    Effects run from any lower layer, and within a layer from attention features and their errors
    to MLP features, at the same or a later position.
    """
    plain = random_graph(seed, n_layers, n_pos, n_features=30)
    rng = np.random.default_rng(seed)
    generic = sorted(
        {
            (int(layer), int(position), kind, int(index) if kind == "lorsa" else -1)
            for kind, count in (("lorsa", 15), ("lorsa error", 8), ("bias", 5))
            for layer, position, index in rng.integers(0, (n_layers, n_pos, 99), (count, 3))
        }
    )
    nodes = tuple(
        GenericNode(kind, layer, position, index, id=f"{layer}_{kind}_{index}_{position}")
        for layer, position, kind, index in generic
    )
    n = len(plain.features)
    attends = np.array([node.kind == "lorsa" for node in nodes])
    index = plain.index
    stages = np.insert(2 * index.layers + 1, n, [2 * node.layer for node in nodes])
    positions = np.insert(index.positions, n, [node.position for node in nodes])
    dense = np.zeros((len(stages), len(stages)), np.float32)
    for row in [*range(n), *(n + np.flatnonzero(attends)), *range(len(stages) - 2, len(stages))]:
        allowed = (stages < stages[row]) & (positions <= positions[row])
        drawn = allowed & (rng.random(len(stages)) < 0.4)
        dense[row, drawn] = rng.standard_normal(int(drawn.sum())) ** 3
    rows, sources = dense.nonzero()
    return AttributionGraph(
        **{
            name: getattr(plain, name)
            for name in ("prompt", "tokens", "token_ids", "n_layers", "features", "activations")
        },
        targets=plain.targets,
        indptr=np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(stages)))]),
        sources=sources.astype(np.int32),
        weights=dense[rows, sources],
        next_tokens=plain.next_tokens,
        n_active_features=n,
        generic=nodes,
    )
