"""`GraphView`: the part of a pruned graph that the figure and the panel show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np

from charts.text import node_name, plural
from tracer.graph.nodes import FloatArray, IntArray
from tracer.graph.pruning import PrunedGraph, without_pruning
from tracer.types import FeatureId, NodeId

STRONGEST_INPUTS: Final = 3
"""Edges drawn into each node while no node is selected."""


class Neighbour(NamedTuple):
    """A node at the other end of an edge: its name, the edge's weight (a direct effect), and the
    edge's share of the absolute weight of all edges on that side."""

    node: NodeId
    name: str
    weight: float
    share: float


@dataclass(frozen=True)
class GraphView:
    """A pruned graph with the names of its features and the visitor's choices."""

    pruned: PrunedGraph
    names: Mapping[FeatureId, str] = field(default_factory=dict)
    selected: NodeId | None = None
    off: frozenset[NodeId] = frozenset()
    """Edited features; the graph still shows the unedited prompt."""
    pinned: frozenset[NodeId] = frozenset()
    """Pinned nodes, in supernodes or not: drawn with a ring, even if below the threshold."""

    @cached_property
    def rows(self) -> tuple[int, ...]:
        """Rows of the drawn nodes: those kept, and those the visitor chose."""
        rows = [int(row) for row in self.pruned.rows]
        index = self.pruned.graph.index
        chosen = (self.selected, *sorted(self.off | self.pinned))
        extra = [n for n in chosen if n is not None and n in index]
        return tuple(sorted({*rows, *(index.row(node) for node in extra)}))

    @cached_property
    def selected_row(self) -> int | None:
        index = self.pruned.graph.index
        if self.selected is None or self.selected not in index:
            return None
        return index.row(self.selected)

    def name(self, node: NodeId) -> str:
        """Return the display name of ``node``."""
        return node_name(self.pruned.graph, node, self.names)

    def influence(self, node: NodeId) -> float:
        """Return the share of the paths to the targets that pass through ``node``, 0..1."""
        graph = self.pruned.graph
        row = graph.index.row(node)
        total = float(graph.target_weights.sum())
        if node.kind == "logit":
            return float(graph.target_weights[row]) / total if total else 0.0
        return float(self.pruned.influence[row]) / total if total else 0.0

    @cached_property
    def edges(self) -> tuple[IntArray, IntArray, FloatArray]:
        """``(sources, targets, weights)`` of the drawn edges, weakest first.

        The strongest inputs of every node, and all edges of the selected node. If that node was
        pruned, its edges are read from the unpruned graph.
        """
        graph, mask = self.pruned.graph, np.zeros(self.pruned.graph.n_edges, np.bool_)
        mask[_strongest_inputs(self.pruned, STRONGEST_INPUTS)] = True
        if self.selected_row is not None:
            mask |= self._own_mask
        chosen = np.flatnonzero(mask)
        chosen = chosen[np.argsort(np.abs(graph.weights[chosen]), kind="stable")]
        return graph.sources[chosen], graph.rows[chosen], graph.weights[chosen]

    @cached_property
    def _own_mask(self) -> np.ndarray:
        """``(n_edges,)`` bool: edges of the selected node with nodes that are drawn."""
        graph, row = self.pruned.graph, self.selected_row
        touches = (graph.rows == row) | (graph.sources == row)
        if self.pruned.node_mask[row]:
            return np.asarray(touches & self.pruned.edge_mask)
        drawn = np.zeros(graph.n_nodes, np.bool_)
        drawn[list(self.rows)] = True
        return np.asarray(touches & drawn[graph.rows] & drawn[graph.sources])

    def inputs(self, node: NodeId, limit: int = 5) -> tuple[Neighbour, ...]:
        """Return the strongest direct effects on ``node`` of drawn nodes.

        Raises ``KeyError`` for a node the graph does not have.
        """
        row = self.pruned.graph.index.row(node)
        return self._neighbours(self.pruned.graph.rows == row, self.pruned.graph.sources, limit)

    def outputs(self, node: NodeId, limit: int = 5) -> tuple[Neighbour, ...]:
        """Return the strongest direct effects of ``node`` on drawn nodes.

        Raises ``KeyError`` for a node the graph does not have.
        """
        row = self.pruned.graph.index.row(node)
        return self._neighbours(self.pruned.graph.sources == row, self.pruned.graph.rows, limit)

    def _neighbours(
        self, chosen: np.ndarray, others: IntArray, limit: int
    ) -> tuple[Neighbour, ...]:
        graph = self.pruned.graph
        where = np.flatnonzero(chosen)
        total = float(np.abs(graph.weights[where]).sum())
        drawn = np.zeros(graph.n_nodes, np.bool_)
        drawn[list(self.rows)] = True
        where = where[drawn[others[where]]]
        order = where[np.argsort(-np.abs(graph.weights[where]), kind="stable")][:limit]
        neighbours = []
        for edge in order:
            node, weight = graph.index.node(int(others[edge])), float(graph.weights[edge])
            share = abs(weight) / total if total else 0.0
            neighbours.append(Neighbour(node, self.name(node), weight, share))
        return tuple(neighbours)

    def most_influential(self, limit: int = 8) -> tuple[NodeId, ...]:
        """Return the most influential kept features, strongest first."""
        nodes = [n for n in self.pruned.nodes if n.kind == "feature"]
        return tuple(sorted(nodes, key=lambda n: (-self.influence(n), n))[:limit])


