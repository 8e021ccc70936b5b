"""Graphs as others publish them: JSON of Anthropic's front end, circuit-tracer, Neuronpedia.

Reading keeps what is not understood, so that a graph that is read and written again has lost
nothing. A node's place is read from its fields, never from its id alone: an error of the older form
``0_{layer}_{position}`` can be spelled like a feature. What is written is the newer form.
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

from tracer.errors import ExternalGraphError
from tracer.files import atomic_write
from tracer.graph.nodes import FloatArray, IntArray
from tracer.types import NodeId, NodeKind

MAX_BYTES: Final = 512 * 2**20
MAX_NODES: Final = 200_000
_MOST: Final = 3.4e38
_CERTAIN: Final = 1.001
"""A probability of 1, rounded."""
_KINDS: Final[Mapping[str, NodeKind]] = {
    "cross layer transcoder": "feature",
    "unexplored node": "feature",
    "mlp reconstruction error": "error",
    "embedding": "token",
    "logit": "logit",
}
TYPES: Final = {kind: name for name, kind in _KINDS.items() if name != "unexplored node"}
_LAYER: Final = re.compile(r"[0-9]{1,18}")
_GZIPPED: Final = b"\x1f\x8b"
_QUOTED: Final = 100
"""Characters of a file that a message repeats."""
_NEVER_NULL: Final = ("clerp", "node_threshold", "clickedId", "sg_pos")
"""What Neuronpedia's schema wants left out rather than null."""


@dataclass(frozen=True)
class ExternalNode:
    """A node of a published graph."""

    id: str
    node: NodeId | None
    """In our terms; None for a kind that we do not know (attention features, biases)."""
    label: str
    stored: Mapping[str, Any]
    """The node as the file has it, with keys that we do not know."""


