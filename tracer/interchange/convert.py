"""Convert graphs of this library to the published form, and published graphs back. Data only."""

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
    """Return a pruned graph in the published form, with labels, pins and supernodes.

    ``slug`` is the short name inside the file, ``names`` the labels of features. A node's
    ``influence`` becomes its cumulative influence there: small means important. Pins and members of
    supernodes that the pruned graph does not keep are left out.

    >>> import tracer
    >>> graph = tracer.trace(tracer.load("atlas"), "The opposite of hot is")
    >>> pruned = tracer.prune(graph)
    >>> external = tracer.external_from_pruned(pruned, "hot", pinned=pruned.nodes[:1])
    >>> len(external.nodes) == len(pruned.nodes), len(external.weights) == len(pruned.edges[2])
    (True, True)
    """
    graph, labels = pruned.graph, names or {}
    numbers = {int(row): number for number, row in enumerate(pruned.rows)}
    nodes = tuple(_published(pruned, int(row), labels) for row in pruned.rows)
    sources, targets, weights = pruned.edges
    provenance = graph.provenance
    metadata = {
        "slug": slug,
        "scan": str(provenance.get("scan") or provenance.get("model") or "unknown"),
        "prompt_tokens": list(graph.tokens),
        "prompt": graph.prompt,
        "node_threshold": pruned.thresholds.node,
        "schema_version": 1,
        "generation_settings": {
            published: provenance[key]
            for published, key in (
                ("max_n_logits", "max_logits"),
                ("desired_logit_prob", "logit_mass"),
                ("max_feature_nodes", "max_features"),
            )
            if provenance.get(key) is not None
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


def graph_from_external(external: ExternalGraph) -> AttributionGraph:
    """Return a published graph as a graph of this library, to look at and to compare.

    :func:`tracer.graph.pruning.without_pruning` keeps all of it. The file does not carry the nodes
    and edges that were pruned away (influence is that of the kept part alone), logits, or how many
    features were active. Nodes of an unknown kind are left out, with their links. The provenance is
    that of :func:`tracer.interchange.nodes.origin`, with the labels of features under ``labels``.

    Raises :class:`ExternalGraphError` when the graph has no logit node, a number is larger than in
    any known model, or an effect runs downward or on an error or token.

    >>> import tracer
    >>> graph = tracer.trace(tracer.load("atlas"), "The opposite of hot is")
    >>> external = tracer.external_from_pruned(tracer.prune(graph), "hot")
    >>> tracer.graph_from_external(external).tokens == graph.tokens
    True
    """
    index = external_index(external)
    places = external_places(external)
    entries = dict(zip(places, external.nodes, strict=True))
    targets = []
    for row in range(index.logit_rows.start, index.logit_rows.stop):
        node = index.node(row)
        entry = entries[node]
        probability = float(entry.stored.get("token_prob") or 0.0)
        targets.append(Target(_target_label(entry, node), (node.index,), probability))
    activations = np.full(index.n_features, np.nan, np.float32)
    row_of = np.full(len(external.nodes), -1, np.int64)
    for number, (entry, place) in enumerate(zip(external.nodes, places, strict=True)):
        if place is None:
            continue
        row_of[number] = index.row(place)
        activation = entry.stored.get("activation")
        if place.kind == "feature" and activation is not None:
            activations[row_of[number]] = activation
    rows, sources, weights = _edges(external, row_of, index)
    counts = np.bincount(rows, minlength=len(index))
    return AttributionGraph(
        prompt=str(external.metadata["prompt"]),
        tokens=tuple(external.metadata["prompt_tokens"]),
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
        provenance=origin(external),
    )


def _edges(
    external: ExternalGraph, row_of: IntArray, index: NodeIndex
) -> tuple[IntArray, IntArray, FloatArray]:
    """Return rows, ascending, sources and weights; links between the same two nodes are added."""
    sources, rows = row_of[external.sources], row_of[external.targets]
    chosen = (sources >= 0) & (rows >= 0)
    downward = index.layers[sources] >= index.layers[rows]
    on_errors = (rows >= index.error_rows.start) & (rows < index.error_rows.stop)
    wrong = np.flatnonzero(chosen & (downward | on_errors))
    if len(wrong):
        link = int(wrong[0])
        ends = (external.nodes[int(end[link])].id for end in (external.sources, external.targets))
        raise ExternalGraphError(
            "link {} of the graph runs from {!r} to {!r}, expected upward effects that do not end "
            "on an error or token".format(link, *ends)
        )
    order = np.flatnonzero(chosen)
    order = order[np.lexsort((sources[order], rows[order]))]
    pairs = np.c_[rows[order], sources[order]]
    first = np.flatnonzero(np.r_[True, (pairs[1:] != pairs[:-1]).any(axis=1)][: len(pairs)])
    weights = np.add.reduceat(external.weights[order].astype(np.float64), first)
    if len(first) and np.abs(weights).max() > np.finfo(np.float32).max:
        raise ExternalGraphError(
            "the weights of several links between two nodes of the graph add up to infinity"
        )
    return pairs[first, 0], pairs[first, 1], weights.astype(np.float32)


def _target_label(entry: ExternalNode, node: NodeId) -> str:
    match = _OUTPUT.match(entry.label)
    return match["token"] if match else entry.label or f"token {node.index}"
