"""Our graphs in the form that other tools publish, and theirs as ours. Data only."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from tracer.errors import ExternalGraphError
from tracer.graph.graph import AttributionGraph
from tracer.graph.nodes import FloatArray, IntArray, NodeIndex
from tracer.graph.pruning import PrunedGraph
from tracer.interchange.graph_json import TYPES, ExternalGraph, ExternalNode, cantor_pair
from tracer.interchange.nodes import external_index, external_places, origin
from tracer.types import FeatureId, NodeId, Supernode, Target, TokenProbability

_OUTPUT: Final = re.compile(r'^Output "(?P<token>.*)" \(p=[\d.]+\)$', re.DOTALL)


def external_from_pruned(
    pruned: PrunedGraph,
    slug: str,
    names: Mapping[FeatureId, str] | None = None,
    pinned: Sequence[NodeId] = (),
    supernodes: Sequence[Supernode] = (),
) -> ExternalGraph:
    """A pruned graph of ours in the published form, labels, pins and supernodes included.

    A node's ``influence`` there is the cumulative share at which it enters: small is important.
    """
    graph, labels = pruned.graph, names or {}
    numbers = {int(row): number for number, row in enumerate(pruned.rows)}
    nodes = tuple(_published(pruned, int(row), labels) for row in pruned.rows)
    sources, targets, weights = pruned.edges
    made = graph.provenance
    metadata = {
        "slug": slug,
        "scan": str(made.get("scan") or made.get("model") or "unknown"),
        "prompt_tokens": list(graph.tokens),
        "prompt": graph.prompt,
        "node_threshold": pruned.thresholds.node,
        "schema_version": 1,
        "generation_settings": {
            ours: made[key]
            for ours, key in (
                ("max_n_logits", "max_logits"),
                ("desired_logit_prob", "logit_mass"),
                ("max_feature_nodes", "max_features"),
            )
            if made.get(key) is not None
        },
        "pruning_settings": {
            "node_threshold": pruned.thresholds.node,
            "edge_threshold": pruned.thresholds.edge,
        },
    }
    kept = {node: nodes[numbers[graph.index.row(node)]].id for node in pruned.nodes}
    groups = ((s.name, tuple(kept[n] for n in s.nodes if n in kept)) for s in supernodes)
    return ExternalGraph(
        metadata=metadata,
        nodes=nodes,
        sources=np.array([numbers[int(row)] for row in sources], np.int64),
        targets=np.array([numbers[int(row)] for row in targets], np.int64),
        weights=weights,
        pinned=tuple(kept[node] for node in pinned if node in kept),
        supernodes=tuple((name, members) for name, members in groups if members),
        parameters={"linkType": "both", "clickedId": "", "sg_pos": ""},
    )


def _published(pruned: PrunedGraph, row: int, names: Mapping[FeatureId, str]) -> ExternalNode:
    graph = pruned.graph
    node = graph.index.node(row)
    share = float(pruned.cumulative_influence[row])
    stored: dict[str, Any] = {
        "feature": node.index,
        "layer": str(node.layer),
        "ctx_idx": node.position,
        "feature_type": TYPES[node.kind],
        "token_prob": 0.0,
        "is_target_logit": False,
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "influence": share,
        "activation": None,
    }
    label = ""
    if node.kind == "feature":
        name = f"{node.layer}_{node.index}_{node.position}"
        stored["feature"] = cantor_pair(node.layer, node.index)
        stored["jsNodeId"] = f"{node.layer}_{node.index}-0"
        activation = float(graph.activations[row])
        stored["activation"] = None if np.isnan(activation) else activation
        label = names.get(node.feature, "")
    elif node.kind == "error":
        name = f"{node.layer}_-1_{node.position}"
        stored["jsNodeId"] = f"{node.layer}_{node.position}-0"
    elif node.kind == "token":
        name = f"E_{node.index}_{node.position}"
        stored |= {"layer": "E", "jsNodeId": f"E_{node.index}-{node.position}"}
        label = graph.tokens[node.position]
    else:
        target = graph.targets[row - graph.index.logit_rows.start]
        name = f"{graph.n_layers + 1}_{node.index}_{node.position}"
        stored |= {
            "layer": str(graph.n_layers + 1),
            "jsNodeId": f"L_{node.index}-{node.position}",
            "token_prob": target.probability,
            "is_target_logit": row == graph.index.logit_rows.start,
            "influence": None,
        }
        label = f'Output "{target.label}" (p={target.probability:.3f})'
    return ExternalNode(name, node, label, stored | {"clerp": label})


def graph_from_external(shared: ExternalGraph) -> AttributionGraph:
    """A published graph as one of ours, to look at and to compare.

    :func:`tracer.graph.pruning.without_pruning` shows it all.

    What the file does not carry: pruned nodes and edges (influence is therefore that of the kept
    part alone), logits, and how many features were active. Nodes of kinds that we do not know are
    left out, with their links. The provenance says where it is from, as
    :func:`tracer.interchange.nodes.origin` does, and
    has the file's labels of features under ``labels``.

    Raises :class:`ExternalGraphError` when it explains no token, a number cannot be one of ours, or
    an effect runs downward or on an error.
    """
    index = external_index(shared)
    tokens = tuple(shared.metadata["prompt_tokens"])
    places = external_places(shared)
    entries = dict(zip(places, shared.nodes, strict=True))
    targets = []
    for row in range(index.logit_rows.start, index.logit_rows.stop):
        node = index.node(row)
        entry = entries[node]
        probability = float(entry.stored.get("token_prob") or 0.0)
        targets.append(Target(_answer(entry, node), (node.index,), probability))
    activations = np.full(index.n_features, np.nan, np.float32)
    row_of = np.full(len(shared.nodes), -1, np.int64)
    for number, (entry, place) in enumerate(zip(shared.nodes, places, strict=True)):
        if place is None:
            continue
        row_of[number] = index.row(place)
        activation = entry.stored.get("activation")
        if place.kind == "feature" and activation is not None:
            activations[row_of[number]] = activation
    rows, sources, weights = _edges(shared, row_of, index)
    counts = np.bincount(rows, minlength=len(index))
    return AttributionGraph(
        prompt=str(shared.metadata["prompt"]),
        tokens=tokens,
        token_ids=index.token_ids,
        n_layers=index.n_layers,
        features=index.features,
        activations=activations,
        targets=tuple(targets),
        indptr=np.r_[0, np.cumsum(counts)].astype(np.int64),
        sources=sources,
        weights=weights,
        next_tokens=tuple(
            TokenProbability(t.label, t.token_ids[0], t.probability, float("nan")) for t in targets
        ),
        n_active_features=index.n_features,
        provenance=origin(shared),
    )


def _edges(
    shared: ExternalGraph, row_of: IntArray, index: NodeIndex
) -> tuple[IntArray, IntArray, FloatArray]:
    """Rows, ascending, sources and weights; several links between the same two nodes are one."""
    sources, rows = row_of[shared.sources], row_of[shared.targets]
    chosen = (sources >= 0) & (rows >= 0)
    downward = index.layers[sources] >= index.layers[rows]
    on_errors = (rows >= index.error_rows.start) & (rows < index.error_rows.stop)
    wrong = np.flatnonzero(chosen & (downward | on_errors))
    if len(wrong):
        link = int(wrong[0])
        ends = (shared.nodes[int(end[link])].id for end in (shared.sources, shared.targets))
        raise ExternalGraphError(
            "link {} of the graph leads from {!r} to {!r}: expected effects that run upward, and "
            "none on an error or token".format(link, *ends)
        )
    order = np.flatnonzero(chosen)
    order = order[np.lexsort((sources[order], rows[order]))]
    pairs = np.c_[rows[order], sources[order]]
    first = np.flatnonzero(np.r_[True, (pairs[1:] != pairs[:-1]).any(axis=1)][: len(pairs)])
    weights = np.add.reduceat(shared.weights[order].astype(np.float64), first)
    if len(first) and np.abs(weights).max() > np.finfo(np.float32).max:
        raise ExternalGraphError("several links between two nodes of the graph add up to infinity")
    return pairs[first, 0], pairs[first, 1], weights.astype(np.float32)


def _answer(entry: ExternalNode, node: NodeId) -> str:
    found = _OUTPUT.match(entry.label)
    return found["token"] if found else entry.label or f"token {node.index}"
