"""Compare two graphs: what they share, and what only one of them has. Data only.

The tokens of both prompts are aligned, by their text or from the end; aligned tokens share a
*slot*, a column of the merged graph. Nodes in one slot that are the same thing (a feature of a
layer, a token, a target) become one :class:`ComparedNode`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property
from typing import Literal, NamedTuple, get_args

import numpy as np

from tracer.errors import ComparisonError
from tracer.graph.graph import AttributionGraph
from tracer.graph.nodes import FloatArray, IntArray
from tracer.graph.pruning import PrunedGraph
from tracer.types import COMPUTED_KINDS, FeatureId, NodeId, NodeKind

Alignment = Literal["token", "end", "feature"]
Side = Literal["both", "left", "right"]


class Slots(NamedTuple):
    """The column of every position of either prompt, and the number of columns."""

    left: tuple[int, ...]
    right: tuple[int, ...]
    n_slots: int


@dataclass(frozen=True)
class ComparedNode:
    """A node of the merged graph, with the kept nodes of either graph that it represents.

    ``activation`` is (left, right): the feature's largest, from the unpruned graph, so that 0 means
    inactive, not merely pruned; that of the kept nodes for generic nodes, NaN where it is unknown.
    ``influence`` is (left, right): the share of
    the targets' weight that flows through the kept nodes, 0 to 1.
    """

    kind: NodeKind
    layer: int
    slot: int
    index: int
    """As in a :class:`NodeId`: the feature's index in its layer, the vocabulary id of a token or
    logit, negative for an error and for a generic node that is not a feature."""
    left: tuple[NodeId, ...]
    right: tuple[NodeId, ...]
    activation: tuple[float, float]
    influence: tuple[float, float]

    @property
    def side(self) -> Side:
        """The graph that keeps it, or ``both``."""
        if self.left and self.right:
            return "both"
        return "left" if self.left else "right"

    @property
    def feature(self) -> FeatureId:
        """The feature of a feature node; raises ``ValueError`` for other kinds."""
        return (self.left or self.right)[0].feature


@dataclass(frozen=True)
class Comparison:
    """Two pruned graphs, merged.

    The edges are parallel arrays; ``sources`` and ``targets`` are indices into ``nodes``.

    >>> import tracer
    >>> model = tracer.load("atlas", device="cpu")
    >>> prompts = "The capital of France is", "The capital of Japan is"
    >>> graphs = [tracer.prune(tracer.trace(model, prompt)) for prompt in prompts]
    >>> comparison = tracer.compare_graphs(*graphs)
    >>> len(comparison.features("both")) > 0, len(comparison.features("left")) > 0
    (True, True)
    """

    left: PrunedGraph
    right: PrunedGraph
    alignment: Alignment
    same_dictionary: bool
    """Whether a feature's index means the same in both: the same model and transcoders."""
    slots: Slots
    nodes: tuple[ComparedNode, ...]
    sources: IntArray
    targets: IntArray
    left_weights: FloatArray
    """``(n_edges,)``, 0 where only the right graph keeps the edge."""
    right_weights: FloatArray
    """``(n_edges,)``, 0 where only the left graph keeps the edge."""

    def features(self, side: Side) -> tuple[ComparedNode, ...]:
        """Return the features of one side, the most influential in either graph first."""
        features = [n for n in self.nodes if n.kind == "feature" and n.side == side]
        return tuple(sorted(features, key=lambda n: -max(n.influence)))

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The token of every slot, as ``left / right`` where the two differ."""
        names: list[list[str]] = [[] for _ in range(self.slots.n_slots)]
        for graph, slots in (
            (self.left.graph, self.slots.left),
            (self.right.graph, self.slots.right),
        ):
            for token, slot in zip(graph.tokens, slots, strict=True):
                if token not in names[slot]:
                    names[slot].append(token)
        return tuple(" / ".join(tokens) for tokens in names)


def aligned(left: Sequence[str], right: Sequence[str], alignment: Alignment) -> Slots:
    """Return the columns for the tokens of two prompts.

    ``token`` aligns equal tokens, and the tokens that replace each other between them; ``end``
    counts from the end, except for the beginning-of-text tokens, which share the first column;
    ``feature`` does not need columns and uses those of ``token``.

    >>> aligned(["<bos>", "big", "dog"], ["<bos>", "dog"], "token")
    Slots(left=(0, 1, 2), right=(0, 2), n_slots=3)
    """
    if alignment == "end":
        n_slots = max(len(left), len(right))
        from_left, from_right = (
            tuple(0 if i == 0 else i + n_slots - len(tokens) for i in range(len(tokens)))
            for tokens in (left, right)
        )
        return Slots(from_left, from_right, n_slots)
    at_left, at_right, slot = [0] * len(left), [0] * len(right), 0
    matcher = SequenceMatcher(None, left, right, autojunk=False)
    for _, i, i_end, j, j_end in matcher.get_opcodes():
        for step in range(max(i_end - i, j_end - j)):
            if i + step < i_end:
                at_left[i + step] = slot
            if j + step < j_end:
                at_right[j + step] = slot
            slot += 1
    return Slots(tuple(at_left), tuple(at_right), slot)


def compare_graphs(
    left: PrunedGraph,
    right: PrunedGraph,
    alignment: Alignment = "token",
    names: tuple[Mapping[FeatureId, str], Mapping[FeatureId, str]] | None = None,
) -> Comparison:
    """Merge two pruned graphs into one.

    ``alignment`` is how tokens are matched: ``token`` by their text, ``end`` from the end of the
    prompt; with ``feature`` a feature is one node, whatever its position. ``names`` are labels of
    the left and the right features, to match features by label instead of index. That is the only
    way to match features of two transcoder sets; features without a label then match nothing.

    Raises :class:`tracer.errors.ComparisonError` for an unknown alignment.

    >>> import tracer
    >>> model = tracer.load("atlas")
    >>> hot = tracer.prune(tracer.trace(model, "The opposite of hot is"))
    >>> cold = tracer.prune(tracer.trace(model, "The opposite of cold is"))
    >>> comparison = compare_graphs(hot, cold)
    >>> comparison.columns[-2:]
    (' hot /  cold', ' is')
    >>> {node.side for node in comparison.nodes} == {"both", "left", "right"}
    True
    """
    if alignment not in get_args(Alignment):
        raise ComparisonError(
            f"{alignment!r} is not an alignment, expected {', '.join(get_args(Alignment))}"
        )
    same = same_dictionary(left.graph, right.graph)
    slots = aligned(left.graph.tokens, right.graph.tokens, alignment)
    merging = _Merging(alignment, same, slots, names)
    members: dict[Hashable, tuple[list[NodeId], list[NodeId]]] = {}
    for side, pruned in enumerate((left, right)):
        for node in pruned.nodes:
            members.setdefault(merging.key(pruned, side, node), ([], []))[side].append(node)
    nodes = tuple(
        _compared(left, right, merging, same and names is None, *kept) for kept in members.values()
    )
    numbers = {key: number for number, key in enumerate(members)}
    weights: dict[tuple[int, int], list[float]] = {}
    for side, pruned in enumerate((left, right)):
        place = {
            int(row): numbers[merging.key(pruned, side, node)]
            for row, node in zip(pruned.rows, pruned.nodes, strict=True)
        }
        for source, target, weight in zip(*pruned.edges, strict=True):
            edge = (place[int(source)], place[int(target)])
            weights.setdefault(edge, [0.0, 0.0])[side] += float(weight)
    ends = np.array(list(weights), np.int64).reshape(-1, 2)
    both = np.array(list(weights.values()), np.float64).reshape(-1, 2)
    return Comparison(
        left, right, alignment, same, slots, nodes, ends[:, 0], ends[:, 1], both[:, 0], both[:, 1]
    )


def same_dictionary(left: AttributionGraph, right: AttributionGraph) -> bool:
    """Return whether a feature's index means the same in both graphs.

    >>> import tracer
    >>> graph = tracer.trace(tracer.load("atlas"), "The opposite of hot is")
    >>> other = tracer.trace(tracer.load("atlas", "cross-layer"), "The opposite of hot is")
    >>> same_dictionary(graph, graph), same_dictionary(graph, other)
    (True, False)
    """
    return _dictionary(left) == _dictionary(right)


def _dictionary(graph: AttributionGraph) -> tuple[object, ...]:
    """Return what gives a feature's index its meaning; graphs of other tools only name a scan."""
    provenance = graph.provenance
    if "fingerprint" in provenance:
        return ("traced", provenance["fingerprint"])
    return ("scan", provenance.get("scan"), provenance.get("transcoder_set"))


