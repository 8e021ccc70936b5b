"""Which node of a graph of this library each node of a published graph becomes. Data only.

A place is a :class:`NodeId` of this library, an id is a string of the file.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from tracer.errors import ExternalGraphError, short
from tracer.graph.generic import GenericNode
from tracer.graph.graph import AttributionGraph
from tracer.graph.graph_file import MAX_LAYERS
from tracer.graph.nodes import NodeIndex
from tracer.interchange.graph_json import MAX_NODES, ExternalGraph
from tracer.interchange.labels import answer_probability, files_label, readers_labels
from tracer.interchange.published_links import NodeNumbers
from tracer.types import NodeId


def external_index(external: ExternalGraph) -> NodeIndex:
    """Return the node order of the graph that a published one becomes.

    Raises :class:`ExternalGraphError` when it has no logit node, or is larger than any known model.
    """
    known = [entry.node for entry in external.nodes if entry.node and not entry.is_generic]
    n_positions = len(external.metadata["prompt_tokens"])
    logits = [n for n in external.nodes if n.node is not None and n.node.kind == "logit"]
    if not logits:
        raise ExternalGraphError("the graph has no logit node, expected at least one to explain")
    generic = generic_nodes(external)
    inner = [node.layer for node in known if node.kind in ("feature", "error")]
    inner += [node.layer for node in generic]
    n_layers = max(0, *(n.node.layer for n in logits if n.node))
    n_layers = max(n_layers, *(layer + 1 for layer in inner)) if inner else n_layers
    largest = max(node.index for node in known)
    if n_layers > MAX_LAYERS or n_layers * n_positions > MAX_NODES or largest >= 2**31:
        raise ExternalGraphError(
            f"the graph has {n_layers:,} layers, {n_positions:,} tokens and a feature or token "
            f"{min(largest, 10**12):,}: no known model is as large"
        )
    logits.sort(key=lambda entry: -answer_probability(entry))
    features = sorted((n.layer, n.position, n.index) for n in known if n.kind == "feature")
    ids = {n.position: n.index for n in known if n.kind == "token"}
    return NodeIndex(
        np.array(features, np.int32).reshape(-1, 3),
        n_layers,
        tuple(ids.get(position, -1 - position) for position in range(n_positions)),
        tuple(dict.fromkeys(entry.node.index for entry in logits if entry.node)),
        generic,
    )


def generic_nodes(external: ExternalGraph) -> tuple[GenericNode, ...]:
    """Return the nodes of kinds that this library does not compute, in the order of a graph."""
    own = readers_labels(external)
    nodes = [
        GenericNode(
            kind=entry.kind,
            layer=entry.node.layer,
            position=entry.node.position,
            index=entry.node.index,
            id=entry.id,
            label=own.get(number) or files_label(entry),
            activation=entry.stored.get("activation"),
        )
        for number, entry in enumerate(external.nodes)
        if entry.is_generic and entry.node is not None
    ]
    return tuple(sorted(nodes, key=lambda n: (n.layer, n.position, n.node.kind, n.index)))


def external_places(external: ExternalGraph) -> tuple[NodeId | None, ...]:
    """Return each node's place in :func:`external_index`; None without a layer or a position.

    Logits are at the last token there, whatever the file says.

    Raises :class:`ExternalGraphError` when two nodes have the same place.
    """
    index = external_index(external)
    places = tuple(place_in(index, entry.node) for entry in external.nodes)
    ids: dict[NodeId, str] = {}
    for entry, node in zip(external.nodes, places, strict=True):
        if node is not None and ids.setdefault(node, entry.id) != entry.id:
            raise ExternalGraphError(
                f"the nodes {short(repr(ids[node]))} and {short(repr(entry.id))} of the graph are "
                f"the same {node.kind} at the same token: export the graph again"
            )
    return places


def place_in(index: NodeIndex, node: NodeId | None) -> NodeId | None:
    """Return the place in an index of a node as it was read."""
    if node is not None and node.kind == "logit":
        return NodeId("logit", index.n_layers, index.n_positions - 1, node.index)
    if node is not None and node.kind == "token":
        return node._replace(index=index.token_ids[node.position])
    return node


def places_by_id(external: ExternalGraph) -> dict[str, NodeId]:
    """Return the place of each node that has one, by every id that front ends know it by.

    Those are the id of the file, either id of an error, and ``jsNodeId`` where no other node has
    it: the front end marks the nodes of Anthropic's graphs by that one. An older id that a feature
    and an error share means the feature.
    """
    numbers, places = NodeNumbers(external.nodes), external_places(external)
    by_id = {name: places[number] for name, number in numbers.by_id.items()}
    scripted = [entry.stored.get("jsNodeId") for entry in external.nodes]
    counts = Counter(name for name in scripted if isinstance(name, str))
    for name, node in zip(scripted, places, strict=True):
        if isinstance(name, str) and counts[name] == 1:
            by_id.setdefault(name, node)
    return {name: node for name, node in by_id.items() if node is not None}


def published_id(graph: AttributionGraph, node: NodeId) -> str:
    """Return the id that a published graph gives a node, in the newer form.

    Raises ``KeyError`` for a generic node that the graph does not have.

    >>> import tracer
    >>> graph = tracer.trace(tracer.load("atlas"), "The opposite of hot is")
    >>> published_id(graph, NodeId("feature", 3, 4, 417))
    '3_417_4'
    """
    if node.kind == "feature":
        return f"{node.layer}_{node.index}_{node.position}"
    if node.kind == "error":
        return f"{node.layer}_-1_{node.position}"
    if node.kind == "token":
        return f"E_{node.index}_{node.position}"
    if node.kind == "logit":
        return f"{graph.n_layers + 1}_{node.index}_{node.position}"
    return graph.index.generic_node(node).id
