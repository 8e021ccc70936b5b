"""`NodeIndex`: the one place that knows which row of a graph is which node.

Nodes run features | errors (layer-major) | tokens | logits, so that no other module ever adds an
offset.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tracer.types import NodeId

FloatArray = np.ndarray[tuple[int, ...], np.dtype[np.floating[Any]]]
IntArray = np.ndarray[tuple[int, ...], np.dtype[np.integer[Any]]]


def target_ids(token_ids: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    """Return the id of each logit node, given the tokens of its target.

    A single token gives its vocabulary id; a contrast, a direction or a feature has none, and gets
    a negative number of its own.

    >>> target_ids([(90,), (90, 12), ()])
    (90, -2, -3)
    """
    return tuple(
        tokens[0] if len(tokens) == 1 else -1 - place for place, tokens in enumerate(token_ids)
    )


@dataclass(frozen=True)
class NodeIndex:
    """The one place that knows which row of a graph is which node.

    Rows run: features (in the order of ``features``), errors layer by layer and within a layer
    position by position, tokens by position, logits in the order of the targets.
    """

    features: IntArray
    """``(n_features, 3)``: layer, position, feature."""
    n_layers: int
    token_ids: tuple[int, ...]
    target_ids: tuple[int, ...]
    """Vocabulary id of each logit node; negative, and different, where it is no single token."""

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
    def error_rows(self) -> slice:
        return slice(self.n_features, self.n_features + self.n_layers * self.n_positions)

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
        return self.n_features + layer * self.n_positions + position

    def node(self, row: int) -> NodeId:
        """What row ``row`` stands for; raises ``IndexError`` outside the graph."""
        if not 0 <= row < len(self):
            raise IndexError(f"the graph has {len(self)} nodes, no row {row}")
        if row < self.n_features:
            layer, position, feature = (int(x) for x in self.features[row])
            return NodeId("feature", layer, position, feature)
        if row < self.token_rows.start:
            layer, position = divmod(row - self.n_features, self.n_positions)
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
        """The inverse of :meth:`node`; raises ``KeyError`` when the graph has no such node."""
        return self._rows[node]

    def __contains__(self, node: object) -> bool:
        return node in self._rows

    @cached_property
    def layers(self) -> IntArray:
        """``(n,)`` layer of every row: -1 for tokens, ``n_layers`` for logits."""
        errors = np.repeat(np.arange(self.n_layers), self.n_positions)
        tokens = np.full(self.n_positions, -1)
        logits = np.full(len(self.target_ids), self.n_layers)
        return np.concatenate([self.features[:, 0], errors, tokens, logits]).astype(np.int64)

    @cached_property
    def positions(self) -> IntArray:
        """``(n,)`` token position of every row; logits stand at the last one."""
        errors = np.tile(np.arange(self.n_positions), self.n_layers)
        tokens = np.arange(self.n_positions)
        logits = np.full(len(self.target_ids), self.n_positions - 1)
        return np.concatenate([self.features[:, 1], errors, tokens, logits]).astype(np.int64)
