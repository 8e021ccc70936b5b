"""The drawn nodes and edges of a graph as data frames."""

from __future__ import annotations

import pandas as pd

from charts.graph_view import GraphView
from charts.text import token_text
from tracer.graph.graph import AttributionGraph
from tracer.graph.kinds import kind_name
from tracer.types import COMPUTED_KINDS, NodeId


def node_table(view: GraphView) -> pd.DataFrame:
    """Return a row per drawn node, the most influential first; the index is its place in ``rows``.

    Columns: name, kind, layer, token, position, activation (NaN where there is none), influence
    (share of the paths to the targets, 0..1) and id.
    """
    graph = view.pruned.graph
    nodes = [graph.index.node(row) for row in view.rows]
    table = pd.DataFrame(
        {
            "name": [view.name(node) for node in nodes],
            "kind": [_kind(node) for node in nodes],
            "layer": [node.layer if 0 <= node.layer < graph.n_layers else None for node in nodes],
            "token": [token_text(graph.tokens[node.position]) for node in nodes],
            "position": [node.position for node in nodes],
            "activation": [
                _activation(graph, node, row) for node, row in zip(nodes, view.rows, strict=True)
            ],
            "influence": [view.influence(node) for node in nodes],
            "id": [str(node) for node in nodes],
        }
    )
    table["layer"] = table["layer"].astype("Int64")
    return table.sort_values("influence", ascending=False, kind="stable")


def _kind(node: NodeId) -> str:
    if node.kind not in COMPUTED_KINDS:
        return kind_name(node.kind)
    return "answer" if node.kind == "logit" else node.kind


def _activation(graph: AttributionGraph, node: NodeId, row: int) -> float:
    if node.kind == "feature":
        return float(graph.activations[row])
    if node.kind in COMPUTED_KINDS:
        return float("nan")
    published = graph.index.generic_node(node).activation
    return float("nan") if published is None else published


def edge_table(view: GraphView) -> pd.DataFrame:
    """Return a row per drawn edge, the strongest first: from, to, weight, and both ids."""
    graph, edges = view.pruned.graph, view.edges
    sources = [graph.index.node(int(row)) for row in graph.sources[edges]]
    targets = [graph.index.node(int(row)) for row in graph.rows[edges]]
    table = pd.DataFrame(
        {
            "from": [view.name(node) for node in sources],
            "to": [view.name(node) for node in targets],
            "weight": graph.weights[edges].astype(float),
            "from id": [str(node) for node in sources],
            "to id": [str(node) for node in targets],
        }
    )
    order = table["weight"].abs().sort_values(ascending=False, kind="stable").index
    return table.loc[order].reset_index(drop=True)
