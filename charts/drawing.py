"""What is drawn of a graph, as plain values: nodes, edges, and which edges are drawn at rest.

One form for every picture of a graph: the traced one, and the merged one of a comparison. The
figure (`graph_figure.py`) and the interactive component (`graph_payload.py`) both start from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from charts.graph_layout import GraphLayout, LayoutNode, layout_graph
from tracer.graph.generic import is_error_kind
from tracer.graph.nodes import FloatArray, IntArray

RESTING_EDGES: Final = 140
"""Edges drawn while no node is selected: those with the most flow."""
RESTING_INPUTS: Final = 6
"""Of these, at most so many into one node, or the first answer would take them all."""


@dataclass(frozen=True)
class DrawnNode:
    """One node of a picture."""

    id: str
    """What the browser sends back when the node is clicked."""
    kind: str
    """``feature``, ``error``, ``token``, ``logit``, or any other kind a file brings."""
    layer: int
    position: int
    influence: float
    """Share of the paths to the targets that run through the node, 0..1."""
    name: str
    """What it is called in lists and when it is selected."""
    label: str
    """What may be written next to it at rest; empty for none."""
    place: str
    """Where it is and what it is, in a few words, for the hover text."""
    group: str
    """What its colour shows: its kind, or the side of a comparison."""
    is_off: bool = False
    """A feature that the visitor switched off: drawn hollow."""


@dataclass(frozen=True)
class Drawing:
    """A picture of a graph before it has a size. Edges are parallel arrays over ``nodes``."""

    nodes: tuple[DrawnNode, ...]
    columns: tuple[str, ...]
    """The token of every position."""
    n_layers: int
    sources: IntArray
    targets: IntArray
    weights: FloatArray
    edge_groups: tuple[str, ...] = ()
    """What the colour of every edge shows; empty where it is the sign."""
    selected: int | None = None
    pinned: frozenset[int] = frozenset()
    groups: tuple[tuple[str, str], ...] = ()
    """The groups of nodes that a legend names, each with its name."""

    @cached_property
    def resting(self) -> IntArray:
        """Places of the edges that are drawn while no node is selected, weakest first.

        An edge's flow is its share of its target's absolute input times the target's influence.
        """
        flow = self.flow
        order = np.lexsort((-flow, self.targets))
        ranks = _ranks(self.targets[order])
        few = order[ranks < RESTING_INPUTS]
        strongest = few[np.argsort(-flow[few], kind="stable")][:RESTING_EDGES]
        return np.asarray(strongest[::-1])

    @cached_property
    def shares(self) -> FloatArray:
        """``(n_edges,)``: what part of its target's absolute input an edge is."""
        magnitude = np.abs(self.weights)
        totals = np.bincount(self.targets, magnitude, len(self.nodes))
        return np.asarray(magnitude / np.maximum(totals[self.targets], 1e-12))

    @cached_property
    def flow(self) -> FloatArray:
        """``(n_edges,)``: the influence that runs through each edge."""
        influence = np.array([node.influence for node in self.nodes])
        return np.asarray(self.shares * influence[self.targets])

    def own_edges(self, node: int) -> IntArray:
        """Return the places of a node's edges, weakest first."""
        places = np.flatnonzero((self.sources == node) | (self.targets == node))
        return np.asarray(places[np.argsort(np.abs(self.weights[places]), kind="stable")])

    def layout(self, width: float, height: float, max_names: int = 36) -> GraphLayout:
        """Return where everything is, in a picture of ``width`` times ``height`` pixels."""
        nodes = [
            LayoutNode(n.kind, n.layer, n.position, n.influence, n.label, is_error_kind(n.kind))
            for n in self.nodes
        ]
        keep = set(self.pinned) | ({self.selected} if self.selected is not None else set())
        return layout_graph(nodes, self.columns, self.n_layers, width, height, keep, max_names)


def _ranks(targets: IntArray) -> IntArray:
    """The place of every entry among those of the same target; equal targets are adjacent."""
    if not len(targets):
        return np.zeros(0, np.int64)
    starts = np.flatnonzero(np.r_[True, targets[1:] != targets[:-1]])
    return np.asarray(
        np.arange(len(targets)) - np.repeat(starts, np.diff(np.r_[starts, len(targets)]))
    )
