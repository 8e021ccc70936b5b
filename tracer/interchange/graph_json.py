"""Attribution graphs as published: the JSON of Anthropic's front end, circuit-tracer, Neuronpedia.

Unknown keys and kinds of nodes are kept, so that reading a graph and writing it again loses
nothing. A node is identified by its fields, not by its id alone: an error's older id,
``0_{layer}_{position}``, can equal the id of a feature. Errors are written with the newer id.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from tracer.errors import ExternalGraphError, one_line, short
from tracer.files import atomic_write, format_bytes
from tracer.graph.nodes import FloatArray, IntArray
from tracer.interchange.strict_json import (
    as_list,
    as_object,
    as_text,
    fits_float32,
    parse,
    parse_file,
    required,
)
from tracer.types import NodeId, NodeKind

MAX_BYTES: Final = 512 * 2**20
MAX_NODES: Final = 200_000
_CERTAIN: Final = 1.001
"""The largest probability accepted: 1, rounded up."""
_KINDS: Final[Mapping[str, NodeKind]] = {
    "cross layer transcoder": "feature",
    "unexplored node": "feature",
    "mlp reconstruction error": "error",
    "embedding": "token",
    "logit": "logit",
}
TYPES: Final = {kind: name for name, kind in _KINDS.items() if name != "unexplored node"}
"""The ``feature_type`` to write for each kind of node."""
_LAYER: Final = re.compile(r"[0-9]{1,18}")
_NEVER_NULL: Final = ("clerp", "node_threshold", "clickedId", "sg_pos")
"""Keys that Neuronpedia's schema wants left out rather than null."""


@dataclass(frozen=True)
class ExternalNode:
    """A node of a published graph."""

    id: str
    node: NodeId | None
    """The node in terms of this library; None for an unknown kind (attention features, biases)."""
    label: str
    stored: Mapping[str, Any]
    """The node as in the file, unknown keys included."""


