"""A trace plans its memory before it spends it. What the plan changes is speed, not numbers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from dispatch import Operations

import tracer
from tracer.attribution import memory, source_vectors
from tracer.attribution.backward import FrozenBackward
from tracer.attribution.frozen import frozen_pass
from tracer.errors import Cancelled, MemoryLimitError, NoActiveFeaturesError
from tracer.model.model import Model
from tracer.transcoders import transcoder

GB = 10**9
KINDS = ("transcoder_set", "cross_layer_transcoder")


Planner = Callable[[int, int | None], memory.MemoryPlan]


def planner(model: Model) -> Planner:
    """Return a function that plans a trace of so many features within a limit."""
    backward = FrozenBackward(model, frozen_pass(model, model.encode(tiny.IDS)))
    return lambda n_expanded, limit: memory.plan_walks(backward, 10, n_expanded, None, limit)


def smallest_limit(
    plan: Planner, n_expanded: int, accept: Callable[[memory.MemoryPlan], bool] = bool
) -> int:
    """Return the least memory, to a kilobyte, with a plan that is accepted."""
    for limit in range(10**5, 10**8, 1000):
        with suppress(MemoryLimitError):
            if accept(plan(n_expanded, limit)):
                return limit
    raise AssertionError("no plan is accepted")


class Scaled(Operations):
    """Collects the sizes of decoder vectors that are scaled by activations."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def saw(self, name: str, result: Any) -> None:
        if name == "mul_" and result.shape[-1] == tiny.D_MODEL:
            self.sizes.append(result.numel())


def test_a_forward_pass_that_would_not_fit_is_refused(model: Model) -> None:
    with pytest.raises(MemoryLimitError, match=r"forward pass of 6 tokens needs about [\d.]+ kB"):
        tracer.trace(model, tiny.PROMPT, memory_limit=1000)
    needed = [memory.check_forward(model, n, 2**40) for n in (200, 400, 800)]
    assert 2 < needed[1] / needed[0] < needed[2] / needed[1] < 4, "patterns grow with the square"


def test_more_rows_than_memory_says_how_many_features_fit(model: Model) -> None:
    plan = planner(model)
    with pytest.raises(MemoryLimitError, match=r"set max_features to (\d+) or less") as refused:
        plan(10_000, 2**20)
    most = int(str(refused.value).split("max_features to ")[1].split()[0].replace(",", ""))
    assert plan(most, 2**20).total <= 2**20


