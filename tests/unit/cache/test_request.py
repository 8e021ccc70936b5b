"""Digests: equal for equal requests, different for every change that matters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cache import InterveneRequest, ModelChoice, ScenarioRequest, TraceRequest
from cache.request import (
    graph_key,
    identity,
    intervene_digest,
    scenarios_digest,
    token_digest,
    trace_digest,
    warm_digest,
)
from tracer.catalog.resolve import ModelSource
from tracer.types import Intervention

TRACE = TraceRequest("the capital of Texas is")
EDIT = Intervention(layer=1, position=-1, feature=7, value=0.0)
INTERVENE = InterveneRequest("the capital of Texas is", (EDIT,))


def test_equal_requests_have_equal_digests() -> None:
    assert trace_digest("f", TRACE) == trace_digest("f", TraceRequest(TRACE.prompt))
    assert graph_key("f", (1, 2), TRACE) == graph_key("f", [1, 2], TRACE)


@pytest.mark.parametrize(
    "changed",
    [
        replace(TRACE, prompt="the capital of Texas is "),
        replace(TRACE, targets=(" Austin",)),
        replace(TRACE, targets=()),
        replace(TRACE, max_features=100),
        replace(TRACE, force=True),
    ],
)
def test_every_part_of_a_trace_request_changes_its_digest(changed: TraceRequest) -> None:
    assert trace_digest("f", changed) != trace_digest("f", TRACE)


@pytest.mark.parametrize(
    "changed",
    [
        replace(TRACE, targets=(" Austin",)),
        replace(TRACE, max_features=100),
        replace(TRACE, force=True),
    ],
)
def test_every_option_changes_the_key_of_the_graph(changed: TraceRequest) -> None:
    assert graph_key("f", (1, 2), changed) != graph_key("f", (1, 2), TRACE)


def test_different_weights_or_tokens_are_a_different_graph() -> None:
    key = graph_key("f", (1, 2), TRACE)
    assert graph_key("g", (1, 2), TRACE) != key
    assert graph_key("f", (1, 3), TRACE) != key


@pytest.mark.parametrize(
    "changed",
    [
        replace(INTERVENE, prompt="x"),
        replace(INTERVENE, interventions=()),
        replace(INTERVENE, interventions=(replace(EDIT, layer=2),)),
        replace(INTERVENE, interventions=(replace(EDIT, position=-2),)),
        replace(INTERVENE, interventions=(replace(EDIT, feature=8),)),
        replace(INTERVENE, interventions=(replace(EDIT, value=0.5),)),
        replace(INTERVENE, freeze_attention=False),
    ],
)
def test_every_part_of_an_intervention_changes_its_digest(changed: InterveneRequest) -> None:
    assert intervene_digest("f", changed) != intervene_digest("f", INTERVENE)


def test_requests_are_hashable() -> None:
    assert len({TRACE, TraceRequest(TRACE.prompt), INTERVENE, ModelChoice(), ModelChoice()}) == 3


SOURCE = ModelSource("gemma", "scope", Path("m"), Path("t"), fingerprint="0123")


def test_float32_is_identified_by_the_files_alone() -> None:
    """Graphs stored before data types could be chosen keep their key."""
    assert identity(SOURCE, ModelChoice()) == identity(SOURCE, ModelChoice("other", "x")) == "0123"


@pytest.mark.parametrize(
    "digest",
    [
        lambda files: trace_digest(files, TRACE),
        lambda files: graph_key(files, (1, 2), TRACE),
        lambda files: intervene_digest(files, INTERVENE),
        lambda files: scenarios_digest(files, ScenarioRequest("x", ())),
        lambda files: token_digest(files, " Austin"),
        warm_digest,
    ],
)
def test_two_data_types_share_no_digest(digest: Callable[[str], str]) -> None:
    plain, narrow = (identity(SOURCE, ModelChoice(dtype=d)) for d in ("float32", "bfloat16"))
    assert digest(plain) != digest(narrow)
    assert digest(narrow) == digest(identity(SOURCE, ModelChoice(dtype="bfloat16")))


def test_bfloat16_of_different_files_is_different() -> None:
    other = replace(SOURCE, fingerprint="4567")
    narrow = ModelChoice(dtype="bfloat16")
    assert identity(SOURCE, narrow) != identity(other, narrow)
