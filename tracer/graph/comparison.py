"""Two graphs side by side: what they share, and what only one of them has. Data only.

Both graphs' nodes fall into *slots*, the columns of the merged graph: tokens that stand at the same
place in both prompts, by their text or counted from the end. Nodes of one slot that are the same
thing (a feature of one layer, a token, an answer) become one :class:`ComparedNode`.
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
from tracer.types import FeatureId, NodeId, NodeKind

Alignment = Literal["token", "end", "feature"]
Side = Literal["both", "left", "right"]


class Slots(NamedTuple):
    """For every position of either prompt its column, and how many columns there are."""

    left: tuple[int, ...]
    right: tuple[int, ...]
    n_slots: int


@dataclass(frozen=True)
class ComparedNode:
    """One thing in the merged graph, with the kept nodes of either graph that are it.

    ``activation`` is (left, right): the largest of its feature's, looked up in the whole graph, so
    that 0 means inactive there, not merely pruned; NaN for other kinds. ``influence`` is (left,
    right): the share of the paths to the targets that run through its kept nodes, 0..1.
    """

    kind: NodeKind
    layer: int
    slot: int
    index: int
    """The feature's row in its layer, the vocabulary id of a token or logit, -1 for an error."""
    left: tuple[NodeId, ...]
    right: tuple[NodeId, ...]
    activation: tuple[float, float]
    influence: tuple[float, float]

    @property
    def side(self) -> Side:
        """Which graph keeps it."""
        if self.left and self.right:
            return "both"
        return "left" if self.left else "right"

    @property
    def feature(self) -> FeatureId:
        """Raises ``ValueError`` for other kinds."""
        return (self.left or self.right)[0].feature


@dataclass(frozen=True)
class Comparison:
    """Everything of two pruned graphs, merged; edges as parallel arrays over ``nodes``."""

    left: PrunedGraph
    right: PrunedGraph
    alignment: Alignment
    same_dictionary: bool
    """Whether a feature's number means the same in both: the same model and transcoders."""
    slots: Slots
    nodes: tuple[ComparedNode, ...]
    sources: IntArray
    targets: IntArray
    left_weights: FloatArray
    """``(n_edges,)``, 0 where only the right graph keeps the edge."""
    right_weights: FloatArray

    def features(self, side: Side) -> tuple[ComparedNode, ...]:
        """Features of one side, those of most influence in either graph first."""
        found = [n for n in self.nodes if n.kind == "feature" and n.side == side]
        return tuple(sorted(found, key=lambda n: -max(n.influence)))

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The token of every slot; ``left / right`` where they differ."""
        names: list[list[str]] = [[] for _ in range(self.slots.n_slots)]
        for graph, slots in (
            (self.left.graph, self.slots.left),
            (self.right.graph, self.slots.right),
        ):
            for token, slot in zip(graph.tokens, slots, strict=True):
                if token not in names[slot]:
                    names[slot].append(token)
        return tuple(" / ".join(found) for found in names)


def aligned(left: Sequence[str], right: Sequence[str], alignment: Alignment) -> Slots:
    """Columns for the tokens of two prompts, the beginning-of-text tokens always in the first.

    ``token`` keeps equal runs together and puts what replaces what into the same columns;
    ``end`` counts from the end; ``feature`` needs no columns and has those of ``token``.
    """
    if alignment == "end":
        n_slots = max(len(left), len(right))
        ours, theirs = (
            tuple(0 if i == 0 else i + n_slots - len(tokens) for i in range(len(tokens)))
            for tokens in (left, right)
        )
        return Slots(ours, theirs, n_slots)
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
    """Merge two pruned graphs.

    With ``alignment`` ``feature`` a feature counts once, wherever it stands. ``names`` (of the left
    and of the right features) matches features by name rather than number: the only way for two
    transcoder sets, whose features are never the same otherwise; features without a name match
    nothing.

    Raises :class:`ComparisonError` for an alignment that does not exist.
    """
    if alignment not in get_args(Alignment):
        raise ComparisonError(
            f"{alignment!r} is no alignment: expected {', '.join(get_args(Alignment))}"
        )
    same = same_dictionary(left.graph, right.graph)
    slots = aligned(left.graph.tokens, right.graph.tokens, alignment)
    merging = _Merging(alignment, same, slots, names)
    members: dict[Hashable, tuple[list[NodeId], list[NodeId]]] = {}
    for side, pruned in enumerate((left, right)):
        for node in pruned.nodes:
            members.setdefault(merging.key(pruned, side, node), ([], []))[side].append(node)
    nodes = tuple(
        _compared(left, right, merging, same and names is None, ours, theirs)
        for ours, theirs in members.values()
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
    """Whether a feature's number means the same in both graphs."""
    return _dictionary(left) == _dictionary(right)