@dataclass(frozen=True)
class _Merging:
    """The rule for which nodes of the two graphs are the same."""

    alignment: Alignment
    same_dictionary: bool
    slots: Slots
    names: tuple[Mapping[FeatureId, str], Mapping[FeatureId, str]] | None

    def slot(self, side: int, node: NodeId) -> int:
        if node.kind == "logit":
            return self.slots.n_slots - 1
        return (self.slots.right if side else self.slots.left)[node.position]

    def key(self, pruned: PrunedGraph, side: int, node: NodeId) -> Hashable:
        graph = pruned.graph
        anywhere = self.alignment == "feature" and node.kind != "token"
        place = None if anywhere else self.slot(side, node)
        if node.kind == "logit":
            number = graph.index.row(node) - graph.index.logit_rows.start
            return "logit", graph.targets[number].label
        if node.kind == "token":
            return "token", place, graph.tokens[node.position]
        if node.kind == "error":
            return "error", node.layer, place
        if node.kind != "feature":
            return self._generic_key(graph, side, node, place)
        if self.names is not None:
            name = self.names[side].get(node.feature)
            return ("feature", name, place) if name else ("feature", side, *node)
        own = None if self.same_dictionary else side
        return "feature", own, node.layer, place, node.index

    def _generic_key(
        self, graph: AttributionGraph, side: int, node: NodeId, place: int | None
    ) -> Hashable:
        """Return the key of a generic node: by its index, or else by its id without the position.

        A bias, for example, has no index: ``3_bias_attn_bO_8`` and ``3_bias_attn_bO_9`` are one
        bias at two tokens.
        """
        if node.index >= 0:
            own = None if self.same_dictionary else side
            return node.kind, own, node.layer, place, node.index
        published = graph.index.generic_node(node)
        name = "" if published.is_error else published.id.removesuffix(f"_{node.position}")
        return node.kind, node.layer, place, name


