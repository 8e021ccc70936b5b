"""An order of the nodes in which every effect runs forward.

In a graph that this library traces the layers are such an order. Generic nodes add effects within a
layer, such as those of a layer's attention features on its MLP features at the same or a later
position, and nobody can say in advance where the kinds of tomorrow belong. So where there are
generic nodes the order comes from the effects themselves.
"""

from __future__ import annotations

import numpy as np

from tracer.graph.nodes import BoolArray, IntArray, NodeIndex


def node_depths(n_nodes: int, rows: IntArray, sources: IntArray) -> IntArray:
    """Return ``(n_nodes,)``: the number of effects on the longest path that ends at each node.

    Every effect runs from a smaller depth to a larger one. ``rows`` and ``sources`` are the targets
    and sources of the effects; the time is linear in their number. Nodes on a circle, and nodes
    that a circle has effects on, get -1.

    >>> node_depths(4, rows=np.array([1, 2, 2, 3]), sources=np.array([0, 0, 1, 2])).tolist()
    [0, 1, 2, 3]
    >>> node_depths(3, rows=np.array([1, 2]), sources=np.array([2, 1])).tolist()
    [0, -1, -1]
    """
    by_source = np.argsort(sources, kind="stable")
    targets = rows[by_source]
    starts = np.searchsorted(sources[by_source], np.arange(n_nodes + 1))
    waiting = np.bincount(rows, minlength=n_nodes)
    depths = np.full(n_nodes, -1, np.int64)
    ready, depth = np.flatnonzero(waiting == 0), 0
    while len(ready):
        depths[ready] = depth
        counts = starts[ready + 1] - starts[ready]
        ends = np.cumsum(counts)
        within = np.arange(ends[-1]) - np.repeat(ends - counts, counts)
        reached = targets[np.repeat(starts[ready], counts) + within]
        np.subtract.at(waiting, reached, 1)
        reached = np.unique(reached)
        ready, depth = reached[waiting[reached] == 0], depth + 1
    return depths


def on_a_circle(depths: IntArray, rows: IntArray, sources: IntArray) -> int:
    """Return a node on a circle of effects, by its row; -1 where there is no circle.

    >>> rows, sources = np.array([1, 2, 0]), np.array([2, 1, 1])
    >>> on_a_circle(node_depths(3, rows, sources), rows, sources)
    1
    """
    left = depths < 0
    if not left.any():
        return -1
    chosen = left[rows] & left[sources]
    source_of: dict[int, int] = dict(
        zip(rows[chosen].tolist(), sources[chosen].tolist(), strict=True)
    )
    seen: set[int] = set()
    row = min(source_of)
    while row not in seen:  # every node that is left has a source that is left
        seen.add(row)
        row = source_of[row]
    return row


def runs_backward(index: NodeIndex, rows: IntArray, sources: IntArray) -> BoolArray:
    """Return ``(n_edges,)`` whether each effect runs to a lower layer, or stays in its layer.

    Only effects of or on generic nodes may stay in a layer.

    >>> index = NodeIndex(np.array([[0, 0, 7], [1, 0, 9]]), 2, (1,), (90,))
    >>> runs_backward(index, rows=np.array([1, 0]), sources=np.array([0, 0])).tolist()
    [False, True]
    """
    below, above = index.layers[sources], index.layers[rows]
    if not index.generic:
        return np.asarray(below >= above)
    generic = np.zeros(len(index), bool)
    generic[index.generic_rows] = True
    return np.asarray((below > above) | ((below == above) & ~(generic[rows] | generic[sources])))
