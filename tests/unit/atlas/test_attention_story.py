"""The embedded model: which heads bring the state to the last word, and why they look there."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

import tracer
from tracer.features.lookup import feature_lookup
from tracer.types import FeatureId

PROMPT = "The capital of the state containing Dallas is"
CAPITAL, DALLAS, LAST = 2, 7, 8


@cache
def atlas(transcoders: str) -> tuple[tracer.Model, tracer.AttributionGraph, tracer.HeadSplit]:
    model = tracer.load("atlas", transcoders, device="cpu")
    graph = tracer.trace(model, PROMPT, max_logits=1)
    logit = graph.index.node(graph.index.logit_rows.start)
    return model, graph, tracer.split_by_head(model, graph, logit)


def about_texas(model: tracer.Model, split: tracer.HeadSplit) -> list[int]:
    """Return the columns of the features at Dallas whose label is about Texas."""
    reader = feature_lookup(model.source)
    return [
        column
        for column, (layer, position, feature) in enumerate(split.sources.features.tolist())
        if position == DALLAS and "Texas" in reader.name(FeatureId(layer, feature))
    ]


@pytest.mark.parametrize("transcoders", ["per-layer", "cross-layer"])
def test_heads_bring_texas_from_dallas_to_the_last_word_in_one_step(transcoders: str) -> None:
    model, _, split = atlas(transcoders)
    columns = about_texas(model, split)
    assert len(columns) >= 3 and split.weights[columns].sum() > 1
    none, one, _, _ = split.hop_shares(columns)
    assert none == 0 and one > 0.9
    strongest = split.carried_by(columns)[0]
    assert not strongest.is_direct and strongest.share > 0.15
    moved = split.from_positions(strongest.layer, strongest.head)
    assert int(np.abs(moved).argmax()) == DALLAS


@pytest.mark.parametrize("transcoders", ["per-layer", "cross-layer"])
def test_that_head_looks_at_dallas_because_a_capital_is_asked_for(transcoders: str) -> None:
    """Its strongest pairs ask "capital", and find what is about Dallas or Texas at Dallas."""
    model, graph, split = atlas(transcoders)
    head = split.carried_by(about_texas(model, split))[0]
    why = tracer.explain_attention(model, graph, head.layer, head.head, LAST, DALLAS)
    assert int(why.pattern.argmax()) == DALLAS and why.pattern[DALLAS] > 0.5
    token = why.sources.column(graph.index.node(graph.index.token_rows.start + CAPITAL))
    assert int(np.abs(why.query).argmax()) == token
    strongest = why.pairs(2)
    for pair in strongest:
        assert pair.query == token and pair.weight > 0
        assert why.sources[pair.key].position == DALLAS


@pytest.mark.parametrize("transcoders", ["per-layer", "cross-layer"])
def test_the_splits_of_the_answer_add_up(transcoders: str) -> None:
    _, graph, split = atlas(transcoders)
    size = np.abs(split.weights).sum()
    for sums in (
        split.direct + split.last_head.sum(axis=(0, 1)),
        split.direct + split.first_head.sum(axis=(0, 1)),
        split.hops.sum(axis=0),
    ):
        assert np.abs(sums - split.weights).max() < 1e-5 * size
    assert split.value > 15 and graph.targets[0].label == " Austin"