@dataclass(frozen=True)
class ExternalGraph:
    """A published graph: its nodes and links, and the annotations that came with it."""

    metadata: Mapping[str, Any]
    nodes: tuple[ExternalNode, ...]
    sources: IntArray
    """``(n_links,)`` indices into ``nodes``."""
    targets: IntArray
    """``(n_links,)`` indices into ``nodes``."""
    weights: FloatArray
    """``(n_links,)`` float32."""
    pinned: tuple[str, ...] = ()
    """Ids of the pinned nodes."""
    supernodes: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Names, each with the ids of its nodes."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """The rest of ``qParams``."""
    other: Mapping[str, Any] = field(default_factory=dict)
    """Unknown top-level keys."""


def read_graph_json(source: str | os.PathLike[str] | bytes) -> ExternalGraph:
    """Read a published graph from a file or from its bytes.

    Raises :class:`ExternalGraphError`, which says what is wrong: the file is not JSON, a key is
    missing, a link leads nowhere, two nodes share an id, a number is not finite, there are more
    than `MAX_NODES` nodes.

    >>> token = {"node_id": "E_5_1", "feature_type": "embedding", "layer": "E", "ctx_idx": 1}
    >>> logit = {"node_id": "1_9_1", "feature_type": "logit", "layer": "1", "ctx_idx": 1}
    >>> content = json.dumps({
    ...     "metadata": {"slug": "dog", "scan": "m", "prompt": "dog", "prompt_tokens": ["", "dog"]},
    ...     "nodes": [token, logit | {"token_prob": 0.5}],
    ...     "links": [{"source": "E_5_1", "target": "1_9_1", "weight": 2.5}],
    ... }).encode()
    >>> external = read_graph_json(content)
    >>> [str(node.node) for node in external.nodes], external.weights.tolist()
    (['token--1-1-5', 'logit-0-1-9'], [2.5])
    """
    name, content = _content(source)
    stored = parse_file(content, name)
    if not isinstance(stored, dict):
        raise ExternalGraphError(
            f"{name} is a {type(stored).__name__}, expected an object with metadata, nodes and "
            "links: it is not a published attribution graph"
        )
    metadata = as_object(required(stored, "metadata", name), f"metadata of {name}")
    tokens = required(metadata, "prompt_tokens", f"metadata of {name}")
    for key in ("slug", "scan", "prompt"):
        as_text(required(metadata, key, f"metadata of {name}"), f"{key} of {name}")
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise ExternalGraphError(f"prompt_tokens of {name} is not a list of strings")
    parameters = dict(as_object(stored.get("qParams") or {}, f"qParams of {name}"))
    listed = as_list(required(stored, "nodes", name), f"nodes of {name}")
    if len(listed) > MAX_NODES:
        raise ExternalGraphError(
            f"{name} has {len(listed):,} nodes, at most {MAX_NODES:,} can be read: prune it first"
        )
    nodes, numbers, renamed = _nodes(listed, len(tokens), name)
    links = as_list(required(stored, "links", name), f"links of {name}")
    sources, targets, weights = _links(links, numbers, renamed, name)
    pinned = _ids(parameters.pop("pinnedIds", None), renamed, name)
    supernodes = _supernodes(parameters.pop("supernodes", None), renamed, name)
    known = {"metadata", "qParams", "nodes", "links"}
    return ExternalGraph(
        metadata=metadata,
        nodes=nodes,
        sources=sources,
        targets=targets,
        weights=weights,
        pinned=pinned,
        supernodes=supernodes,
        parameters=parameters,
        other={key: value for key, value in stored.items() if key not in known},
    )


def _content(source: str | os.PathLike[str] | bytes) -> tuple[str, bytes]:
    """Return what messages call the graph, and its bytes."""
    name = "the graph" if isinstance(source, bytes) else Path(source).name
    try:
        size = len(source) if isinstance(source, bytes) else Path(source).stat().st_size
        if size > MAX_BYTES:
            raise ExternalGraphError(
                f"{name} has {format_bytes(size)}, at most {format_bytes(MAX_BYTES)} can be read: "
                "prune the graph first"
            )
        return name, source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise ExternalGraphError(f"{source!s} cannot be read: {error.strerror}") from error
    except ValueError as error:  # a path with a NUL or half a character
        raise ExternalGraphError(f"{source!r} cannot be read: {one_line(error)}") from error


def _nodes(
    listed: list[Any], n_tokens: int, name: str
) -> tuple[tuple[ExternalNode, ...], dict[str, int], dict[str, str]]:
    """Return the nodes, their indices by id, and the newer id by the older one, where it changed.

    Raises where an id, older or newer, could mean two nodes: links would be ambiguous.
    """
    nodes: list[ExternalNode] = []
    numbers: dict[str, int] = {}
    renamed: dict[str, str] = {}
    for entry in listed:
        node = _node(as_object(entry, f"a node of {name}"), n_tokens, name)
        old = str(entry["node_id"])
        for spelling in {old, node.id}:
            if spelling in numbers and (spelling == node.id or spelling in renamed):
                raise ExternalGraphError(
                    f"{name} has two nodes with the id {short(repr(spelling))}: links to it are "
                    "ambiguous"
                )
        if node.id != old:
            renamed[old] = node.id
        numbers[node.id] = len(nodes)
        nodes.append(node)
    ambiguous = sorted(set(renamed) & set(numbers))
    if ambiguous:
        raise ExternalGraphError(
            f"{ambiguous[0]!r} of {name} is both a feature and an error (an older id): export the "
            "graph again with a newer version of its tool"
        )
    return tuple(nodes), numbers, renamed


def _node(stored: Mapping[str, Any], n_tokens: int, name: str) -> ExternalNode:
    old = as_text(required(stored, "node_id", f"a node of {name}"), f"node_id of a node of {name}")
    what = f"node {short(repr(old))} of {name}"
    kind = _KINDS.get(as_text(required(stored, "feature_type", what), f"feature_type of {what}"))
    position = required(stored, "ctx_idx", what)
    if type(position) is not int or not 0 <= position < n_tokens:
        raise ExternalGraphError(
            f"{what} is at position {short(repr(position))}, expected 0 to {n_tokens - 1}, the "
            "positions of the prompt"
        )
    for key in ("activation", "influence", "token_prob"):
        number = stored.get(key)
        if number is not None and not fits_float32(number):
            raise ExternalGraphError(
                f"{key} of {what} is {short(repr(number))}, expected a finite number"
            )
    if not 0 <= (stored.get("token_prob") or 0) <= _CERTAIN:
        raise ExternalGraphError(f"token_prob of {what} is {stored['token_prob']}, expected 0 to 1")
    label = as_text(stored.get("clerp") or "", f"clerp of {what}")
    if kind is None:
        return ExternalNode(old, None, label, stored)
    if kind == "token":
        return ExternalNode(old, NodeId("token", -1, position, _index(stored, what)), label, stored)
    layer = _layer(required(stored, "layer", what), what)
    if kind == "error":
        node = NodeId("error", layer, position, -1)
        return ExternalNode(f"{layer}_-1_{position}", node, label, stored)
    node = NodeId(kind, layer - (kind == "logit"), position, _index(stored, what))
    return ExternalNode(old, node, label, stored)


def _layer(stored: Any, what: str) -> int:
    if isinstance(stored, float) and stored.is_integer():
        stored = int(stored)
    if not _LAYER.fullmatch(as_text(stored, f"layer of {what}")):
        raise ExternalGraphError(
            f"layer of {what} is {short(repr(stored))}, expected a number from 0"
        )
    return int(stored)


def _index(stored: Mapping[str, Any], what: str) -> int:
    """Return the middle part of the id or, where that is not a number, the field ``feature``.

    The field may hold the layer and the index paired in one number.
    """
    parts = str(stored["node_id"]).split("_")
    if len(parts) == 3 and len(parts[1]) < 16:
        if parts[1].isdecimal():
            return int(parts[1])
        if (
            _KINDS[str(stored["feature_type"])] == "logit"
            and parts[1].startswith("-")
            and parts[1][1:].isdecimal()
        ):
            return -int(parts[1][1:])  # a target written by us that is not a single token
    feature = stored.get("feature")
    if type(feature) is not int or feature < 0:
        raise ExternalGraphError(f"{what} has an index neither in its id nor in 'feature'")
    layer, index = cantor_unpair(feature)
    return index if str(layer) == str(stored.get("layer")) else feature


def cantor_pair(layer: int, index: int) -> int:
    """Return one number for two, as the front ends do: ``(x + y)(x + y + 1) / 2 + y``.

    >>> cantor_pair(3, 417)
    88827
    """
    return (layer + index) * (layer + index + 1) // 2 + index


def cantor_unpair(paired: int) -> tuple[int, int]:
    """Return the layer and index that :func:`cantor_pair` combined.

    >>> cantor_unpair(88827)
    (3, 417)
    """
    total = (math.isqrt(8 * paired + 1) - 1) // 2
    index = paired - total * (total + 1) // 2
    return total - index, index


def _links(
    listed: list[Any], numbers: Mapping[str, int], renamed: Mapping[str, str], name: str
) -> tuple[IntArray, IntArray, FloatArray]:
    ends = np.empty((len(listed), 2), np.int64)
    weights = np.empty(len(listed), np.float32)
    for row, link in enumerate(listed):
        what = f"link {row} of {name}"
        entry = as_object(link, what)
        for side, key in enumerate(("source", "target")):
            end = as_text(required(entry, key, what), f"{key} of {what}")
            number = numbers.get(renamed.get(end, end))
            if number is None:
                raise ExternalGraphError(
                    f"the {key} of {what} is {short(repr(end))}, which is not a node"
                )
            ends[row, side] = number
        weight = required(entry, "weight", what)
        if not fits_float32(weight):
            raise ExternalGraphError(
                f"{what} has the weight {short(repr(weight))}, expected a finite number"
            )
        weights[row] = weight
    return ends[:, 0], ends[:, 1], weights


def _ids(stored: Any, renamed: Mapping[str, str], name: str) -> tuple[str, ...]:
    """Read a list of ids: a list, JSON in a string or, as circuit-tracer saves it, "id,id"."""
    try:
        if isinstance(stored, str):
            stored = parse(stored) if stored.startswith("[") else stored.split(",")
        if not isinstance(stored or [], list):
            raise TypeError(f"it is a {type(stored).__name__}")
        entries = (as_text(entry, "an entry") for entry in stored or [] if entry)
        return tuple(renamed.get(entry, entry) for entry in entries)
    except (TypeError, ValueError, ExternalGraphError) as error:
        raise ExternalGraphError(
            f"pinnedIds of {name} cannot be read ({short(str(error))}): expected a list of node ids"
        ) from error


def _supernodes(
    stored: Any, renamed: Mapping[str, str], name: str
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    try:
        groups = parse(stored) if isinstance(stored, str) and stored else stored or []
        for group in groups:
            if not isinstance(group, list):
                raise TypeError(f"an entry is a {type(group).__name__}")
        texts = [[as_text(entry, "an entry") for entry in group] for group in groups]
        return tuple(
            (title, tuple(renamed.get(member, member) for member in members))
            for title, *members in texts
        )
    except (TypeError, ValueError, ExternalGraphError) as error:
        raise ExternalGraphError(
            f"supernodes of {name} cannot be read ({short(str(error))}): expected "
            "[[name, id, …], …]"
        ) from error


def write_graph_json(external: ExternalGraph, path: str | os.PathLike[str] | None = None) -> bytes:
    """Return a graph in the published form, valid against its schema; write it to ``path`` too.

    Raises :class:`ExternalGraphError` when an unknown key holds something that is not JSON, and
    ``OSError`` when the file cannot be written; it is then left as it was.

    >>> import tracer
    >>> graph = tracer.trace(tracer.load("atlas"), "The opposite of hot is")
    >>> external = tracer.external_from_pruned(tracer.prune(graph), "hot")
    >>> write_graph_json(external)[:27]
    b'{"metadata": {"slug": "hot"'
    """
    ids = [node.id for node in external.nodes]
    links = [
        {"source": ids[source], "target": ids[target], "weight": float(weight)}
        for source, target, weight in zip(
            external.sources, external.targets, external.weights, strict=True
        )
    ]
    parameters = {
        "pinnedIds": list(external.pinned),
        "supernodes": [[name, *members] for name, members in external.supernodes],
        **external.parameters,
    }
    stored = {
        "metadata": _without_nulls(external.metadata),
        "qParams": _without_nulls(parameters),
        "nodes": [
            {"clerp": node.label} | _without_nulls(node.stored) | {"node_id": node.id}
            for node in external.nodes
        ],
        "links": links,
        **external.other,
    }
    try:
        content = json.dumps(stored, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ExternalGraphError(
            f"the graph cannot be written as JSON ({short(str(error))}): it has a value that is "
            "not JSON, or nested too deeply"
        ) from error
    if path is not None:
        atomic_write(Path(path), content)
    return content


def _without_nulls(stored: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in stored.items() if v is not None or k not in _NEVER_NULL}
