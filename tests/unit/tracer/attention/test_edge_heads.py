"""Every edge of a pruned graph is split by heads, and heads are described by where they look."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import tiny
from attention_sets import SETS

import tracer
from tracer.attention.edge_heads import EdgeHeads, Habit, habit_of
from tracer.attention.summaries import head_look, node_heads
from tracer.errors import AttentionError, Cancelled
from tracer.graph.nodes import NodeIndex
from tracer.model.model import Model


@pytest.mark.parametrize("transcoders", SETS)
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_the_parts_of_every_kept_edge_add_up(
    open_tiny: Callable[..., Model], architecture: str, transcoders: str
) -> None:
    model = open_tiny(architecture, **SETS[transcoders])
    graph = tracer.trace(model, tiny.IDS, max_logits=2)
    pruned = tracer.prune(graph, 0.6, 0.9)
    heads = tracer.split_edges(model, pruned, max_targets=6)
    kept = np.flatnonzero(pruned.edge_mask & np.isin(graph.rows, heads.targets))
    assert len(heads.weights) == len(kept) > 0
    assert np.array_equal(np.sort(heads.sources), np.sort(graph.sources[kept]))
    size = float(np.abs(heads.weights).max())
    rebuilt = heads.direct + heads.heads.sum(axis=(1, 2))
    assert np.abs(rebuilt - heads.weights).max() < 1e-5 * max(size, 1)


def test_an_edge_is_split_as_its_target_is(open_tiny: Callable[..., Model]) -> None:
    model = open_tiny("llama", **SETS["per-layer"])
    graph = tracer.trace(model, tiny.IDS, max_logits=1)
    heads = tracer.split_edges(model, tracer.prune(graph, 0.5, 0.9))
    edge = int(np.abs(heads.heads).sum(axis=(1, 2)).argmax())
    target = graph.index.node(int(heads.targets[edge]))
    source = graph.index.node(int(heads.sources[edge]))
    split = tracer.split_by_head(model, graph, target)
    column = split.sources.column(source)
    assert np.allclose(heads.heads[edge], split.last_head[:, :, column], atol=1e-6)
    summary = node_heads(split)
    row = summary.row(source)
    assert row is not None and summary.weights[row] == pytest.approx(heads.weights[edge], rel=1e-4)
    for carrier in summary.carried_by(row):
        expected = heads.direct[edge] if carrier.is_direct else heads.heads[
            edge, carrier.layer, carrier.head
        ]  # fmt: skip
        assert carrier.weight == pytest.approx(float(expected), abs=1e-5)
    assert sum(c.weight for c in summary.carried_by()) == pytest.approx(
        split.carried_by()[0].weight + sum(c.weight for c in split.carried_by()[1:]), rel=1e-4
    )


def test_only_the_most_influential_targets_are_split(open_tiny: Callable[..., Model]) -> None:
    model = open_tiny("llama", **SETS["per-layer"])
    graph = tracer.trace(model, tiny.IDS, max_logits=2)
    pruned = tracer.prune(graph)
    everything = tracer.split_edges(model, pruned)
    some = tracer.split_edges(model, pruned, max_targets=3)
    n_targets = len(np.unique(everything.targets))
    assert everything.n_left_out == 0 and some.n_left_out == n_targets - 3
    targets = np.unique(some.targets)
    logits = graph.index.logit_rows
    assert sum(logits.start <= row < logits.stop for row in targets) == 2
    with pytest.raises(AttentionError, match="max_targets is 0"):
        tracer.split_edges(model, pruned, max_targets=0)


def test_splitting_can_be_cancelled(open_tiny: Callable[..., Model]) -> None:
    model = open_tiny("llama", **SETS["per-layer"])
    pruned = tracer.prune(tracer.trace(model, tiny.IDS, max_logits=1))

    def stop(done: int, total: int, what: str) -> None:
        if done == 2:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        tracer.split_edges(model, pruned, progress=stop)


def test_habits_are_recognised() -> None:
    ids = (1, 5, 6, 5, 6)
    previous = habit_of(np.eye(5, k=-1), ids)
    assert previous.name == "previous"
    duplicate, induction = np.zeros((2, 5, 5))
    duplicate[3, 1] = duplicate[4, 2] = 1
    induction[3, 2] = induction[4, 3] = 1
    assert habit_of(duplicate, ids).name == "duplicate"
    assert habit_of(duplicate, ids).duplicate == 1
    assert habit_of(induction, ids).induction == 1
    assert habit_of(np.eye(5), ids).name == "itself"
    resting = np.zeros((5, 5))
    resting[:, 0] = 1
    assert habit_of(resting, ids).name == "first"
    assert habit_of(np.full((5, 5), 0.2), ids).name == ""
    assert math.isnan(habit_of(np.eye(3), (1, 2, 3)).duplicate)


def test_the_work_of_a_head_is_what_it_carried() -> None:
    index = NodeIndex(np.array([[0, 1, 4], [0, 2, 7]]), 1, (1, 5, 6), (9,))
    token, logit = index.token_rows.start + 1, index.logit_rows.start
    habit = Habit(0.1, 0.1, 0.8, float("nan"), float("nan"))
    heads = EdgeHeads(
        index=index,
        sources=np.array([token, 0]),
        targets=np.array([logit, logit]),
        weights=np.array([3.0, 1.0]),
        direct=np.array([0.0, 0.5]),
        heads=np.array([[[2.5, 0.5]], [[-0.25, 0.75]]]),
        habits=((habit, habit),),
    )
    first, second = heads.work()
    assert (first.label, first.carried, first.edges) == ("L0 H0", 2.75, 1)
    assert (second.carried, second.edges) == (1.25, 0)
    assert first.share == pytest.approx(2.75 / 4.5)
    assert (first.origin, first.destination) == (1, 2)
    assert heads.carrier(0) == (0, 0) and heads.carrier(1) is None
    assert heads.edges_of(0, 1).tolist() == [1, 0]


def test_a_look_without_a_key_is_at_the_strongest_one(open_tiny: Callable[..., Model]) -> None:
    model = open_tiny("llama", **SETS["per-layer"])
    why = tracer.explain_attention(model, tiny.IDS, 1, 2, query=5)
    assert why.key_position == int(why.pattern.argmax())
    look = head_look(why)
    assert look.key == why.key_position and len(look.pairs) == 12
    assert look.visible.tolist() == list(range(6))
    assert look.patterns.shape == (len(tiny.IDS), len(tiny.IDS))
    assert np.allclose(look.patterns[5], look.pattern)
    for part in look.looks_for:
        assert part.weight == pytest.approx(float(why.query[why.sources.column(part.source)]))