def _compared(
    left: PrunedGraph,
    right: PrunedGraph,
    merging: _Merging,
    by_index: bool,
    left_nodes: list[NodeId],
    right_nodes: list[NodeId],
) -> ComparedNode:
    first = (left_nodes or right_nodes)[0]
    side = 0 if left_nodes else 1
    strongest = max(
        [(left, node) for node in left_nodes] or [(right, node) for node in right_nodes],
        key=lambda entry: _influence(*entry),
    )[1]
    activation = (float("nan"), float("nan"))
    if first.kind == "feature":
        active = [left_nodes, right_nodes]
        if by_index:  # a pruned feature is not inactive: look in the unpruned graph
            active = [
                nodes or _matches(merging, pruned, at, first, side)
                for at, (nodes, pruned) in enumerate(((left_nodes, left), (right_nodes, right)))
            ]
        activation = (_activation(left, active[0]), _activation(right, active[1]))
    elif first.kind not in COMPUTED_KINDS:
        activation = (
            _published_activation(left, left_nodes),
            _published_activation(right, right_nodes),
        )
    return ComparedNode(
        kind=first.kind,
        layer=strongest.layer,
        slot=merging.slot(side, strongest),
        index=strongest.index,
        left=tuple(left_nodes),
        right=tuple(right_nodes),
        activation=activation,
        influence=(
            sum(_influence(left, node) for node in left_nodes),
            sum(_influence(right, node) for node in right_nodes),
        ),
    )


def _matches(
    merging: _Merging, pruned: PrunedGraph, side: int, node: NodeId, from_side: int
) -> list[NodeId]:
    """Return the nodes of a graph, kept or not, that are the same as the other graph's ``node``."""
    features = pruned.graph.index.features
    rows = np.flatnonzero((features[:, 0] == node.layer) & (features[:, 2] == node.index))
    candidates = [pruned.graph.index.node(int(row)) for row in rows]
    if merging.alignment == "feature":
        return candidates
    slot = merging.slot(from_side, node)
    return [other for other in candidates if merging.slot(side, other) == slot]


def _activation(pruned: PrunedGraph, nodes: Sequence[NodeId]) -> float:
    rows = [pruned.graph.index.row(node) for node in nodes]
    provenance = pruned.graph.provenance
    if not rows and provenance.get("imported") and not provenance.get("unpruned"):
        return float("nan")  # it may have been active, and pruned before the import
    return float(max(pruned.graph.activations[rows], default=0.0))


def _published_activation(pruned: PrunedGraph, nodes: Sequence[NodeId]) -> float:
    published = (pruned.graph.index.generic_node(node).activation for node in nodes)
    return max((value for value in published if value is not None), default=float("nan"))


def _influence(pruned: PrunedGraph, node: NodeId) -> float:
    graph = pruned.graph
    row, total = graph.index.row(node), float(graph.target_weights.sum())
    share = graph.target_weights[row] if node.kind == "logit" else pruned.influence[row]
    return float(share) / total if total else 0.0
