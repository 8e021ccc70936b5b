"""A trace plans its memory before it spends it; what the plan changes is speed, not numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import tiny
import torch

import tracer
from tracer.attribution import memory, source_vectors
from tracer.attribution.backward import FrozenBackward
from tracer.attribution.frozen import frozen_pass
from tracer.errors import Cancelled, MemoryLimitError, NoActiveFeaturesError
from tracer.model.model import Model


def planned(model: Model, wanted: int, limit: int | None) -> memory.MemoryPlan:
    direct = FrozenBackward(model, frozen_pass(model, model.encode(tiny.PROMPT)))
    return memory.plan_walks(direct, 10, wanted, 256, limit)


def test_a_prompt_whose_forward_pass_would_not_fit_is_refused(model: Model) -> None:
    with pytest.raises(MemoryLimitError, match=r"forward pass of 6 tokens needs about [\d.]+ kB"):
        tracer.trace(model, tiny.PROMPT, memory_limit=1000)
    needed = [memory.check_forward(model, n, 2**40) for n in (100, 200, 400)]
    assert 2 < needed[1] / needed[0] < needed[2] / needed[1] < 4, "patterns grow with the square"


def test_more_rows_than_memory_names_how_many_would_fit(model: Model) -> None:
    with pytest.raises(MemoryLimitError, match=r"set max_features to (\d+) or less") as refused:
        planned(model, 10_000, 2**20)
    most = int(str(refused.value).split("max_features to ")[1].split()[0].replace(",", ""))
    assert planned(model, most, 2**20).total <= 2**20


def test_little_memory_means_small_batches_and_the_same_graph(
    open_tiny: Callable[..., Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ("transcoder_set", "cross_layer_transcoder"):
        model = open_tiny("gemma2", kind=kind)  # its norm behind the MLP is part of the sources
        whole = tracer.trace(model, tiny.PROMPT)
        room = planned(model, whole.index.n_features, None)
        assert room.keep_sources and room.batch_size > 48
        limit = room.rows + int(2.9 * room.sources)
        short = planned(model, whole.index.n_features, limit)
        assert not short.keep_sources and short.batch_size < 48
        tight = tracer.trace(model, tiny.PROMPT, memory_limit=limit)
        assert torch.allclose(tight.to_dense(), whole.to_dense(), atol=1e-5)
        with monkeypatch.context() as patch:  # sources laid out a position or two at a time
            patch.setattr(source_vectors, "VALUES_AT_ONCE", 1200)
            piecewise = tracer.trace(model, tiny.PROMPT, memory_limit=limit)
        assert torch.allclose(piecewise.to_dense(), whole.to_dense(), atol=1e-5)


def test_long_rows_keep_what_carries_them_and_say_what_they_dropped(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tracer.trace(model, tiny.PROMPT)
    monkeypatch.setattr(memory, "WHOLE_ROWS", 0)
    monkeypatch.setattr(memory, "LONG_ROW_SHARE", 0.9)
    short = tracer.trace(model, tiny.PROMPT)
    assert whole.dropped_weight == 0.0
    assert 0.02 < short.dropped_weight <= 0.1
    before, after = whole.to_dense(), short.to_dense()
    assert ((after == 0) | torch.isclose(after, before)).all()
    lost = 1 - after.abs().sum(1) / before.abs().sum(1).clamp(min=1e-9)
    lost = lost[before.abs().sum(1) > 0]
    assert float(lost.max()) == pytest.approx(short.dropped_weight, abs=1e-5)
    dropped = torch.where(after == 0, before.abs(), 0).amax(1)
    kept = torch.where(after != 0, after.abs(), torch.inf).amin(1)
    assert (dropped <= kept).all(), "the strongest stay"


def test_offloaded_weights_are_not_missed_and_come_back(model: Model) -> None:
    whole = tracer.trace(model, tiny.PROMPT)
    sizes: list[int] = []
    parameters = list(model.bridge._bridge.parameters())

    def watch(done: int, total: int, what: str) -> None:
        sizes.append(sum(p.numel() for p in parameters))

    away = tracer.trace(model, tiny.PROMPT, offload=True, progress=watch)
    all_of_them = sum(p.numel() for p in parameters)
    assert max(sizes) < 0.5 * all_of_them, "most weights rest elsewhere while the walks run"
    assert torch.equal(away.to_dense(), whole.to_dense())
    assert torch.equal(tracer.trace(model, tiny.PROMPT).to_dense(), whole.to_dense())

    def stop(done: int, total: int, what: str) -> None:
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        tracer.trace(model, tiny.PROMPT, offload=True, progress=stop)
    assert sum(p.numel() for p in parameters) == all_of_them


def test_a_prompt_on_which_nothing_is_active_is_named(model: Model) -> None:
    with pytest.raises(NoActiveFeaturesError, match="these 1 tokens"):
        tracer.trace(model, [1])
