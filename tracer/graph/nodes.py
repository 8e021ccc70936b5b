"""`NodeIndex`: the only place that knows which row of a graph is which node.

The order is features | generic nodes | errors (layer-major) | tokens | logits. No other module
computes an offset.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tracer.graph.generic import GenericNode
from tracer.types import NodeId

BoolArray = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
FloatArray = np.ndarray[tuple[int, ...], np.dtype[np.floating[Any]]]
IntArray = np.ndarray[tuple[int, ...], np.dtype[np.integer[Any]]]


def target_ids(token_ids: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    """Return the id of each logit node, given the tokens of its target.

    A single token gives its vocabulary id; a contrast, a direction or a feature has none, and gets
    a distinct negative number.

    >>> target_ids([(90,), (90, 12), ()])
    (90, -2, -3)
    """
    return tuple(
        tokens[0] if len(tokens) == 1 else -1 - place for place, tokens in enumerate(token_ids)
    )


@dataclass(frozen=True)
class NodeIndex:
    """The order of the nodes of a graph: which row is which node.

    Features come first, in the order of ``features``, then generic nodes, errors layer by layer and
    position by position, tokens by position, and logits in the order of the targets.

    >>> index = NodeIndex(np.array([[0, 1, 417]]), 2, token_ids=(1, 52), target_ids=(90,))
    >>> [str(index.node(row)) for row in (0, 1, 5, 7)]
    ['feature-0-1-417', 'error-0-0--1', 'token--1-0-1', 'logit-2-1-90']
    >>> index.row(NodeId("logit", 2, 1, 90)), len(index), index.error_rows
    (7, 8, slice(1, 5, None))
    >>> bias = GenericNode("bias", 1, 0, -1, id="1_bias_0")
    >>> index = NodeIndex(index.features, 2, (1, 52), (90,), generic=(bias,))
    >>> index.node(1), index.generic_node(bias.node) is bias
    (NodeId(kind='bias', layer=1, position=0, index=-1), True)
    """

    features: IntArray
    """``(n_features, 3)``: layer, position, feature; ascending."""
    n_layers: int
    token_ids: tuple[int, ...]
    """Vocabulary id of each token of the prompt."""
    target_ids: tuple[int, ...]
    """Vocabulary id of each logit node; a negative number where it is not a single token."""
    generic: tuple[GenericNode, ...] = ()
    """The nodes of kinds that this library does not compute, ascending by layer, position, kind."""

    @property
    def n_features(self) -> int:
        return len(self.features)

    @property
    def n_positions(self) -> int:
        return len(self.token_ids)

    @property
    def feature_rows(self) -> slice:
        return slice(0, self.n_features)

    @property
    def generic_rows(self) -> slice:
        return slice(self.n_features, self.n_features + len(self.generic))

    @property
    def error_rows(self) -> slice:
        start = self.generic_rows.stop
        return slice(start, start + self.n_layers * self.n_positions)

    @property
    def token_rows(self) -> slice:
        start = self.error_rows.stop
        return slice(start, start + self.n_positions)

    @property
    def logit_rows(self) -> slice:
        start = self.token_rows.stop
        return slice(start, start + len(self.target_ids))

    def __len__(self) -> int:
        return int(self.logit_rows.stop)

    def error_row(self, layer: int, position: int) -> int:
        """Return the row of the error node of a layer and position."""
        return int(self.error_rows.start) + layer * self.n_positions + position

    def node(self, row: int) -> NodeId:
        """Return the node of a row; raises ``IndexError`` outside the graph."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} does not exist: the graph has rows 0 to {len(self) - 1}")
        if row < self.n_features:
            layer, position, feature = (int(x) for x in self.features[row])
            return NodeId("feature", layer, position, feature)
        if row < self.error_rows.start:
            return self.generic[row - self.n_features].node
        if row < self.token_rows.start:
            layer, position = divmod(row - self.error_rows.start, self.n_positions)
            return NodeId("error", layer, position, -1)
        if row < self.logit_rows.start:
            position = row - self.token_rows.start
            return NodeId("token", -1, position, self.token_ids[position])
        target = self.target_ids[row - self.logit_rows.start]
        return NodeId("logit", self.n_layers, self.n_positions - 1, target)

    @cached_property
    def _rows(self) -> dict[NodeId, int]:
        return {self.node(row): row for row in reversed(range(len(self)))}

    def row(self, node: NodeId) -> int:
        """Return the row of a node; raises ``KeyError`` when it is not in the graph."""
        return self._rows[node]

    def __contains__(self, node: object) -> bool:
        return node in self._rows

    def generic_node(self, node: NodeId) -> GenericNode:
        """Return what was published about a generic node; raises ``KeyError`` for other nodes."""
        row = self._rows[node] - self.n_features
        if not 0 <= row < len(self.generic):
            raise KeyError(node)
        return self.generic[row]

    @cached_property
    def is_error(self) -> BoolArray:
        """``(n_nodes,)`` whether a row counts as an error in scores: errors of MLPs, and generic
        nodes that are errors too."""
        mask = np.zeros(len(self), bool)
        mask[self.error_rows] = True
        mask[self.generic_rows] = [node.is_error for node in self.generic]
        return mask

    @cached_property
    def layers(self) -> IntArray:
        """``(n_nodes,)`` layer of every row: -1 for tokens, ``n_layers`` for logits."""
        generic = np.array([node.layer for node in self.generic], np.int64)
        errors = np.repeat(np.arange(self.n_layers), self.n_positions)
        tokens = np.full(self.n_positions, -1)
        logits = np.full(len(self.target_ids), self.n_layers)
        parts = [self.features[:, 0], generic, errors, tokens, logits]
        return np.concatenate(parts).astype(np.int64)

    @cached_property
    def positions(self) -> IntArray:
        """``(n_nodes,)`` token position of every row; logits are at the last one."""
        generic = np.array([node.position for node in self.generic], np.int64)
        errors = np.tile(np.arange(self.n_positions), self.n_layers)
        tokens = np.arange(self.n_positions)
        logits = np.full(len(self.target_ids), self.n_positions - 1)
        parts = [self.features[:, 1], generic, errors, tokens, logits]
        return np.concatenate(parts).astype(np.int64)
