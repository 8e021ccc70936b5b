"""Convert graphs of this library to the published form, and published graphs back. Data only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tracer.errors import ExternalGraphError
from tracer.graph.graph import AttributionGraph
from tracer.graph.nodes import FloatArray, IntArray, NodeIndex
from tracer.graph.order import node_depths, on_a_circle, runs_backward
from tracer.graph.pruning import PrunedGraph
from tracer.interchange.graph_json import ExternalGraph
from tracer.interchange.labels import answer_name, answer_probability
from tracer.interchange.nodes import external_index, external_places, origin
from tracer.interchange.notes import LEFT_OUT
from tracer.interchange.placing import published_id
from tracer.interchange.published_nodes import TYPES, ExternalNode, cantor_pair
from tracer.interchange.qk import OUTSIDE, RESULTS, read_qk, written_qk
from tracer.types import COMPUTED_KINDS, FeatureId, NodeId, Supernode, Target, TokenProbability


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
    supernodes that the pruned graph does not keep are left out. Generic nodes have their published
    id and ``feature_type``.

    >>> import tracer
    >>> graph = tracer.trace(tracer.load("atlas"), "The opposite of hot is")
    >>> pruned = tracer.prune(graph)
    >>> external = tracer.external_from_pruned(pruned, "hot", pinned=pruned.nodes[:1])
    >>> len(external.nodes) == len(pruned.nodes), len(external.weights) == len(pruned.edges[2])
    (True, True)
    """
    graph, labels = pruned.graph, names or {}
    numbers = {int(row): number for number, row in enumerate(pruned.rows)}
    ids = _Ids(graph)
    nodes = tuple(_published(pruned, int(row), labels, ids) for row in pruned.rows)
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
        other=_qk_only(pruned, ids),
    )


def _published(
    pruned: PrunedGraph, row: int, names: Mapping[FeatureId, str], ids: _Ids
) -> ExternalNode:
    graph = pruned.graph
    node = graph.index.node(row)
    share = float(pruned.cumulative_influence[row])
    stored: dict[str, Any] = {
        "feature": node.index,
        "layer": str(node.layer),
        "ctx_idx": node.position,
        "feature_type": TYPES.get(node.kind, ""),
        "token_prob": 0.0,
        "is_target_logit": False,
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "influence": share,
        "activation": None,
    }
    name, label = ids[node], ""
    if node.kind == "feature":
        stored["feature"] = cantor_pair(node.layer, node.index)
        stored["jsNodeId"] = f"{node.layer}_{node.index}-0"
        activation = float(graph.activations[row])
        stored["activation"] = None if np.isnan(activation) else activation
        label = names.get(node.feature, "")
    elif node.kind == "error":
        stored["jsNodeId"] = f"{node.layer}_{node.position}-0"
    elif node.kind == "token":
        stored |= {"layer": "E", "jsNodeId": f"E_{node.index}-{node.position}"}
        label = graph.tokens[node.position]
    elif node.kind == "logit":
        target = graph.targets[row - graph.index.logit_rows.start]
        stored |= {
            "layer": str(graph.n_layers + 1),
            "jsNodeId": f"L_{node.index}-{node.position}",
            "token_prob": target.probability,
            "is_target_logit": row == graph.index.logit_rows.start,
            "influence": None,
        }
        label = f'Output "{target.label}" (p={target.probability:.3f})'
    else:
        published = graph.index.generic_node(node)
        stored |= {
            "feature": cantor_pair(max(node.layer, 0), node.index) if node.index >= 0 else None,
            "layer": str(node.layer) if node.layer >= 0 else "E",
            "feature_type": published.kind,
            "jsNodeId": name,
            "activation": published.activation,
        }
        label = published.label
    if node in graph.qk.tracings:
        stored[RESULTS] = written_qk(graph.qk.tracings[node], ids)
    return ExternalNode(name, node, label, stored | {"clerp": label})


