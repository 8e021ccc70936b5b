"""A trace reads few single numbers from its device: each one waits for all work given to it."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
from dispatch import Reads

import tracer
from tracer.attribution.frozen import frozen_pass
from tracer.attribution.targets import choose_targets, next_tokens
from tracer.model.model import Model
from tracer.types import Contrast, FeatureTarget


def reads_of_a_trace(model: Model, **options: Any) -> int:
    with Reads() as reads:
        tracer.trace(model, tiny.PROMPT, **options)
    return reads.count


def test_reads_do_not_grow_with_targets_or_features(model: Model) -> None:
    features = [FeatureTarget(*row) for row in tracer.trace(model, tiny.PROMPT).features.tolist()]
    few: list[Any] = ["w3", features[0]]
    many: list[Any] = [*(f"w{i}" for i in range(20)), Contrast("w3", "w4"), *features[:20]]
    assert reads_of_a_trace(model, targets=few) <= 3
    assert reads_of_a_trace(model, targets=many) == reads_of_a_trace(model, targets=few)
    assert reads_of_a_trace(model, max_logits=50) == reads_of_a_trace(model, max_logits=1) <= 3
    assert reads_of_a_trace(model, max_features=5) == reads_of_a_trace(model, max_features=50) <= 3
    assert reads_of_a_trace(model, batch_size=4) <= 3, "nor with batches"


@pytest.mark.parametrize("limit", [1, 50])
def test_next_tokens_are_read_all_at_once(model: Model, limit: int) -> None:
    frozen = frozen_pass(model, model.encode(tiny.PROMPT))
    with Reads() as reads:
        tokens = next_tokens(model, frozen.logits, limit)
        choose_targets(model, frozen, [token.token_id for token in tokens])
    assert len(tokens) == limit and reads.count == 0