@dataclass(frozen=True)
class ExternalGraph:
    """A published graph: its nodes, links between them, and what its reader had marked."""

    metadata: Mapping[str, Any]
    nodes: tuple[ExternalNode, ...]
    sources: IntArray
    """``(n_links,)`` numbers of nodes."""
    targets: IntArray
    weights: FloatArray
    pinned: tuple[str, ...] = ()
    supernodes: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Names, each with the ids of its nodes."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """The rest of ``qParams``."""
    other: Mapping[str, Any] = field(default_factory=dict)
    """Top-level keys that we do not know."""


def read_graph_json(source: str | os.PathLike[str] | bytes) -> ExternalGraph:
    """Read a published graph from a file or its bytes.

    Raises :class:`ExternalGraphError`, which names what is wrong: no JSON, a missing key, a
    dangling link, two nodes of one id, a number that is not finite, more nodes than `MAX_NODES`.
    """
    name, content = _content(source)
    stored = _parsed(content, name)
    if not isinstance(stored, dict):
        raise ExternalGraphError(
            f"{name} is a {type(stored).__name__}, expected an object with metadata, nodes and "
            "links: it is no published attribution graph"
        )
    graph: Mapping[str, Any] = stored
    metadata = _mapping(_required(graph, "metadata", name), f"metadata of {name}")
    tokens = _required(metadata, "prompt_tokens", f"metadata of {name}")
    for key in ("slug", "scan", "prompt"):
        _required(metadata, key, f"metadata of {name}")
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise ExternalGraphError(f"prompt_tokens of {name} is no list of texts")
    parameters = dict(_mapping(graph.get("qParams") or {}, f"qParams of {name}"))
    listed = _list(_required(graph, "nodes", name), f"nodes of {name}")
    if len(listed) > MAX_NODES:
        raise ExternalGraphError(
            f"{name} has {len(listed):,} nodes, at most {MAX_NODES:,} can be shown: prune it first"
        )
    numbers: dict[str, int] = {}
    renamed: dict[str, str] = {}
    nodes: list[ExternalNode] = []
    for entry in listed:
        found = _node(_mapping(entry, f"a node of {name}"), len(tokens), name)
        old = str(entry["node_id"])
        for spelled in {old, found.id}:
            if spelled in numbers and (spelled == found.id or spelled in renamed):
                raise ExternalGraphError(
                    f"two nodes of {name} are called {spelled!r}: links to it mean nothing"
                )
        if found.id != old:
            renamed[old] = found.id
        numbers[found.id] = len(nodes)
        nodes.append(found)
    _check_old_ids(renamed, numbers, name)
    sources, targets, weights = _links(
        _list(_required(graph, "links", name), f"links of {name}"), numbers, renamed, name
    )
    pinned = _ids(parameters.pop("pinnedIds", None), renamed, name)
    supernodes = _supernodes(parameters.pop("supernodes", None), renamed, name)
    known = {"metadata", "qParams", "nodes", "links"}
    return ExternalGraph(
        metadata=metadata,
        nodes=tuple(nodes),
        sources=sources,
        targets=targets,
        weights=weights,
        pinned=pinned,
        supernodes=supernodes,
        parameters=parameters,
        other={key: value for key, value in graph.items() if key not in known},
    )


def _content(source: str | os.PathLike[str] | bytes) -> tuple[str, bytes]:
    name = "the graph" if isinstance(source, bytes) else Path(source).name
    try:
        size = len(source) if isinstance(source, bytes) else Path(source).stat().st_size
        if size > MAX_BYTES:
            raise ExternalGraphError(
                f"{name} has {size / 2**20:.0f} MiB, at most {MAX_BYTES // 2**20} can be read: "
                "prune the graph first"
            )
        return name, source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise ExternalGraphError(f"{source!s} cannot be read: {error.strerror}") from error


def _parsed(content: bytes, name: str) -> Any:
    """JSON in any Unicode encoding, with nothing in it that could not be written again."""
    if content.startswith(_GZIPPED):
        raise ExternalGraphError(f"{name} is gzipped: unpack it first, and open what is in it")
    if not content.strip():
        raise ExternalGraphError(f"{name} is empty: export the graph again")
    try:
        text = content.decode(json.detect_encoding(content))
        # A function of ours for every float also lets other threads go on meanwhile: the parser
        # itself would hold them up to its end.
        stored = json.loads(text, parse_constant=_no_number, parse_float=_finite)
        if "\\ud" in text or "\\uD" in text:  # perhaps half a character
            json.dumps(stored, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ExternalGraphError(
            f"{name} is no JSON ({_short(str(error))}): export the graph again"
        ) from error
    return stored


def _no_number(constant: str) -> float:
    raise ValueError(f"{constant} is no number")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{_short(text)} is larger than any number that can be kept")
    return number


def _short(text: str) -> str:
    """What a message quotes of a file, which may be of any length."""
    return text if len(text) <= _QUOTED else f"{text[:_QUOTED]}…"


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ExternalGraphError(f"{what} is a {type(value).__name__}, expected an object")
    return value


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise ExternalGraphError(f"{what} is a {type(value).__name__}, expected a list")
    return value


def _required(mapping: Mapping[str, Any], key: str, what: str) -> Any:
    if key not in mapping:
        raise ExternalGraphError(f"{what} has no {key!r}: it is no published attribution graph")
    return mapping[key]


def _node(stored: Mapping[str, Any], n_tokens: int, name: str) -> ExternalNode:
    old = str(_required(stored, "node_id", f"a node of {name}"))
    what = f"node {_short(repr(old))} of {name}"
    kind = _KINDS.get(str(_required(stored, "feature_type", what)))
    position = _required(stored, "ctx_idx", what)
    if type(position) is not int or not 0 <= position < n_tokens:
        raise ExternalGraphError(
            f"{what} stands at position {_short(repr(position))}: the prompt has positions 0 to "
            f"{n_tokens - 1}"
        )
    for key in ("activation", "influence", "token_prob"):
        number = stored.get(key)
        if number is not None and not _is_number(number):
            raise ExternalGraphError(
                f"{key} of {what} is {_short(repr(number))}, expected a finite number"
            )
    if not 0 <= (stored.get("token_prob") or 0) <= _CERTAIN:
        raise ExternalGraphError(f"token_prob of {what} is {stored['token_prob']}, expected 0 to 1")
    label = str(stored.get("clerp") or "")
    if kind is None:
        return ExternalNode(old, None, label, stored)
    if kind == "token":
        return ExternalNode(old, NodeId("token", -1, position, _index(stored, what)), label, stored)
    found = _required(stored, "layer", what)
    if isinstance(found, float) and found.is_integer():
        found = int(found)
    if not _LAYER.fullmatch(str(found)):
        raise ExternalGraphError(
            f"{what} is of layer {_short(repr(found))}, expected a number from 0"
        )
    layer = int(found)
    if kind == "error":
        node = NodeId("error", layer, position, -1)
        return ExternalNode(f"{layer}_-1_{position}", node, label, stored)
    if kind == "logit":
        return ExternalNode(
            old, NodeId("logit", layer - 1, position, _index(stored, what)), label, stored
        )
    return ExternalNode(
        old, NodeId("feature", layer, position, _index(stored, what)), label, stored
    )


def _index(stored: Mapping[str, Any], what: str) -> int:
    """The middle of the id; where that is no number, the field, which may be Cantor-paired."""
    parts = str(stored["node_id"]).split("_")
    if len(parts) == 3 and len(parts[1]) < 16:
        if parts[1].isdecimal():
            return int(parts[1])
        if (
            _KINDS[str(stored["feature_type"])] == "logit"
            and parts[1].startswith("-")
            and parts[1][1:].isdecimal()
        ):
            return -int(parts[1][1:])  # a target of ours that is no single token
    feature = stored.get("feature")
    if not isinstance(feature, int) or feature < 0:
        raise ExternalGraphError(f"{what} says neither in its id nor in 'feature' which one it is")
    layer, index = cantor_unpair(feature)
    return index if str(layer) == str(stored.get("layer")) else feature


def cantor_pair(layer: int, index: int) -> int:
    """One number for two, as the front ends key features: ``(x + y)(x + y + 1) / 2 + y``."""
    return (layer + index) * (layer + index + 1) // 2 + index


def cantor_unpair(paired: int) -> tuple[int, int]:
    """The inverse of :func:`cantor_pair`."""
    total = (math.isqrt(8 * paired + 1) - 1) // 2
    index = paired - total * (total + 1) // 2
    return total - index, index


def _check_old_ids(renamed: Mapping[str, str], numbers: Mapping[str, int], name: str) -> None:
    """An error of the older form that is spelled like a feature makes links ambiguous."""
    both = sorted(set(renamed) & set(numbers))
    if both:
        raise ExternalGraphError(
            f"{both[0]!r} of {name} is both a feature and an error (the older form of ids): "
            "export the graph again with a newer version of its tool"
        )


def _links(
    listed: list[Any], numbers: Mapping[str, int], renamed: Mapping[str, str], name: str
) -> tuple[IntArray, IntArray, FloatArray]:
    ends = np.empty((len(listed), 2), np.int64)
    weights = np.empty(len(listed), np.float32)
    for row, link in enumerate(listed):
        entry = _mapping(link, f"link {row} of {name}")
        for side, key in enumerate(("source", "target")):
            end = str(_required(entry, key, f"link {row} of {name}"))
            number = numbers.get(renamed.get(end, end))
            if number is None:
                raise ExternalGraphError(
                    f"link {row} of {name} leads to {_short(repr(end))}, which is no node"
                )
            ends[row, side] = number
        weight = _required(entry, "weight", f"link {row} of {name}")
        if not _is_number(weight):
            raise ExternalGraphError(f"link {row} of {name} has the weight {_short(repr(weight))}")
        weights[row] = weight
    return ends[:, 0], ends[:, 1], weights


def _is_number(value: Any) -> bool:
    """Whether it is one that a float32 can hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -_MOST < value < _MOST


