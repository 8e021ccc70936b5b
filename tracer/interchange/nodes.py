"""The nodes, labels and marks of a published graph in our terms, and marks back in its own.

Data only. Places are ours (a :class:`NodeId`), ids are the file's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from tracer.catalog.registry import registry
from tracer.errors import ExternalGraphError
from tracer.graph.graph import AttributionGraph
from tracer.graph.nodes import NodeIndex
from tracer.interchange.graph_json import MAX_NODES, ExternalGraph
from tracer.types import FeatureId, NodeId, Supernode


def external_index(shared: ExternalGraph) -> NodeIndex:
    """The rows of the graph that a published one becomes.

    Raises :class:`ExternalGraphError` when it explains no token, or is larger than any model.
    """
    known = [node.node for node in shared.nodes if node.node is not None]
    n_positions = len(shared.metadata["prompt_tokens"])
    logits = [n for n in shared.nodes if n.node is not None and n.node.kind == "logit"]
    if not logits:
        raise ExternalGraphError("the graph has no logit node: it explains nothing")
    inner = [node.layer for node in known if node.kind in ("feature", "error")]
    n_layers = max(0, *(n.node.layer for n in logits if n.node))
    n_layers = max(n_layers, *(layer + 1 for layer in inner)) if inner else n_layers
    largest = max(node.index for node in known)
    if n_layers * n_positions > MAX_NODES or largest >= 2**31:
        raise ExternalGraphError(
            f"the graph has {n_layers:,} layers, {n_positions:,} tokens and a feature or token "
            f"{min(largest, 10**12):,}: no model that is known is as large"
        )
    logits.sort(key=lambda entry: -float(entry.stored.get("token_prob") or 0.0))
    features = sorted((n.layer, n.position, n.index) for n in known if n.kind == "feature")
    ids = {n.position: n.index for n in known if n.kind == "token"}
    return NodeIndex(
        np.array(features, np.int32).reshape(-1, 3),
        n_layers,
        tuple(ids.get(position, -1 - position) for position in range(n_positions)),
        tuple(dict.fromkeys(entry.node.index for entry in logits if entry.node)),
    )


def external_places(shared: ExternalGraph) -> tuple[NodeId | None, ...]:
    """For each node of a published graph its node among :func:`external_index`'s; None for kinds
    that we do not know. Logits stand at the last token there, whatever the file says.

    Raises :class:`ExternalGraphError` when two are the same one of ours.
    """
    index = external_index(shared)
    last = index.n_positions - 1

    def place(node: NodeId | None) -> NodeId | None:
        if node is not None and node.kind == "logit":
            return NodeId("logit", index.n_layers, last, node.index)
        if node is not None and node.kind == "token":
            return node._replace(index=index.token_ids[node.position])
        return node

    places = tuple(place(entry.node) for entry in shared.nodes)
    named: dict[NodeId, str] = {}
    for entry, found in zip(shared.nodes, places, strict=True):
        if found is not None and named.setdefault(found, entry.id) != entry.id:
            raise ExternalGraphError(
                f"the nodes {named[found]!r} and {entry.id!r} of the graph are the same "
                f"{found.kind} at the same token: export the graph again"
            )
    return places


def origin(shared: ExternalGraph) -> dict[str, Any]:
    """Where a published graph is from, as far as it says: JSON values only.

    ``imported`` (its slug), ``scan``, and where they are known ``tool``, ``transcoder_set``,
    ``source_set`` (Neuronpedia's), ``source_urls``, ``node_threshold``, ``edge_threshold``;
    ``labels`` by ``str(FeatureId)``.
    """
    metadata = shared.metadata
    info, pruning, generator = (
        part if isinstance(part, Mapping) else {}
        for part in (
            metadata.get("info"),
            metadata.get("pruning_settings"),
            (metadata.get("info") or {}).get("generator")
            if isinstance(metadata.get("info"), Mapping)
            else None,
        )
    )
    urls = info.get("source_urls")
    details = metadata.get("feature_details")
    found: dict[str, Any] = {
        "tool": " ".join(str(generator[k]) for k in ("name", "version") if generator.get(k)),
        "transcoder_set": info.get("transcoder_set"),
        "source_set": details.get("neuronpedia_source_set") if isinstance(details, dict) else None,
        "source_urls": [str(url) for url in urls] if isinstance(urls, list) else None,
        "node_threshold": pruning.get("node_threshold", metadata.get("node_threshold")),
        "edge_threshold": pruning.get("edge_threshold"),
        "labels": {str(feature): label for feature, label in external_labels(shared).items()},
    }
    return {
        "scan": str(metadata["scan"]),
        "imported": str(metadata["slug"]),
        **{key: value for key, value in found.items() if value},
    }


_NEURONPEDIA: Final = re.compile(r"neuronpedia\.org/([\w.-]+)/([\w.-]+)/?$")


def explained_by(provenance: Mapping[str, Any]) -> tuple[str, str] | None:
    """Neuronpedia's model and source set that explain the features of an imported graph.

    By the graph's own word, else by the entry of its transcoder set in the registry; None where
    neither says.
    """
    scan, source_set = provenance.get("scan"), provenance.get("source_set")
    if scan and source_set:
        return str(scan), str(source_set)
    for url in provenance.get("source_urls") or []:
        found = _NEURONPEDIA.search(str(url))
        if found:
            return found[1], found[2]
    known = provenance.get("transcoder_set")
    for model in registry(own=False):
        for entry in model.sets:
            if known and entry.reference == known:
                return entry.neuronpedia
    return None


def external_labels(shared: ExternalGraph) -> dict[FeatureId, str]:
    """What the file calls its features: renamed by its reader (``clerps``), else by its maker."""
    renamed = _renamed(shared.parameters.get("clerps"))
    found: dict[FeatureId, str] = {}
    for entry in shared.nodes:
        if entry.node is not None and entry.node.kind == "feature":
            own = renamed.get(entry.id)
            label = (own or entry.label).strip()
            if label and (own or entry.node.feature not in found):
                found[entry.node.feature] = label
    return found


def _renamed(stored: Any) -> dict[str, str]:
    """Pairs of id and name, as a list or, from circuit-tracer's own Save, as JSON in a text."""
    try:
        pairs = json.loads(stored) if isinstance(stored, str) and stored else stored or []
        return {str(name): str(label) for name, label in pairs}
    except (TypeError, ValueError, RecursionError):
        return {}  # names are a courtesy: the graph is whole without them


def external_annotations(shared: ExternalGraph) -> tuple[tuple[NodeId, ...], tuple[Supernode, ...]]:
    """Pins and supernodes in our terms: a node that is in a supernode is not pinned beside it.

    What is marked but no node of the graph, or of a kind that we do not know, is left out.
    """
    place = _place_of(shared)
    groups: dict[str, tuple[NodeId, ...]] = {}
    taken: set[NodeId] = set()
    for name, members in shared.supernodes:
        nodes = tuple(dict.fromkeys(place[m] for m in members if m in place))
        nodes = tuple(node for node in nodes if node not in taken)
        taken.update(nodes)
        if nodes:
            groups[name] = (*groups.get(name, ()), *nodes)
    pinned = dict.fromkeys(place[entry] for entry in shared.pinned if entry in place)
    supernodes = tuple(Supernode(name, nodes) for name, nodes in groups.items())
    return tuple(node for node in pinned if node not in taken), supernodes


def with_annotations(
    shared: ExternalGraph, pinned: Sequence[NodeId], supernodes: Sequence[Supernode]
) -> ExternalGraph:
    """The same graph with these marks; unchanged where they are the ones it came with.

    Members of supernodes are pinned too: other tools show only what is pinned. Annotations on
    nodes that we do not know stay, unless the supernode they are in is gone.
    """
    if external_annotations(shared) == (tuple(pinned), tuple(supernodes)):
        return shared
    place = _place_of(shared)
    ids = {node: name for name, node in reversed(place.items())}
    strangers = {entry.id for entry in shared.nodes if entry.node is None}
    before = dict(shared.supernodes)
    groups = []
    for group in supernodes:
        kept = [entry for entry in before.get(group.name, ()) if entry in strangers]
        members = [*(ids[node] for node in group.nodes if node in ids), *kept]
        if members:
            groups.append((group.name, tuple(members)))
    marked = [*pinned, *(node for group in supernodes for node in group.nodes)]
    listed = [ids[node] for node in marked if node in ids]
    listed += [entry for entry in shared.pinned if entry in strangers]
    return replace(shared, pinned=tuple(dict.fromkeys(listed)), supernodes=tuple(groups))


def _place_of(shared: ExternalGraph) -> dict[str, NodeId]:
    places = zip(shared.nodes, external_places(shared), strict=True)
    return {entry.id: node for entry, node in places if node is not None}


def stored_labels(graph: AttributionGraph) -> dict[FeatureId, str]:
    """What the file of an imported graph calls its features; empty for a graph traced here."""
    found = {}
    for name, label in dict(graph.provenance.get("labels") or {}).items():
        layer, _, index = name.removeprefix("L").partition("/")
        if not (layer.isdecimal() and index.isdecimal()):
            raise ExternalGraphError(f"{name!r} is no feature: import the graph again")
        found[FeatureId(int(layer), int(index))] = str(label)
    return found
