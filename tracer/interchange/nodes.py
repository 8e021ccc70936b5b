"""Nodes, labels and annotations of a published graph, in terms of this library and back.

A place is a :class:`NodeId` of this library, an id is a string of the file. Data only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from tracer.catalog.registry import registry
from tracer.errors import ExternalGraphError, short
from tracer.graph.graph import AttributionGraph
from tracer.graph.graph_file import MAX_LAYERS
from tracer.graph.nodes import NodeIndex
from tracer.interchange.graph_json import MAX_NODES, ExternalGraph
from tracer.interchange.strict_json import parse
from tracer.types import FeatureId, NodeId, Supernode

_NEURONPEDIA: Final = re.compile(r"neuronpedia\.org/([\w.-]+)/([\w.-]+)/?$")
_FEATURE: Final = re.compile(r"L([0-9]{1,10})/([0-9]{1,10})")


def external_index(external: ExternalGraph) -> NodeIndex:
    """Return the node order of the graph that a published one becomes.

    Raises :class:`ExternalGraphError` when it has no logit node, or is larger than any known model.
    """
    known = [node.node for node in external.nodes if node.node is not None]
    n_positions = len(external.metadata["prompt_tokens"])
    logits = [n for n in external.nodes if n.node is not None and n.node.kind == "logit"]
    if not logits:
        raise ExternalGraphError("the graph has no logit node, expected at least one to explain")
    inner = [node.layer for node in known if node.kind in ("feature", "error")]
    n_layers = max(0, *(n.node.layer for n in logits if n.node))
    n_layers = max(n_layers, *(layer + 1 for layer in inner)) if inner else n_layers
    largest = max(node.index for node in known)
    if n_layers > MAX_LAYERS or n_layers * n_positions > MAX_NODES or largest >= 2**31:
        raise ExternalGraphError(
            f"the graph has {n_layers:,} layers, {n_positions:,} tokens and a feature or token "
            f"{min(largest, 10**12):,}: no known model is as large"
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


def external_places(external: ExternalGraph) -> tuple[NodeId | None, ...]:
    """Return each node's place in :func:`external_index`; None for nodes of an unknown kind.

    Logits are at the last token there, whatever the file says.

    Raises :class:`ExternalGraphError` when two nodes have the same place.
    """
    index = external_index(external)
    last = index.n_positions - 1

    def place(node: NodeId | None) -> NodeId | None:
        if node is not None and node.kind == "logit":
            return NodeId("logit", index.n_layers, last, node.index)
        if node is not None and node.kind == "token":
            return node._replace(index=index.token_ids[node.position])
        return node

    places = tuple(place(entry.node) for entry in external.nodes)
    ids: dict[NodeId, str] = {}
    for entry, node in zip(external.nodes, places, strict=True):
        if node is not None and ids.setdefault(node, entry.id) != entry.id:
            raise ExternalGraphError(
                f"the nodes {short(repr(ids[node]))} and {short(repr(entry.id))} of the graph are "
                f"the same {node.kind} at the same token: export the graph again"
            )
    return places


def origin(external: ExternalGraph) -> dict[str, Any]:
    """Return where a published graph is from, as the provenance of the graph it becomes.

    Always ``imported`` (its slug) and ``scan``; where the file has them ``tool``,
    ``transcoder_set``, ``source_set`` (Neuronpedia's), ``source_urls``, ``node_threshold`` and
    ``edge_threshold``; ``labels`` by ``str(FeatureId)``. A value of another type than expected is
    left out.
    """
    metadata = external.metadata
    info, pruning, details = (
        _mapping(metadata.get(key)) for key in ("info", "pruning_settings", "feature_details")
    )
    generator, urls = _mapping(info.get("generator")), info.get("source_urls")
    tool = (generator.get(key) for key in ("name", "version"))
    optional: dict[str, Any] = {
        "tool": " ".join(str(part) for part in tool if isinstance(part, str | int | float)),
        "transcoder_set": _of_type(info.get("transcoder_set"), str),
        "source_set": _of_type(details.get("neuronpedia_source_set"), str),
        "source_urls": [url for url in urls if isinstance(url, str)]
        if isinstance(urls, list)
        else None,
        "node_threshold": _of_type(
            pruning.get("node_threshold", metadata.get("node_threshold")), int | float
        ),
        "edge_threshold": _of_type(pruning.get("edge_threshold"), int | float),
        "labels": {str(feature): label for feature, label in external_labels(external).items()},
    }
    return {
        "scan": str(metadata["scan"]),
        "imported": str(metadata["slug"]),
        **{key: value for key, value in optional.items() if value},
    }


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _of_type(value: Any, kind: Any) -> Any:
    return value if isinstance(value, kind) else None


def explained_by(provenance: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return Neuronpedia's model and source set for the features of an imported graph.

    They come from the graph itself, or else from the registry's entry of its transcoder set; None
    where neither has them.

    >>> explained_by({"source_urls": ["https://neuronpedia.org/gemma-2-2b/clt-hp"]})
    ('gemma-2-2b', 'clt-hp')
    """
    scan, source_set = provenance.get("scan"), provenance.get("source_set")
    if scan and source_set:
        return str(scan), str(source_set)
    urls = provenance.get("source_urls")
    for url in urls if isinstance(urls, list) else []:
        match = _NEURONPEDIA.search(str(url))
        if match:
            return match[1], match[2]
    known = provenance.get("transcoder_set")
    for model in registry(own=False):
        for entry in model.sets:
            if known and entry.reference == known:
                return entry.neuronpedia
    return None


def external_labels(external: ExternalGraph) -> dict[FeatureId, str]:
    """Return the labels of features: a reader's own (``clerps``), or else the file's."""
    renamed = _renamed(external.parameters.get("clerps"))
    labels: dict[FeatureId, str] = {}
    for entry in external.nodes:
        if entry.node is not None and entry.node.kind == "feature":
            own = renamed.get(entry.id)
            label = (own or entry.label).strip()
            if label and (own or entry.node.feature not in labels):
                labels[entry.node.feature] = label
    return labels


def _renamed(stored: Any) -> dict[str, str]:
    """Read pairs of id and label: a list or, as circuit-tracer saves it, JSON in a string."""
    try:
        pairs = parse(stored) if isinstance(stored, str) and stored else stored or []
        return {str(name): str(label) for name, label in pairs}
    except (TypeError, ValueError, RecursionError):
        return {}  # labels are an extra: the graph is complete without them


def with_labels(external: ExternalGraph, own: Mapping[FeatureId, str]) -> ExternalGraph:
    """Return the graph with a reader's ``own`` labels (``clerps``), in addition to those it has.

    It is unchanged when it has none of these features.
    """
    renamed = {
        entry.id: own[entry.node.feature]
        for entry in external.nodes
        if entry.node is not None and entry.node.kind == "feature" and entry.node.feature in own
    }
    if not renamed:
        return external
    stored = external.parameters.get("clerps")
    pairs = [list(pair) for pair in {**_renamed(stored), **renamed}.items()]
    clerps = json.dumps(pairs, ensure_ascii=False) if isinstance(stored, str) else pairs
    return replace(external, parameters={**external.parameters, "clerps": clerps})


def external_annotations(
    external: ExternalGraph,
) -> tuple[tuple[NodeId, ...], tuple[Supernode, ...]]:
    """Return the pins and supernodes; a node in a supernode is not listed as a pin as well.

    Annotations of missing nodes, and of nodes of an unknown kind, are left out.
    """
    place = _place_of(external)
    groups: dict[str, tuple[NodeId, ...]] = {}
    taken: set[NodeId] = set()
    for name, members in external.supernodes:
        nodes = tuple(dict.fromkeys(place[m] for m in members if m in place))
        nodes = tuple(node for node in nodes if node not in taken)
        taken.update(nodes)
        if nodes:
            groups[name] = (*groups.get(name, ()), *nodes)
    pinned = dict.fromkeys(place[entry] for entry in external.pinned if entry in place)
    supernodes = tuple(Supernode(name, nodes) for name, nodes in groups.items())
    return tuple(node for node in pinned if node not in taken), supernodes


def with_annotations(
    external: ExternalGraph, pinned: Sequence[NodeId], supernodes: Sequence[Supernode]
) -> ExternalGraph:
    """Return the graph with these pins and supernodes; unchanged where it already has them.

    Members of supernodes are pinned too: other tools show only what is pinned. Annotations on nodes
    of an unknown kind stay, unless their supernode is gone.
    """
    if external_annotations(external) == (tuple(pinned), tuple(supernodes)):
        return external
    place = _place_of(external)
    ids = {node: name for name, node in reversed(place.items())}
    unknown = {entry.id for entry in external.nodes if entry.node is None}
    before = dict(external.supernodes)
    groups = []
    for group in supernodes:
        kept = [entry for entry in before.get(group.name, ()) if entry in unknown]
        members = [*(ids[node] for node in group.nodes if node in ids), *kept]
        if members:
            groups.append((group.name, tuple(members)))
    marked = [*pinned, *(node for group in supernodes for node in group.nodes)]
    listed = [ids[node] for node in marked if node in ids]
    listed += [entry for entry in external.pinned if entry in unknown]
    return replace(external, pinned=tuple(dict.fromkeys(listed)), supernodes=tuple(groups))


def _place_of(external: ExternalGraph) -> dict[str, NodeId]:
    places = zip(external.nodes, external_places(external), strict=True)
    return {entry.id: node for entry, node in places if node is not None}


def stored_labels(graph: AttributionGraph) -> dict[FeatureId, str]:
    """Return the labels that an imported graph brought along; empty for a graph traced here.

    Raises :class:`ExternalGraphError` when the provenance has labels in another form.
    """
    stored = graph.provenance.get("labels") or {}
    if not isinstance(stored, Mapping):
        raise ExternalGraphError(
            f"the labels of the graph are a {type(stored).__name__}, expected a mapping from "
            "features to strings: import the graph again"
        )
    labels = {}
    for name, label in stored.items():
        match = _FEATURE.fullmatch(str(name))
        if match is None or not isinstance(label, str):
            raise ExternalGraphError(
                f"the label {short(repr(label))} of {short(repr(name))} is not a string for a "
                "feature such as 'L3/417': import the graph again"
            )
        labels[FeatureId(int(match[1]), int(match[2]))] = label
    return labels