@pytest.mark.parametrize("kind", KINDS)
def test_little_memory_means_small_batches_and_the_same_graph(
    open_tiny: Callable[..., Model], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    model = open_tiny("gemma2", kind=kind)  # its norm after the MLP is part of the sources
    complete = tracer.trace(model, tiny.PROMPT)
    n_features = complete.index.n_features
    plan = planner(model)
    ample = plan(n_features, None)
    assert ample.keep_sources and ample.batch_size == 256
    limit = smallest_limit(plan, n_features, lambda plan: not plan.keep_sources)
    short = plan(n_features, limit)
    assert short.batch_size < 48 and short.total < limit
    tight = tracer.trace(model, tiny.PROMPT, memory_limit=limit)
    assert torch.allclose(tight.to_dense(), complete.to_dense(), atol=1e-5)
    monkeypatch.setattr(source_vectors, "VALUES_AT_ONCE", 1200)  # a position or two at a time
    piecewise = tracer.trace(model, tiny.PROMPT, memory_limit=limit)
    assert torch.allclose(piecewise.to_dense(), complete.to_dense(), atol=1e-5)


@pytest.fixture
def wide() -> Model:
    """Sizes of a model, and the little else that a plan reads, as if it were on a GPU."""
    n_pos, d_model, heads, d_head = 200, 2304, 8, 256
    block: Any = SimpleNamespace(
        W_O=torch.empty(heads, d_head, d_model, device="meta"),
        W_V=torch.empty(4, d_model, d_head, device="meta"),
        attn_norm=None,
        attn_post_norm=None,
    )
    model: Any = SimpleNamespace(
        blocks=[block] * 26,
        n_layers=26,
        device=torch.device("cuda"),
        bridge=SimpleNamespace(d_model=d_model, dtype=torch.float32),
        transcoders=SimpleNamespace(layers=[]),
        forward_is_exact=True,
    )
    n_sources = 50_000
    return SimpleNamespace(  # type: ignore[return-value]
        model=model,
        dtype=torch.float32,
        n_bytes=0,
        frozen=SimpleNamespace(n_positions=n_pos, features=range(45_000), n_bytes=0),
        sources=SimpleNamespace(n_sources=n_sources, n_values=n_sources * d_model),
    )


def test_a_gpu_takes_batches_as_large_as_its_memory(
    wide: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU's limit, which avoids page faults, left a GPU with 48 targets at a time."""
    free = {"cuda": 80 * GB, "mps": 80 * GB, "cpu": 64 * GB}
    monkeypatch.setattr(memory, "available_bytes", lambda device: free[device.type])

    def plan(batch_size: int | None = None) -> memory.MemoryPlan:
        return memory.plan_walks(wide, 10, 4096, batch_size, None)

    assert plan().batch_size == 1024
    assert plan(64).batch_size == 64
    assert plan().ranking_limit == plan().rows, "features are ranked on the device"
    free["cuda"] = 12 * GB
    assert 48 < plan().batch_size < 1024
    assert plan().per_target * plan().batch_size + plan().sources + plan().ranking_limit < 12 * GB
    wide.model.device = torch.device("mps")
    assert plan().ranking_limit == 0
    wide.model.device = torch.device("cpu")
    assert plan().batch_size == 48


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_weights_are_only_copied_where_a_norm_is_folded_into_them(
    open_tiny: Callable[..., Model], architecture: str
) -> None:
    model = open_tiny(architecture, activation="topk", skip=True)
    ids = model.encode(tiny.IDS)
    backward = FrozenBackward(model, frozen_pass(model, ids))
    block, copied = model.blocks[0], 0
    copied += block.W_V.numel() * 4 if block.attn_norm is not None else 0
    copied += block.W_O.numel() * 4 if block.attn_post_norm is not None else 0
    copied += tiny.D_MODEL**2 * 4  # of the skip connection
    assert backward.n_bytes == model.n_layers * copied
    assert memory._copied_for_walks(model, len(ids)) == backward.n_bytes
    assert FrozenBackward(model, frozen_pass(model, ids), reference=True).n_bytes < backward.n_bytes


def test_copied_weights_count_towards_the_limit(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = smallest_limit(planner(model), 20)
    backward = FrozenBackward(model, frozen_pass(model, model.encode(tiny.IDS)))
    heavier = SimpleNamespace(**vars(backward), n_bytes=backward.n_bytes + 20_000)
    with pytest.raises(MemoryLimitError, match="remain after the rows"):
        memory.plan_walks(heavier, 10, 20, None, limit)  # type: ignore[arg-type]
    monkeypatch.setattr(memory, "_copied_for_walks", lambda model, n_pos: GB)
    assert memory.check_forward(model, len(tiny.IDS), 2 * GB) > GB
    with pytest.raises(MemoryLimitError, match="forward pass of 6 tokens"):
        tracer.trace(model, tiny.PROMPT, memory_limit=GB)


def test_an_encoder_is_never_upcast_as_one(
    open_tiny: Callable[..., Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bfloat16 encoder, or one in its file, is read in blocks; the check counts a block."""
    layer = open_tiny().transcoders[1]
    x = torch.randn(5, tiny.D_MODEL, generator=torch.Generator().manual_seed(0))
    assert layer.encoder_block == 0, "nothing to upcast"
    narrow = replace(layer, W_enc=layer.W_enc.bfloat16())
    exact = replace(layer, W_enc=layer.W_enc.bfloat16().float())
    expected = exact.preactivations(x)
    assert narrow.encoder_block == layer.n_features
    monkeypatch.setattr(memory, "_copied_for_walks", lambda model, n_pos: 0)
    monkeypatch.setattr(memory, "DECODER_VALUES_AT_ONCE", 0)
    model = open_tiny()
    layers = tuple(replace(t, W_enc=t.W_enc.bfloat16()) for t in model.transcoders.layers)
    other = Model(model.source, model.bridge, replace(model.transcoders, layers=layers))
    counted = memory.check_forward(other, 4, None) - memory.check_forward(model, 4, None)
    assert counted == 4 * layer.n_features * tiny.D_MODEL
    monkeypatch.setattr(transcoder, "_ENCODER_VALUES_AT_ONCE", 7 * tiny.D_MODEL)
    assert narrow.encoder_block == 7
    largest: list[int] = []
    upcast = torch.Tensor.float

    def float_(tensor: torch.Tensor) -> torch.Tensor:
        largest.append(len(tensor) if tensor.dtype == torch.bfloat16 else 0)
        return upcast(tensor)

    monkeypatch.setattr(torch.Tensor, "float", float_)
    assert torch.allclose(narrow.preactivations(x), expected, atol=1e-6)
    assert max(largest) == 7


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lazy", [False, True])
def test_a_decoder_is_never_copied_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, lazy: bool
) -> None:
    """A long prompt activates nearly all features, and used to copy a layer's decoder."""
    folder = tiny.save_model(tmp_path / "model")
    transcoders = tiny.save_transcoders(tmp_path / "set", kind)
    model = tracer.load(str(folder), str(transcoders), "cpu", lazy_decoders=lazy)
    ids = model.encode(tiny.IDS)
    with Scaled() as unbounded:
        expected = frozen_pass(model, ids).errors
    bound = 2 * tiny.D_MODEL * len(model.transcoders[0].output_layers)
    monkeypatch.setattr(transcoder, "DECODER_VALUES_AT_ONCE", bound)
    with Scaled() as bounded:
        assert torch.allclose(frozen_pass(model, ids).errors, expected, atol=1e-6)
    assert max(bounded.sizes) <= bound < max(unbounded.sizes)


def test_decoder_vectors_that_would_not_fit_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny.save_model(tmp_path / "model")
    transcoders = tiny.save_transcoders(tmp_path / "set", "cross_layer_transcoder")
    lazy = tracer.load(str(folder), str(transcoders), "cpu", lazy_decoders=True)
    frozen = frozen_pass(lazy, tiny.IDS)
    read = sum(v.nbytes for v in FrozenBackward(lazy, frozen).sources.read_vectors)
    assert read > 0
    memory.check_decoders(lazy, frozen, frozen.n_bytes + read)
    with pytest.raises(MemoryLimitError, match=r"decoder vectors of \d+ active features need"):
        memory.check_decoders(lazy, frozen, frozen.n_bytes + read - 1)
    eager = tracer.load(str(folder), str(transcoders), "cpu")
    memory.check_decoders(eager, frozen_pass(eager, tiny.IDS), frozen.n_bytes)
    copied = FrozenBackward(lazy, frozen).n_bytes - FrozenBackward(eager, frozen).n_bytes
    assert copied == read


def test_long_rows_keep_what_carries_them_and_report_what_they_dropped(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete = tracer.trace(model, tiny.PROMPT)
    monkeypatch.setattr(memory, "WHOLE_ROWS", 0)
    monkeypatch.setattr(memory, "LONG_ROW_SHARE", 0.9)
    short = tracer.trace(model, tiny.PROMPT)
    assert complete.dropped_weight == 0.0
    assert 0.02 < short.dropped_weight <= 0.1
    before, after = complete.to_dense(), short.to_dense()
    assert ((after == 0) | torch.isclose(after, before)).all()
    lost = 1 - after.abs().sum(1) / before.abs().sum(1).clamp(min=1e-9)
    lost = lost[before.abs().sum(1) > 0]
    assert float(lost.max()) == pytest.approx(short.dropped_weight, abs=1e-5)
    dropped = torch.where(after == 0, before.abs(), 0).amax(1)
    kept = torch.where(after != 0, after.abs(), torch.inf).amin(1)
    assert (dropped <= kept).all(), "the strongest are kept"


def test_offloaded_weights_are_not_needed_and_come_back(model: Model) -> None:
    complete = tracer.trace(model, tiny.PROMPT)
    sizes: list[int] = []
    parameters = list(model.bridge._bridge.parameters())

    def watch(done: int, total: int, what: str) -> None:
        if what == "direct effects":
            sizes.append(sum(p.numel() for p in parameters))

    offloaded = tracer.trace(model, tiny.PROMPT, offload=True, progress=watch)
    n_values = sum(p.numel() for p in parameters)
    assert max(sizes) < 0.5 * n_values, "most weights are elsewhere during the walks"
    assert torch.equal(offloaded.to_dense(), complete.to_dense())
    assert torch.equal(tracer.trace(model, tiny.PROMPT).to_dense(), complete.to_dense())

    def stop(done: int, total: int, what: str) -> None:
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        tracer.trace(model, tiny.PROMPT, offload=True, progress=stop)
    assert sum(p.numel() for p in parameters) == n_values


def test_a_prompt_without_active_features_is_refused(model: Model) -> None:
    with pytest.raises(NoActiveFeaturesError, match="these 1 tokens"):
        tracer.trace(model, [1])