def _dictionary(graph: AttributionGraph) -> tuple[object, ...]:
    """What gives a feature's number its meaning; graphs of other tools only name their scan."""
    made = graph.provenance
    if "fingerprint" in made:
        return ("traced", made["fingerprint"])
    return ("scan", made.get("scan"), made.get("transcoder_set"))


@dataclass(frozen=True)
class _Merging:
    """Which nodes of the two graphs are the same."""

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
        if self.names is not None:
            name = self.names[side].get(node.feature)
            return ("feature", name, place) if name else ("feature", side, *node)
        own = None if self.same_dictionary else side
        return "feature", own, node.layer, place, node.index


def _compared(
    left: PrunedGraph,
    right: PrunedGraph,
    merging: _Merging,
    by_number: bool,
    ours: list[NodeId],
    theirs: list[NodeId],
) -> ComparedNode:
    some = (ours or theirs)[0]
    side = 0 if ours else 1
    strongest = max(
        [(left, node) for node in ours] or [(right, node) for node in theirs],
        key=lambda entry: _influence(*entry),
    )[1]
    activation = (float("nan"), float("nan"))
    if some.kind == "feature":
        seen = (ours, theirs)
        if by_number:  # pruned away is not inactive: look in the whole graph
            seen = tuple(  # type: ignore[assignment]
                kept or _elsewhere(merging, pruned, at, some, side)
                for at, (kept, pruned) in enumerate(((ours, left), (theirs, right)))
            )
        activation = (_activation(left, seen[0]), _activation(right, seen[1]))
    return ComparedNode(
        kind=some.kind,
        layer=strongest.layer,
        slot=merging.slot(side, strongest),
        index=strongest.index,
        left=tuple(ours),
        right=tuple(theirs),
        activation=activation,
        influence=(
            sum(_influence(left, node) for node in ours),
            sum(_influence(right, node) for node in theirs),
        ),
    )


def _elsewhere(
    merging: _Merging, pruned: PrunedGraph, side: int, node: NodeId, from_side: int
) -> list[NodeId]:
    """Nodes of the whole graph, kept or not, that are the same as another graph's ``node``."""
    features = pruned.graph.index.features
    rows = np.flatnonzero((features[:, 0] == node.layer) & (features[:, 2] == node.index))
    found = [pruned.graph.index.node(int(row)) for row in rows]
    if merging.alignment == "feature":
        return found
    slot = merging.slot(from_side, node)
    return [other for other in found if merging.slot(side, other) == slot]


def _activation(pruned: PrunedGraph, nodes: Sequence[NodeId]) -> float:
    rows = [pruned.graph.index.row(node) for node in nodes]
    made = pruned.graph.provenance
    if not rows and made.get("imported") and not made.get("unpruned"):
        return float("nan")  # it may have been active, and pruned before it came here
    return float(max(pruned.graph.activations[rows], default=0.0))


def _influence(pruned: PrunedGraph, node: NodeId) -> float:
    graph = pruned.graph
    row, total = graph.index.row(node), float(graph.target_weights.sum())
    share = graph.target_weights[row] if node.kind == "logit" else pruned.influence[row]
    return float(share) / total if total else 0.0
