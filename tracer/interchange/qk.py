"""QK tracing of a published graph: which nodes made an attention feature attend where it does.

Some nodes have ``qk_tracing_results``: pairs of a query source and a key source, and the strongest
sources of either side alone. A source that was pruned from the graph is described in the file's
``qk_only_nodes``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from tracer.errors import ExternalGraphError
from tracer.graph.generic import OutsideNode, QkPair, QkResults, QkShare, QkTracing
from tracer.graph.nodes import NodeIndex
from tracer.interchange.graph_json import ExternalGraph
from tracer.interchange.labels import files_label
from tracer.interchange.placing import place_in, places_by_id
from tracer.interchange.published_nodes import read_node, unused
from tracer.interchange.strict_json import fits_float32
from tracer.types import NodeId

RESULTS: Final = "qk_tracing_results"
OUTSIDE: Final = "qk_only_nodes"
PAIRS: Final = "pair_wise_contributors"
QUERIES: Final = "top_q_marginal_contributors"
KEYS: Final = "top_k_marginal_contributors"


@dataclass(frozen=True)
class ReadQk:
    """The QK tracing of a file, and how many entries of it could not be read."""

    results: QkResults
    unreadable: int
    """Entries that are damaged, or name a node that the file does not describe."""


def read_qk(external: ExternalGraph, index: NodeIndex, places: Sequence[NodeId | None]) -> ReadQk:
    """Return the QK tracing of a published graph.

    ``index`` is the node order of the graph it becomes, ``places`` has the place of each node in
    it.
    """
    entries = zip(external.nodes, places, strict=True)
    traced = [(node, entry.stored[RESULTS]) for entry, node in entries if RESULTS in entry.stored]
    if not traced:
        return ReadQk(QkResults(), 0)
    reader = _Reader(external, index)
    tracings = {node: reader.tracing(stored) for node, stored in traced if node is not None}
    outside = (entry for entry in reader.outside.values() if entry is not None)
    return ReadQk(QkResults(tracings, tuple(outside)), reader.unreadable)


class _Reader:
    def __init__(self, external: ExternalGraph, index: NodeIndex) -> None:
        self._index = index
        self._places = places_by_id(external)
        described = external.other.get(OUTSIDE)
        self._described: Mapping[str, Any] = described if isinstance(described, Mapping) else {}
        self._taken = {node.node for node in index.generic}
        self.outside: dict[str, OutsideNode | None] = {}
        self.unreadable = 0

    def tracing(self, stored: Any) -> QkTracing:
        if not isinstance(stored, Mapping):
            self.unreadable += 1
            return QkTracing()
        pairs = self._entries(stored.get(PAIRS), 2)
        queries, keys = (self._entries(stored.get(side), 1) for side in (QUERIES, KEYS))
        return QkTracing(
            tuple(QkPair(query, key, weight) for (query, key), weight in pairs),
            tuple(QkShare(node, weight) for (node,), weight in queries),
            tuple(QkShare(node, weight) for (node,), weight in keys),
        )

    def _entries(self, stored: Any, n_nodes: int) -> list[tuple[list[NodeId], float]]:
        """Read lists of ids and an attribution; what is damaged is counted and left out."""
        if stored is not None and not isinstance(stored, list):
            self.unreadable += 1
        read = []
        for entry in stored if isinstance(stored, list) else ():
            complete = isinstance(entry, list) and len(entry) == n_nodes + 1
            nodes = [self._node(name) for name in entry[:-1]] if complete else []
            known = [node for node in nodes if node is not None]
            if len(known) == n_nodes and fits_float32(entry[-1]):
                read.append((known, float(entry[-1])))
            else:
                self.unreadable += 1
        return read

    def _node(self, name: Any) -> NodeId | None:
        if not isinstance(name, str):
            return None
        node = self._places.get(name)
        if node is not None:
            return node
        if name not in self.outside:
            self.outside[name] = self._outside(name)
        entry = self.outside[name]
        return entry.node if entry else self._places.get(name)

    def _outside(self, name: str) -> OutsideNode | None:
        """Return a pruned node; None where the graph has it after all, or it is not described."""
        stored = self._described.get(name)
        if not isinstance(stored, Mapping):
            return None
        try:
            entry = read_node({"node_id": name, **stored}, self._index.n_positions, "the graph")
        except ExternalGraphError:
            return None
        node = entry.node
        if node is not None and entry.is_generic:
            node = unused(node, self._taken)
            self._taken.add(node)
        node = place_in(self._index, node)
        if node is None or node in self._index:  # every error and token is in the graph
            if node is not None:
                self._places[name] = node
            return None
        return OutsideNode(node, entry.kind, name, files_label(entry))


class Ids(Protocol):
    """The published ids of nodes."""

    def __getitem__(self, node: NodeId, /) -> str: ...


def written_qk(tracing: QkTracing, ids: Ids) -> dict[str, Any]:
    """Return a tracing in the form in which it is published."""
    return {
        PAIRS: [[ids[query], ids[key], weight] for query, key, weight in tracing.pairs],
        QUERIES: [[ids[node], weight] for node, weight in tracing.queries],
        KEYS: [[ids[node], weight] for node, weight in tracing.keys],
    }


def named_ids(stored: Any) -> Iterator[str]:
    """Yield the ids that a node's ``qk_tracing_results`` name."""
    sides = (stored.get(side) for side in (PAIRS, QUERIES, KEYS)) if _is_map(stored) else ()
    for entries in sides:
        for entry in entries if isinstance(entries, Sequence) else ():
            if isinstance(entry, list):
                yield from (name for name in entry if isinstance(name, str))


def _is_map(stored: Any) -> bool:
    return isinstance(stored, Mapping)
