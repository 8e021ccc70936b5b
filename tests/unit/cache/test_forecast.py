"""The memory and time of a trace are estimated before it runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from cache import Backend, ModelChoice, TraceRequest, open_backend
from cache.forecast import LONG_TOKENS, Forecast, Paces
from tracer.errors import ModelError

PROMPT = "The capital of the state containing Dallas is"


def test_the_time_is_that_of_earlier_traces_and_the_memory_grows(tmp_path: Path) -> None:
    backend = open_backend(tmp_path, "cpu")
    try:
        request = TraceRequest("The capital of Texas is")
        before = backend.forecast(request).result(60)
        assert before.n_tokens == 6 and before.seconds is None and not before.is_long
        job = backend.trace(TraceRequest(PROMPT))
        graph = job.result(60)
        same = backend.forecast(TraceRequest(PROMPT)).result(60)
        assert same.n_tokens == len(graph.token_ids)
        assert same.seconds is not None and same.seconds <= (job.seconds or 0) + 0.01
        after = backend.forecast(request).result(60)
        assert after.seconds == pytest.approx(same.seconds * (6 / same.n_tokens) ** 2, rel=0.1)
        assert before.n_bytes < after.n_bytes < same.n_bytes
        few = backend.forecast(TraceRequest(PROMPT, max_features=10)).result(60)
        assert few.n_bytes < same.n_bytes and (few.seconds or 0) < same.seconds
        assert not backend.may_take_long(request, 10)
        assert backend.may_take_long(request, 100_000)
    finally:
        backend.close(20)


def test_a_missing_model_is_the_error_of_the_forecast(backend: Backend) -> None:
    request = TraceRequest("a", ModelChoice("missing", "set"))
    with pytest.raises(ModelError):
        backend.forecast(request).result(10)
    assert not backend.may_take_long(request, 10**6)


def test_the_largest_trace_sets_the_pace() -> None:
    paces = Paces()
    paces.note("m", 10, 400, 400, 4.0)
    paces.note("m", 2, 40, 80, 4.0)
    pace = paces.of("m")
    assert pace is not None and pace.expected(10, None) == pytest.approx(4.0)
    paces.note("other", 0, 0, 0, 1.0)
    assert paces.of("other") is None


@pytest.mark.parametrize(
    ("forecast", "is_long"),
    [
        (Forecast(10, 1, 100, 61.0), True),
        (Forecast(10, 1, 100, 59.0), False),
        (Forecast(10, 51, 100, 1.0), True),
        (Forecast(LONG_TOKENS + 1, 1, 100, None), True),
        (Forecast(LONG_TOKENS + 1, 1, 100, 1.0), False),
    ],
)
def test_a_trace_is_long_by_time_or_memory(forecast: Forecast, is_long: bool) -> None:
    assert forecast.is_long is is_long