class _Ids:
    """The published id of every node that a graph has, or that only its QK tracing names.

    A generic node keeps the id it came with. Where that is the id of a feature or another node of
    ours as well, its kind is added.
    """

    def __init__(self, graph: AttributionGraph) -> None:
        self._graph = graph
        self._outside = {entry.node: entry.id for entry in graph.qk.outside}
        generic = {node.id for node in graph.generic}
        nodes = (graph.index.node(row) for row in range(graph.n_nodes if generic else 0))
        ours = (published_id(graph, node) for node in nodes if node.kind in COMPUTED_KINDS)
        self._shared = generic.intersection(ours)

    def __getitem__(self, node: NodeId) -> str:
        if node in self._outside:
            return self._outside[node]
        name = published_id(self._graph, node)
        is_shared = name in self._shared and node.kind not in COMPUTED_KINDS
        return f"{name}_{node.kind}" if is_shared else name


def _qk_only(pruned: PrunedGraph, ids: _Ids) -> dict[str, Any]:
    """Return the description of every node that QK tracing names and the pruned graph lacks."""
    graph, kept = pruned.graph, set(pruned.nodes)
    tracings = (tracing for node, tracing in graph.qk.tracings.items() if node in kept)
    named = {node for tracing in tracings for node in tracing.nodes}
    outside = {entry.node: entry for entry in graph.qk.outside}
    described = {}
    for node in sorted(named - kept):
        if node in outside:
            kind, label = outside[node].kind, outside[node].label
        else:
            published = _published(pruned, graph.index.row(node), {}, ids)
            kind, label = published.kind, published.label
        described[ids[node]] = {
            "node_id": ids[node],
            "feature": cantor_pair(max(node.layer, 0), node.index) if node.index >= 0 else None,
            "layer": str(node.layer) if node.layer >= 0 else "E",
            "ctx_idx": node.position,
            "feature_type": kind,
            "jsNodeId": ids[node],
            "clerp": label,
        }
    return {OUTSIDE: described} if described else {}


def graph_from_external(external: ExternalGraph) -> AttributionGraph:
    """Return a published graph as a graph of this library, to look at and to compare.

    :func:`tracer.graph.pruning.without_pruning` keeps all of it. The file does not carry the nodes
    and edges that were pruned away (influence is that of the kept part alone), logits, or how many
    features were active. Nodes of kinds that this library does not compute become generic nodes;
    those without a layer or a position are left out, with their links. The provenance is that of
    :func:`tracer.interchange.nodes.origin`; :func:`tracer.interchange.notes.import_notes` says in
    words what was left out.

    Raises :class:`ExternalGraphError` when the graph has no logit node, a number is larger than in
    any known model, or an effect runs downward, on an error or token, or in a circle.

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
        label = answer_name(entries[node]) or f"token {node.index}"
        targets.append(Target(label, (node.index,), answer_probability(entries[node])))
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
    qk, provenance = read_qk(external, index, places), origin(external)
    if qk.unreadable:
        counts = provenance.get(LEFT_OUT, {})
        provenance[LEFT_OUT] = {**counts, "qk_entries": qk.unreadable}
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
        provenance=provenance,
        generic=index.generic,
        qk=qk.results,
    )


def _edges(
    external: ExternalGraph, row_of: IntArray, index: NodeIndex
) -> tuple[IntArray, IntArray, FloatArray]:
    """Return rows, ascending, sources and weights; links between the same two nodes are added."""
    sources, rows = row_of[external.sources], row_of[external.targets]
    chosen = (sources >= 0) & (rows >= 0)
    is_token = (rows >= index.token_rows.start) & (rows < index.token_rows.stop)
    backward = runs_backward(index, rows, sources) | index.is_error[rows] | is_token
    wrong = np.flatnonzero(chosen & backward)
    if len(wrong):
        link = int(wrong[0])
        ends = (external.nodes[int(end[link])].id for end in (external.sources, external.targets))
        raise ExternalGraphError(
            "link {} of the graph runs from {!r} to {!r}, expected upward effects that do not end "
            "on an error or token".format(int(_numbers(external)[link]), *ends)
        )
    if index.generic:
        _refuse_circles(index, rows[chosen], sources[chosen])
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


def _numbers(external: ExternalGraph) -> IntArray:
    """Return the number of each link in the file."""
    known = len(external.entries) == len(external.weights)
    return external.entries if known else np.arange(len(external.weights))


def _refuse_circles(index: NodeIndex, rows: IntArray, sources: IntArray) -> None:
    row = on_a_circle(node_depths(len(index), rows, sources), rows, sources)
    if row >= 0:
        raise ExternalGraphError(
            f"the links of the graph run in a circle through {index.node(row)}, expected none to "
            "return to its node"
        )
