"""What the screen shows of a pruned graph: which nodes and edges, under which names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np

from charts.drawing import Drawing, DrawnNode
from charts.legend import group_of
from charts.text import (
    activation_text,
    node_name,
    percent,
    place,
    target_number,
    truncate,
)
from tracer.graph.generic import is_error_kind
from tracer.graph.graph import AttributionGraph
from tracer.graph.kinds import kind_name
from tracer.graph.nodes import FloatArray, IntArray
from tracer.graph.pruning import PrunedGraph, without_pruning
from tracer.interchange.notes import unplaced_nodes
from tracer.types import COMPUTED_KINDS, FeatureId, NodeId

DENSE: Final = 0.1
"""Features active on more than this share of tokens count as dense."""


class Neighbour(NamedTuple):
    """A node at the other end of an edge."""

    node: NodeId
    name: str
    weight: float
    """The direct effect."""
    share: float
    """Its part of all absolute weight on that side of the node, 0..1."""
    is_drawn: bool = True
    """Whether the graph draws the edge: it is above the edge threshold and no filter hides it."""


class Side(NamedTuple):
    """One side of a node, its inputs or its outputs."""

    strongest: list[Neighbour]
    total: int
    """How many neighbours the side has."""
    drawn: int
    """How many of those edges the graph draws."""


@dataclass(frozen=True)
class GraphFilter:
    """What a visitor hides of the kept nodes and edges."""

    errors: bool = True
    """Whether error nodes are shown."""
    max_density: float = 1.0
    """Features active on a larger share of tokens than this are hidden; 1 hides none."""
    layers: tuple[int, int] | None = None
    """First and last layer that are shown; None for all."""
    negative_only: bool = False
    """Whether only edges with a negative weight are shown."""
    hidden_kinds: frozenset[str] = frozenset()
    """Kinds of generic nodes that are hidden; error-like ones are hidden with the errors."""


class HiddenCounts(NamedTuple):
    """How many kept nodes each filter hides; a node counts for the first that hides it."""

    errors: int
    layers: int
    dense: int
    kinds: int = 0
    """Nodes of :attr:`GraphFilter.hidden_kinds`."""


@dataclass(frozen=True)
class GraphView:
    """A pruned graph, the names of its features, and what the visitor chose."""

    pruned: PrunedGraph
    names: Mapping[FeatureId, str] = field(default_factory=dict)
    selected: NodeId | None = None
    off: frozenset[NodeId] = frozenset()
    """Edited features; the graph still shows the unedited prompt."""
    pinned: frozenset[NodeId] = frozenset()
    """Nodes in pins or supernodes: always drawn, with a ring, even when pruned."""
    filter: GraphFilter = GraphFilter()
    density: Mapping[FeatureId, float] = field(default_factory=dict)
    """Share of tokens that a feature is active on, where it is known."""

    @cached_property
    def rows(self) -> tuple[int, ...]:
        """Rows of the graph that are drawn: the kept ones that no filter hides, and the choices."""
        index = self.pruned.graph.index
        chosen = (self.selected, *sorted(self.off | self.pinned))
        extra = {index.row(node) for node in chosen if node is not None and node in index}
        shown = (int(row) for row in self.pruned.rows if not self._hidden_by(int(row)))
        return tuple(sorted({*shown, *extra}))

    def _hidden_by(self, row: int) -> str:
        """The filter that hides a row; empty for none."""
        node = self.pruned.graph.index.node(row)
        if node.kind in ("token", "logit"):
            return ""
        if is_error_kind(node.kind) and not self.filter.errors:
            return "errors"
        if node.kind in self.filter.hidden_kinds and node.kind not in COMPUTED_KINDS:
            return "kinds"
        layers = self.filter.layers
        if layers is not None and not layers[0] <= node.layer <= layers[1]:
            return "layers"
        if node.kind == "feature":
            density = self.density.get(node.feature, 0.0)
            return "dense" if density > self.filter.max_density else ""
        return ""

    @cached_property
    def hidden(self) -> HiddenCounts:
        """What the filters hide of the kept nodes."""
        drawn = set(self.rows)
        reasons = [self._hidden_by(int(row)) for row in self.pruned.rows if int(row) not in drawn]
        return HiddenCounts(*(reasons.count(name) for name in HiddenCounts._fields))

    @cached_property
    def selected_row(self) -> int | None:
        index = self.pruned.graph.index
        if self.selected is None or self.selected not in index:
            return None
        return index.row(self.selected)

    def name(self, node: NodeId) -> str:
        """Return what ``node`` is called."""
        return node_name(self.pruned.graph, node, self.names)

    def influence(self, node: NodeId) -> float:
        """Return the share of the paths to the targets that run through ``node``, 0..1."""
        graph = self.pruned.graph
        return float(self._influences[graph.index.row(node)])

    @cached_property
    def _influences(self) -> FloatArray:
        """``(n_nodes,)``: of a logit node, the weight of its target."""
        graph = self.pruned.graph
        total = float(graph.target_weights.sum())
        if not total:
            return np.zeros(graph.n_nodes)
        values = np.array(self.pruned.influence, np.float64)
        logits = graph.index.logit_rows
        values[logits] = graph.target_weights[logits]
        return np.asarray(values / total)

    @cached_property
    def edges(self) -> IntArray:
        """Places, in the graph's arrays, of the edges between drawn nodes.

        Kept edges; of a drawn node that was pruned, all its edges with drawn nodes.
        """
        graph, pruned = self.pruned.graph, self.pruned
        drawn = np.zeros(graph.n_nodes, np.bool_)
        drawn[list(self.rows)] = True
        extra = drawn & ~pruned.node_mask
        shown = pruned.edge_mask.copy()
        if extra.any():
            shown |= extra[graph.rows] | extra[graph.sources]
        shown &= drawn[graph.rows] & drawn[graph.sources]
        if self.filter.negative_only:
            shown &= graph.weights < 0
        return np.asarray(np.flatnonzero(shown))

    @cached_property
    def drawing(self) -> Drawing:
        """The picture of this view, before it has a size."""
        graph, index = self.pruned.graph, self.pruned.graph.index
        number = np.full(graph.n_nodes, -1)
        number[list(self.rows)] = np.arange(len(self.rows))
        nodes = tuple(self._drawn(index.node(row)) for row in self.rows)
        row = self.selected_row
        return Drawing(
            nodes=nodes,
            columns=graph.tokens,
            n_layers=graph.n_layers,
            sources=number[graph.sources[self.edges]],
            targets=number[graph.rows[self.edges]],
            weights=graph.weights[self.edges],
            selected=None if row is None else int(number[row]),
            pinned=frozenset(int(number[index.row(node)]) for node in self.pinned if node in index),
        )

    def _drawn(self, node: NodeId) -> DrawnNode:
        graph = self.pruned.graph
        name, label, where = self.name(node), "", place(graph, node)
        if node.kind == "logit":
            probability = percent(graph.targets[target_number(graph, node)].probability)
            label = f"{truncate(name, 24)} {probability}"
            where += f" · probability {probability}"
        elif node.kind == "feature":
            activation = float(graph.activations[graph.index.row(node)])
            label = name
            where += f" · {node.feature} · activation {activation_text(activation)}"
        elif node.kind not in COMPUTED_KINDS:
            label = "" if is_error_kind(node.kind) else name
            where += f" · {generic_facts(graph, node)}"
        return DrawnNode(
            str(node), node.kind, node.layer, node.position, self.influence(node), name, label,
            where, group_of(node.kind), node in self.off,
        )  # fmt: skip

    def inputs(self, node: NodeId, limit: int | None = 5) -> tuple[Neighbour, ...]:
        """Return the strongest direct effects on ``node`` from drawn nodes.

        Raises ``KeyError`` for a node that the graph does not have.
        """
        row = self.pruned.graph.index.row(node)
        return self._neighbours(self.pruned.graph.rows == row, self.pruned.graph.sources, limit)

    def outputs(self, node: NodeId, limit: int | None = 5) -> tuple[Neighbour, ...]:
        """Return the strongest direct effects of ``node`` on drawn nodes.

        Raises ``KeyError`` for a node that the graph does not have.
        """
        row = self.pruned.graph.index.row(node)
        return self._neighbours(self.pruned.graph.sources == row, self.pruned.graph.rows, limit)

    def _neighbours(
        self, chosen: np.ndarray, others: IntArray, limit: int | None
    ) -> tuple[Neighbour, ...]:
        graph = self.pruned.graph
        edges = np.flatnonzero(chosen)
        total = float(np.abs(graph.weights[edges]).sum())
        drawn = np.zeros(graph.n_nodes, np.bool_)
        drawn[list(self.rows)] = True
        edges = edges[drawn[others[edges]]]
        order = edges[np.argsort(-np.abs(graph.weights[edges]), kind="stable")][:limit]
        is_shown = np.isin(order, self.edges)
        neighbours = []
        for edge, is_drawn in zip(order, is_shown, strict=True):
            node, weight = graph.index.node(int(others[edge])), float(graph.weights[edge])
            share = abs(weight) / total if total else 0.0
            neighbours.append(Neighbour(node, self.name(node), weight, share, bool(is_drawn)))
        return tuple(neighbours)

    def sides(self, limit: int, most: int) -> tuple[Mapping[int, Side], Mapping[int, Side]]:
        """Return the strongest inputs and outputs of every drawn node, each by the node's row.

        The first ``limit`` of what :meth:`inputs` and :meth:`outputs` return for ``most``, and how
        many those are, in one pass over the edges. A node without edges is missing.
        """
        graph, index = self.pruned.graph, self.pruned.graph.index
        drawn = np.zeros(graph.n_nodes, np.bool_)
        drawn[list(self.rows)] = True
        size = np.abs(graph.weights)
        between = np.flatnonzero(drawn[graph.rows] & drawn[graph.sources])
        between = between[np.argsort(-size[between], kind="stable")]
        weights = graph.weights[between].tolist()
        are_shown = np.isin(between, self.edges).tolist()
        found = []
        for ends, others in ((graph.rows, graph.sources), (graph.sources, graph.rows)):
            totals = np.bincount(ends, size, graph.n_nodes)
            sides: dict[int, Side] = {}
            pairs = zip(ends[between].tolist(), others[between].tolist(), strict=True)
            for (row, other), weight, is_shown in zip(pairs, weights, are_shown, strict=True):
                side = sides.setdefault(row, Side([], 0, 0))
                if side.total == most:
                    continue
                if side.total < limit:
                    node, share = index.node(other), abs(weight) / float(totals[row] or 1)
                    entry = Neighbour(node, self.name(node), weight, share, is_shown)
                    side.strongest.append(entry)
                sides[row] = side._replace(total=side.total + 1, drawn=side.drawn + is_shown)
            found.append(sides)
        return found[0], found[1]

    def most_influential(self, limit: int = 8) -> tuple[NodeId, ...]:
        """Return the kept features with the most influence, strongest first.

        Features that only other tools compute count too: generic nodes with a number.
        """
        nodes = [n for n in self.pruned.nodes if is_feature_like(n)]
        return tuple(sorted(nodes, key=lambda n: (-self.influence(n), n))[:limit])


def is_feature_like(node: NodeId) -> bool:
    """Return whether a node is a feature, computed here or by another tool."""
    if node.kind in COMPUTED_KINDS:
        return node.kind == "feature"
    return node.index >= 0 and not is_error_kind(node.kind)


def generic_facts(graph: AttributionGraph, node: NodeId) -> str:
    """Return the kind of a generic node, its number and its activation, as far as published."""
    published = graph.index.generic_node(node)
    facts = kind_name(node.kind)
    if node.index >= 0:
        facts += f" {node.index}"
    if published.activation is not None:
        facts += f" · activation {activation_text(published.activation)}"
    return facts


def shown_sentence(view: GraphView) -> str:
    """Say in one line what of the graph is on the screen, and what hides the rest.

    ``"412 of 693 nodes shown: 201 below the threshold, 80 dense."``
    """
    pruned, graph = view.pruned, view.pruned.graph
    provenance = graph.provenance
    imported = bool(provenance.get("imported")) and not provenance.get("unpruned")
    # a graph that was pruned elsewhere has no other errors than those with an edge
    total = len(without_pruning(graph).rows) if imported else graph.n_nodes
    unplaced = unplaced_nodes(graph)
    total += unplaced
    shown, hidden = len(view.rows), view.hidden
    reasons = [
        (total - unplaced - shown - sum(hidden), "below the threshold"),
        (hidden.errors, "errors"),
        (hidden.layers, "in other layers"),
        (hidden.dense, "dense"),
        (hidden.kinds, "of hidden kinds"),
        (unplaced, "without a layer or position"),
    ]
    parts = [f"{count:,} {reason}" for count, reason in reasons if count > 0]
    unexpanded = graph.n_active_features - graph.index.n_features
    if unexpanded > 0:
        parts.append(f"{unexpanded:,} more active features were not traced")
    text = f"{shown:,} of {total:,} nodes{' of the file' if imported else ''} shown"
    text += f": {', '.join(parts)}." if parts else "."
    kept, drawn = int(pruned.edge_mask.sum()), len(view.edges)
    resting = len(view.drawing.resting)
    if view.filter.negative_only:
        text += f" {drawn:,} of {kept:,} edges are negative."
    elif resting < drawn:
        text += f" {resting:,} of {drawn:,} edges drawn until you select a node."
    return text


def decode_click(event: Mapping[str, object] | None) -> NodeId | None:
    """Return the node of a Plotly selection, or None where no node was hit.

    Takes either ``{"selection": {"points": [{"customdata": …}]}}`` as ``st.plotly_chart`` returns,
    or ``{"node": "feature-2-5-17"}``. Anything else a browser could make up is None.
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
    return node_of(text)


def node_of(text: object) -> NodeId | None:
    """Return the node that a text from the browser names, or None."""
    if not isinstance(text, str):
        return None
    try:
        return NodeId.parse(text)
    except ValueError:
        return None
