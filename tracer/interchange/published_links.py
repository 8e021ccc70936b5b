"""The links of a published graph: which two nodes each entry of the list ``links`` connects.

Front ends draw the links they can and leave out the rest; so do we, and count them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from tracer.errors import ExternalGraphError, short
from tracer.graph.generic import is_error_kind
from tracer.graph.nodes import FloatArray, IntArray
from tracer.interchange.published_nodes import ExternalNode, newer_id
from tracer.interchange.strict_json import as_object, as_text, fits_float32, required


@dataclass(frozen=True)
class Links:
    """The links between nodes of the file, as parallel arrays, and a count of the others."""

    sources: IntArray
    """``(n_links,)`` indices into the nodes."""
    targets: IntArray
    """``(n_links,)`` indices into the nodes."""
    weights: FloatArray
    """``(n_links,)`` float32."""
    entries: IntArray
    """``(n_links,)`` indices into the list of the file."""
    missing: int
    """Links of a node that is not in the file."""
    ambiguous: int
    """Links of an id that a feature and an error share, where the direction fits both."""


class NodeNumbers:
    """Which node of a file an id means."""

    def __init__(self, nodes: Sequence[ExternalNode]) -> None:
        self._nodes = nodes
        self.by_id = {node.id: number for number, node in enumerate(nodes)}
        """The node of each id: the feature for a shared one; an error by its newer id too."""
        self.shared: dict[str, int] = {}
        """The error, by the older id that it shares with a feature."""
        for number, node in enumerate(nodes):
            if node.node is not None and node.node.kind == "error":
                self.by_id.setdefault(newer_id(node), number)
                if str(node.stored.get("node_id", node.id)) != node.id:
                    self.shared[str(node.stored["node_id"])] = number

    def link(self, source: str, target: str) -> tuple[int, int] | None:
        """Return the nodes that a link connects; None where shared ids leave it open.

        Raises ``KeyError`` when an id is not that of a node.
        """
        ends = self.by_id[source], self.by_id[target]
        if not self.shared or (source not in self.shared and target not in self.shared):
            return ends
        candidates = [
            (number, self.shared[name]) if name in self.shared else (number,)
            for name, number in zip((source, target), ends, strict=True)
        ]
        fitting = [pair for pair in product(*candidates) if self._fits(*pair)]
        if len(fitting) > 1:
            return None
        return (fitting[0][0], fitting[0][1]) if fitting else ends

    def _fits(self, source: int, target: int) -> bool:
        """Return whether an effect can run between two nodes: upward, and on no error or token."""
        below, above = self._nodes[source].node, self._nodes[target].node
        if below is None or above is None:
            return True
        if below.kind == "logit" or above.kind == "token" or is_error_kind(above.kind):
            return False
        if above.kind == "logit":
            return True
        generic = self._nodes[source].is_generic or self._nodes[target].is_generic
        return below.layer < above.layer or (below.layer == above.layer and generic)


def read_links(listed: list[Any], nodes: Sequence[ExternalNode], name: str) -> Links:
    """Read the links of a graph that messages call ``name``.

    Raises :class:`ExternalGraphError` for a damaged link.
    """
    numbers = NodeNumbers(nodes)
    ends = np.empty((len(listed), 2), np.int64)
    weights = np.empty(len(listed), np.float32)
    kept = np.zeros(len(listed), bool)
    missing = 0
    for row, link in enumerate(listed):
        what = f"link {row} of {name}"
        entry = as_object(link, what)
        weights[row] = _weight(entry, what)
        source, target = (as_text(required(entry, k, what), f"{k} of {what}") for k in _ENDS)
        try:
            pair = numbers.link(source, target)
        except KeyError:
            missing += 1
            continue
        if pair is not None:
            ends[row], kept[row] = pair, True
    chosen = np.flatnonzero(kept)
    return Links(
        sources=ends[chosen, 0],
        targets=ends[chosen, 1],
        weights=weights[chosen],
        entries=chosen,
        missing=missing,
        ambiguous=len(listed) - missing - len(chosen),
    )


_ENDS = ("source", "target")


def _weight(entry: Mapping[str, Any], what: str) -> float:
    weight = required(entry, "weight", what)
    if not fits_float32(weight):
        raise ExternalGraphError(
            f"{what} has the weight {short(repr(weight))}, expected a finite number"
        )
    return float(weight)
