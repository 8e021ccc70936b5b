"""The nodes of a published graph: what each entry of the list ``nodes`` is.

A node is identified by its fields, not by its id alone: an error's older id,
``0_{layer}_{position}``, can equal the id of a feature.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from tracer.errors import ExternalGraphError, short
from tracer.graph.generic import MAX_KIND, generic_kind, is_error_kind
from tracer.interchange.strict_json import as_object, as_text, fits_float32, required
from tracer.types import NodeId, NodeKind

_CERTAIN: Final = 1.001
"""The largest probability accepted: 1, rounded up."""
KINDS: Final[Mapping[str, NodeKind]] = {
    "cross layer transcoder": "feature",
    "unexplored node": "feature",
    "mlp reconstruction error": "error",
    "embedding": "token",
    "logit": "logit",
}
"""The kind of node for each ``feature_type`` that this library computes too."""
TYPES: Final = {kind: name for name, kind in KINDS.items() if name != "unexplored node"}
"""The ``feature_type`` to write for each kind of node."""
_LAYER: Final = re.compile(r"[0-9]{1,18}")
_LARGEST_INDEX: Final = 10**18


@dataclass(frozen=True)
class ExternalNode:
    """A node of a published graph."""

    id: str
    """The id in the file; the newer form for an error whose older id a feature has too."""
    node: NodeId | None
    """The node in terms of this library; None for a node without a layer or a position."""
    label: str
    stored: Mapping[str, Any]
    """The node as in the file, unknown keys included."""

    @property
    def kind(self) -> str:
        """The ``feature_type`` in the file."""
        return str(self.stored.get("feature_type", ""))

    @property
    def is_generic(self) -> bool:
        """Whether this library does not compute nodes of its kind."""
        return self.kind not in KINDS


def read_nodes(listed: list[Any], n_tokens: int, name: str) -> tuple[ExternalNode, ...]:
    """Read the nodes of a graph that messages call ``name``.

    Raises :class:`ExternalGraphError` for a damaged node, and for two nodes with one id, unless
    they are a feature and an error with an older id.
    """
    nodes: list[ExternalNode] = []
    by_id: dict[str, list[int]] = defaultdict(list)
    taken: set[NodeId] = set()
    for entry in listed:
        node = read_node(as_object(entry, f"a node of {name}"), n_tokens, name)
        by_id[node.id].append(len(nodes))
        nodes.append(node)
    # By id, so that the order of the file does not matter: the last one gets -1, so they ascend.
    generic = [number for number, node in enumerate(nodes) if node.is_generic]
    for number in sorted(generic, key=lambda number: nodes[number].id, reverse=True):
        place = nodes[number].node
        if place is not None:
            place = unused(place, taken)
            taken.add(place)
            nodes[number] = replace(nodes[number], node=place)
    for shared, numbers in by_id.items():
        if len(numbers) > 1:
            _rename_error(nodes, numbers, shared, by_id.keys(), name)
    return tuple(nodes)


def _rename_error(
    nodes: list[ExternalNode], numbers: list[int], shared: str, ids: Any, name: str
) -> None:
    """Give an error its newer id where a feature has its older one; in place."""
    places = {number: nodes[number].node for number in numbers}
    kinds = {node.kind if node else "": number for number, node in places.items()}
    if len(numbers) == 2 and kinds.keys() == {"error", "feature"}:
        number = kinds["error"]
        renamed = newer_id(nodes[number])
        if renamed not in ids:
            nodes[number] = replace(nodes[number], id=renamed)
            return
    raise ExternalGraphError(
        f"{name} has two nodes with the id {short(repr(shared))}: links to it are ambiguous"
    )


def newer_id(entry: ExternalNode) -> str:
    """Return the id of an error in the newer form, ``{layer}_-1_{position}``."""
    node = entry.node
    return entry.id if node is None else f"{node.layer}_-1_{node.position}"


def unused(node: NodeId, taken: set[NodeId]) -> NodeId:
    """Return ``node``, or the first negative index at its place, if it has none or is taken."""
    if node.index >= 0 and node not in taken:
        return node
    index = -1
    while (other := node._replace(index=index)) in taken:
        index -= 1
    return other


def read_node(stored: Mapping[str, Any], n_tokens: int, name: str) -> ExternalNode:
    """Read one entry; a generic node without an index gets -1.

    Raises :class:`ExternalGraphError` for a damaged entry. A generic node without a layer or a
    position is not damaged, but has no place.
    """
    own = as_text(required(stored, "node_id", f"a node of {name}"), f"node_id of a node of {name}")
    what = f"node {short(repr(own))} of {name}"
    published = as_text(required(stored, "feature_type", what), f"feature_type of {what}")
    kind = KINDS.get(published)
    _check_numbers(stored, what)
    label = as_text(stored.get("clerp") or "", f"clerp of {what}")
    if kind is None:
        if len(published) > MAX_KIND:
            raise ExternalGraphError(
                f"feature_type of {what} has {len(published):,} characters, expected at most "
                f"{MAX_KIND}"
            )
        return ExternalNode(own, _generic(stored, published, n_tokens), label, stored)
    position = required(stored, "ctx_idx", what)
    if type(position) is not int or not 0 <= position < n_tokens:
        raise ExternalGraphError(
            f"{what} is at position {short(repr(position))}, expected 0 to {n_tokens - 1}, the "
            "positions of the prompt"
        )
    if kind == "token":
        return ExternalNode(own, NodeId("token", -1, position, _index(stored, what)), label, stored)
    layer = _layer(required(stored, "layer", what))
    if layer is None:
        as_text(stored["layer"], f"layer of {what}")  # a list or an object is named as such
        raise ExternalGraphError(
            f"layer of {what} is {short(repr(stored['layer']))}, expected a number from 0"
        )
    index = -1 if kind == "error" else _index(stored, what)
    node = NodeId(kind, layer - (kind == "logit"), position, index)
    return ExternalNode(own, node, label, stored)


def _check_numbers(stored: Mapping[str, Any], what: str) -> None:
    for key in ("activation", "influence", "token_prob"):
        number = stored.get(key)
        if number is not None and not fits_float32(number):
            raise ExternalGraphError(
                f"{key} of {what} is {short(repr(number))}, expected a finite number"
            )
    if not 0 <= (stored.get("token_prob") or 0) <= _CERTAIN:
        raise ExternalGraphError(f"token_prob of {what} is {stored['token_prob']}, expected 0 to 1")


def _generic(stored: Mapping[str, Any], published: str, n_tokens: int) -> NodeId | None:
    position, text = stored.get("ctx_idx"), stored.get("layer")
    layer = -1 if text in ("E", -1, "-1") else _layer(text)
    if type(position) is not int or not 0 <= position < n_tokens or layer is None:
        return None
    index = -1 if is_error_kind(published) else _generic_index(stored, layer)
    return NodeId(generic_kind(published), layer, position, index)


def _layer(stored: Any) -> int | None:
    """Return a layer that is given as a number or as text; None for anything else."""
    if isinstance(stored, float) and stored.is_integer():
        stored = int(stored)
    if isinstance(stored, bool) or not isinstance(stored, int | str):
        return None
    return int(stored) if _LAYER.fullmatch(str(stored)) else None


def _id_index(stored: Mapping[str, Any]) -> str:
    """Return the middle part of an id of three parts; empty for other ids."""
    parts = str(stored["node_id"]).split("_")
    return parts[1] if len(parts) == 3 and len(parts[1]) < 16 else ""


def _index(stored: Mapping[str, Any], what: str) -> int:
    """Return the middle part of the id or, where that is not a number, the field ``feature``.

    The field may hold the layer and the index paired in one number.
    """
    middle = _id_index(stored)
    if middle.isdecimal():
        return int(middle)
    written_here = stored["feature_type"] in ("logit", "embedding")
    if written_here and middle[:1] == "-" and middle[1:].isdecimal():
        return int(middle)  # a target that is not a single token, or a token whose id is unknown
    feature = stored.get("feature")
    if type(feature) is not int or feature < 0:
        raise ExternalGraphError(f"{what} has an index neither in its id nor in 'feature'")
    layer, index = cantor_unpair(feature)
    return index if str(layer) == str(stored.get("layer")) else feature


def _generic_index(stored: Mapping[str, Any], layer: int) -> int:
    """Return the feature's index in its layer, or -1 where the node has none."""
    middle, feature = _id_index(stored), stored.get("feature")
    if middle.isdecimal():
        return int(middle)
    if type(feature) is not int or not 0 <= feature < _LARGEST_INDEX:
        return -1
    paired_layer, index = cantor_unpair(feature)
    return index if paired_layer == layer else feature


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
