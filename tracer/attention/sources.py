"""`Sources`: the complete list of what a value is made of, in a fixed order. No torch.

A graph has nodes for features, errors and tokens. The rest is here, too, so that the contributions
of all sources add up to the value that they explain.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from tracer.graph.graph import AttributionGraph
from tracer.graph.nodes import IntArray, NodeIndex
from tracer.types import FeatureId, NodeId

SourceKind = Literal["feature", "error", "token", "position", "start", "bias"]


class Source(NamedTuple):
    """One source of a value.

    ``feature``, ``error`` and ``token`` are nodes of a graph. ``position`` is a learned position
    embedding, ``start`` what the MLP of a layer writes at the positions that have no features (the
    beginning-of-text token), and ``bias`` the sum of all biases.

    >>> source = Source("start", 2, 0, -1)
    >>> print(source, source.node)
    start-2-0--1 None
    """

    kind: SourceKind
    layer: int
    position: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nothing uses

    @property
    def node(self) -> NodeId | None:
        """The node of a graph that this source is; None for the kinds that have no node."""
        if self.kind in ("feature", "error", "token"):
            return NodeId(self.kind, self.layer, self.position, self.index)
        return None

    def __str__(self) -> str:
        return f"{self.kind}-{self.layer}-{self.position}-{self.index}"


@dataclass(frozen=True)
class Sources:
    """All sources of one prompt, in the order of the columns of a split.

    Features (all active ones), errors and tokens come first, in the order of :class:`NodeIndex`,
    then position embeddings, the writes at the start by layer, and one column for all biases.

    >>> sources = Sources(np.array([[0, 1, 417]]), 1, ("<bos>", " hot"), (1, 52))
    >>> [str(sources[column]) for column in (0, 1, 3, 5, 7, 8)]
    ['feature-0-1-417', 'error-0-0--1', 'token--1-0-1', 'position--1-0--1', 'start-0-0--1',
     'bias--1--1--1']
    >>> len(sources), sources.column(Source("token", -1, 1, 52))
    (9, 4)
    """

    features: IntArray
    """``(n_active, 3)``: layer, position, feature of every active feature, ascending."""
    n_layers: int
    tokens: tuple[str, ...]
    token_ids: tuple[int, ...]

    @cached_property
    def _index(self) -> NodeIndex:
        return NodeIndex(self.features, self.n_layers, self.token_ids, ())

    def __len__(self) -> int:
        return len(self._index) + len(self.token_ids) + self.n_layers + 1

    def __getitem__(self, column: int) -> Source:
        """Return the source of a column; raises ``IndexError`` outside the list."""
        if not 0 <= column < len(self):
            raise IndexError(f"column {column} does not exist: there are {len(self)} sources")
        if column < len(self._index):
            return Source(*self._index.node(column))  # type: ignore[arg-type]
        column -= len(self._index)
        if column < len(self.token_ids):
            return Source("position", -1, column, -1)
        column -= len(self.token_ids)
        if column < self.n_layers:
            return Source("start", column, 0, -1)
        return Source("bias", -1, -1, -1)

    def column(self, source: Source | NodeId) -> int:
        """Return the column of a source; raises ``KeyError`` if it is not in the list."""
        return self._columns[tuple(source)]

    @cached_property
    def _columns(self) -> dict[tuple[object, ...], int]:
        return {tuple(self[column]): column for column in range(len(self))}

    def __contains__(self, source: object) -> bool:
        return isinstance(source, tuple) and source in self._columns

    def columns(self, graph: AttributionGraph) -> IntArray:
        """Return the column of every node of ``graph`` that can be a source, in its order.

        The graph may have expanded only some of the active features.
        """
        n_inner = graph.index.logit_rows.start
        rows = np.arange(n_inner) + (len(self.features) - graph.index.n_features)
        index = {tuple(row): column for column, row in enumerate(self.features.tolist())}
        rows[: graph.index.n_features] = [index[tuple(row)] for row in graph.features.tolist()]
        return rows

    def label(self, column: int) -> str:
        """Return a source in words.

        >>> sources = Sources(np.array([[0, 1, 417]]), 1, ("<bos>", " hot"), (1, 52))
        >>> [sources.label(column) for column in (0, 2, 4, 6, 7, 8)]
        ['L0/417 at hot', 'error of layer 0 at hot', 'token hot', 'position 1',
         'MLP of layer 0 at the start', 'biases']
        """
        source = self[column]
        if source.kind == "bias":
            return "biases"
        if source.kind == "start":
            return f"MLP of layer {source.layer} at the start"
        if source.kind == "position":
            return f"position {source.position}"
        word = self.tokens[source.position].strip() or repr(self.tokens[source.position])
        if source.kind == "token":
            return f"token {word}"
        if source.kind == "error":
            return f"error of layer {source.layer} at {word}"
        return f"{FeatureId(source.layer, source.index)} at {word}"
