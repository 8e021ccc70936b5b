"""Pruned graphs and interventions as plain JSON values, for the command line and for scripts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tracer.graph.graph import AttributionGraph
from tracer.graph.kinds import generic_name
from tracer.graph.pruning import PrunedGraph
from tracer.interchange.notes import import_notes
from tracer.interventions.run import InterventionResult
from tracer.types import COMPUTED_KINDS, FeatureId, NodeId, TokenProbability


def node_label(graph: AttributionGraph, node: NodeId, labels: Mapping[FeatureId, str]) -> str:
    """Return a node's label; a feature without one is named by its layer and number."""
    token = graph.tokens[node.position]
    if node.kind == "token":
        return token
    if node.kind == "error":
        return f"error at {token.strip()!r}"
    if node.kind == "logit":
        row = graph.index.row(node) - graph.index.logit_rows.start
        label: str = graph.targets[row].label
        return label
    if node.kind != "feature":
        return generic_name(graph.index.generic_node(node))
    return labels.get(node.feature) or str(node.feature)


def pruned_graph_report(
    pruned: PrunedGraph, labels: Mapping[FeatureId, str] | None = None
) -> dict[str, Any]:
    """Return the kept nodes and edges with labels and scores, and how much there was."""
    labels = labels or {}
    graph = pruned.graph
    nodes = []
    for row, node in zip(pruned.rows.tolist(), pruned.nodes, strict=True):
        nodes.append(
            {
                "id": str(node),
                "kind": node.kind,
                "layer": node.layer,
                "position": node.position,
                "index": node.index,
                "token": graph.tokens[node.position],
                "label": node_label(graph, node, labels),
                "activation": _activation(graph, node, row),
                "influence": float(pruned.influence[row]),
                "cumulative_influence": float(pruned.cumulative_influence[row]),
            }
        )
    sources, targets, weights = pruned.edges
    edges = [
        {
            "source": str(graph.index.node(source)),
            "target": str(graph.index.node(target)),
            "weight": w,
        }
        for source, target, w in zip(
            sources.tolist(), targets.tolist(), weights.tolist(), strict=True
        )
    ]
    return {
        "prompt": graph.prompt,
        "tokens": list(graph.tokens),
        "next_tokens": _tokens(graph.next_tokens),
        "targets": [{"label": t.label, "probability": t.probability} for t in graph.targets],
        "replacement_score": pruned.replacement_score,
        "completeness_score": pruned.completeness_score,
        "thresholds": {"node": pruned.thresholds.node, "edge": pruned.thresholds.edge},
        "n_active_features": graph.n_active_features,
        "n_nodes_traced": graph.n_nodes,
        "n_edges_traced": graph.n_edges,
        "rounding_error": None if math.isnan(graph.rounding_error) else graph.rounding_error,
        "dropped_weight": graph.dropped_weight,
        "provenance": dict(graph.provenance),
        "notes": list(import_notes(graph)),
        "nodes": nodes,
        "edges": edges,
    }


def _activation(graph: AttributionGraph, node: NodeId, row: int) -> float | None:
    """Return the activation of a feature; None for other nodes, and where a file has none."""
    if node.kind == "feature":
        activation = float(graph.activations[row])
        return None if math.isnan(activation) else activation
    return None if node.kind in COMPUTED_KINDS else graph.index.generic_node(node).activation


def intervention_report(result: InterventionResult, limit: int = 10) -> dict[str, Any]:
    """Return the next tokens before and after, and the divergence of their distributions."""
    return {
        "prompt": result.prompt,
        "interventions": [edit.__dict__ for edit in result.interventions],
        "kl": result.kl,
        "changes": [change._asdict() for change in result.compare(limit)],
        "baseline": _tokens(result.baseline),
        "edited": _tokens(result.edited),
        "baseline_continuation": result.baseline_continuation,
        "edited_continuation": result.edited_continuation,
    }


def _tokens(entries: tuple[TokenProbability, ...]) -> list[dict[str, Any]]:
    return [
        {"token": entry.token, "token_id": entry.token_id, "probability": entry.probability}
        for entry in entries
    ]
