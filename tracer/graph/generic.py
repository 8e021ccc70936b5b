"""Nodes that this library does not compute itself, and the QK tracing that comes with some.

Other tools publish graphs with attention features (Lorsa), their errors, biases and more. Such
nodes are kept as they were published and take part in influence, pruning, scores and comparison.
Data only: nothing here knows a file format.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from tracer.types import COMPUTED_KINDS, NodeId, NodeKind

MAX_KIND: Final = 100
"""The most characters in the published name of a kind."""


def is_error_kind(kind: str) -> bool:
    """Return whether nodes of a kind stand for what a replacement model fails to explain.

    A kind is error-like when its published name contains the word "error", the rule by which
    Neuronpedia's front end tells errors from features. A ``lorsa error`` is the output of an
    attention layer minus what its Lorsa features reconstruct, exactly as an MLP error is the
    output of an MLP minus what its transcoder reconstructs. Both are leaves that no feature
    accounts for. Replacement and completeness measure how much of the influence starts at such
    leaves ("Circuit Tracing", Ameisen et al., 2025), so both count as errors there. A ``bias`` does
    not: it is a constant of the model that the replacement model reproduces.

    >>> is_error_kind("lorsa error"), is_error_kind("lorsa"), is_error_kind("bias")
    (True, False, False)
    """
    return "error" in kind.casefold()


@dataclass(frozen=True)
class GenericNode:
    """A node of a kind that only other tools compute, as it was published."""

    kind: str
    """The published ``feature_type``: ``lorsa``, ``lorsa error``, ``bias``, …"""
    layer: int
    """-1 where the node belongs to the embeddings."""
    position: int
    index: int
    """The feature's index in its layer. A negative number where the node has none: it then only
    tells the node from others of its kind, layer and position."""
    id: str
    """The published id, unique in its graph."""
    label: str = ""
    activation: float | None = None

    @property
    def node(self) -> NodeId:
        """The node's id in terms of this library.

        >>> GenericNode("lorsa", 3, 8, 417, "3_lor_417_8").node
        NodeId(kind='lorsa', layer=3, position=8, index=417)
        """
        return NodeId(generic_kind(self.kind), self.layer, self.position, self.index)

    @property
    def is_error(self) -> bool:
        """Whether it counts as an error in scores; see :func:`is_error_kind`."""
        return is_error_kind(self.kind)


def generic_kind(published: str) -> NodeKind:
    """Return the kind of a :class:`NodeId` for a published ``feature_type``.

    It is the published name, except where that is empty or a word this library uses in another
    sense.

    >>> generic_kind("lorsa"), generic_kind("feature"), generic_kind("")
    ('lorsa', 'other feature', 'unknown')
    """
    return f"other {published}" if published in COMPUTED_KINDS else published or "unknown"


class QkPair(NamedTuple):
    """What a query source and a key source together add to an attention score."""

    query: NodeId
    key: NodeId
    attribution: float


class QkShare(NamedTuple):
    """What one source adds to an attention score, on the query side or on the key side."""

    node: NodeId
    attribution: float


@dataclass(frozen=True)
class QkTracing:
    """What made one attention feature attend where it does, the strongest contributors only."""

    pairs: tuple[QkPair, ...] = ()
    queries: tuple[QkShare, ...] = ()
    """Marginal contributions to the query side."""
    keys: tuple[QkShare, ...] = ()
    """Marginal contributions to the key side."""

    @property
    def nodes(self) -> frozenset[NodeId]:
        """Every node that is named.

        >>> token, bias = NodeId("token", -1, 0, 2), NodeId("bias", 0, 1, -1)
        >>> QkTracing((QkPair(bias, token, 0.5),)).nodes == {token, bias}
        True
        """
        shares = (*self.queries, *self.keys)
        pairs = (end for pair in self.pairs for end in (pair.query, pair.key))
        return frozenset((*pairs, *(share.node for share in shares)))


@dataclass(frozen=True)
class OutsideNode:
    """A node that QK tracing names although it was pruned from the graph."""

    node: NodeId
    kind: str
    """The published ``feature_type``."""
    id: str
    label: str = ""


@dataclass(frozen=True)
class QkResults:
    """The QK tracing of a graph: by attention feature, and the nodes only it names.

    >>> bool(QkResults())
    False
    """

    tracings: Mapping[NodeId, QkTracing] = field(default_factory=dict)
    outside: tuple[OutsideNode, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.tracings)