def _strongest_inputs(pruned: PrunedGraph, limit: int) -> IntArray:
    """Indices of the edges that are among the ``limit`` strongest kept ones into their target."""
    kept = np.flatnonzero(pruned.edge_mask)
    targets = pruned.graph.rows[kept]
    order = np.lexsort((-np.abs(pruned.graph.weights[kept]), targets))
    kept, targets = kept[order], targets[order]
    starts = np.flatnonzero(np.r_[True, targets[1:] != targets[:-1]]) if len(kept) else kept
    rank = np.arange(len(kept)) - np.repeat(starts, np.diff(np.r_[starts, len(kept)]))
    return np.asarray(kept[rank < limit])


def shown_sentence(view: GraphView) -> str:
    """Say how much of the graph is shown, and what is not."""
    pruned, graph = view.pruned, view.pruned.graph
    provenance = graph.provenance
    imported = bool(provenance.get("imported")) and not provenance.get("unpruned")
    # a graph pruned elsewhere has only those error nodes that have an edge
    total = len(without_pruning(graph).rows) if imported else graph.n_nodes
    nodes = len(view.rows)
    text = f"{nodes:,} of {total:,} nodes{' of the file' if imported else ''} shown"
    if nodes < total:
        text += f": {total - nodes:,} below the threshold"
    unexpanded = graph.n_active_features - graph.index.n_features
    if unexpanded > 0:
        text += f". {plural(unexpanded, 'more active feature')} not traced"
    kept, drawn = int(pruned.edge_mask.sum()), len(view.edges[2])
    if drawn < kept:
        rule = f"the {STRONGEST_INPUTS} strongest inputs of each node"
        if view.selected_row is not None:
            rule += " and all edges of the selected node"
        text += f". {drawn:,} of {kept:,} edges drawn: {rule}"
    return text + "."


def decode_click(event: Mapping[str, object] | None) -> NodeId | None:
    """Return the node of a Plotly selection, or None if no node was hit.

    Takes ``{"selection": {"points": [{"customdata": …}]}}``, which ``st.plotly_chart`` returns, or
    ``{"node": "feature-2-5-17"}``. Anything else a browser might send gives None.
    """
    if not isinstance(event, Mapping):
        return None
    text: object = event.get("node")
    selection = event.get("selection")
    if text is None and isinstance(selection, Mapping):
        points = selection.get("points")
        if isinstance(points, Sequence) and points and isinstance(points[0], Mapping):
            text = points[0].get("customdata")
    if isinstance(text, Sequence) and not isinstance(text, str) and text:
        text = text[0]
    if not isinstance(text, str):
        return None
    try:
        return NodeId.parse(text)
    except ValueError:
        return None