def _ids(stored: Any, renamed: Mapping[str, str], name: str) -> tuple[str, ...]:
    """A list, perhaps as text, or, as circuit-tracer's own Save writes it, names between commas."""
    try:
        if isinstance(stored, str):
            stored = json.loads(stored) if stored.startswith("[") else stored.split(",")
        if not isinstance(stored or [], list):
            raise TypeError(f"found a {type(stored).__name__}")
        return tuple(renamed.get(str(entry), str(entry)) for entry in stored or [] if entry)
    except (TypeError, ValueError, RecursionError) as error:
        raise ExternalGraphError(
            f"pinnedIds of {name} cannot be read ({error}): expected a list of node ids"
        ) from error


def _supernodes(
    stored: Any, renamed: Mapping[str, str], name: str
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    try:
        groups = json.loads(stored) if isinstance(stored, str) and stored else stored or []
        for group in groups:
            if not isinstance(group, list):
                raise TypeError(f"found a {type(group).__name__} among them")
        return tuple(
            (str(title), tuple(renamed.get(str(member), str(member)) for member in members))
            for title, *members in groups
        )
    except (TypeError, ValueError, RecursionError) as error:
        raise ExternalGraphError(
            f"the supernodes of {name} cannot be read ({error}): expected [[name, id, …], …]"
        ) from error


def write_graph_json(shared: ExternalGraph, path: str | os.PathLike[str] | None = None) -> bytes:
    """The published form, valid against its schema; into ``path`` too, whole or not at all."""
    ids = [node.id for node in shared.nodes]
    links = [
        {"source": ids[source], "target": ids[target], "weight": float(weight)}
        for source, target, weight in zip(
            shared.sources, shared.targets, shared.weights, strict=True
        )
    ]
    parameters = {
        "pinnedIds": list(shared.pinned),
        "supernodes": [[name, *members] for name, members in shared.supernodes],
        **shared.parameters,
    }
    stored = {
        "metadata": _without_nulls(shared.metadata),
        "qParams": _without_nulls(parameters),
        "nodes": [
            {"clerp": node.label} | _without_nulls(node.stored) | {"node_id": node.id}
            for node in shared.nodes
        ],
        "links": links,
        **shared.other,
    }
    content = json.dumps(stored, ensure_ascii=False, allow_nan=False).encode()
    if path is not None:
        atomic_write(Path(path), content)
    return content


def _without_nulls(stored: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in stored.items() if v is not None or k not in _NEVER_NULL}
