"""Rows stored sparse, and their influence, compared with the same on dense matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from dispatch import Float64Refused

import tracer
from tracer.attribution import edge_rows, host_copies
from tracer.attribution.edge_rows import EdgeRows, smallest_kept
from tracer.errors import MemoryLimitError
from tracer.model.model import Model

N_SOURCES, N_FEATURES = 60, 40


def layered(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """Rows of 40 features, ten to a layer, with sources in lower layers; and two target rows."""
    generator = torch.Generator().manual_seed(seed)
    layers = [row // 10 for row in range(N_FEATURES)]
    rows = torch.randn(N_FEATURES, N_SOURCES, generator=generator)
    rows *= torch.rand(N_FEATURES, N_SOURCES, generator=generator) < 0.6
    for row, layer in enumerate(layers):
        rows[row, 10 * layer : N_FEATURES] = 0
    return rows, torch.randn(2, N_SOURCES, generator=generator), layers


def filled(rows: EdgeRows, seed: int = 0) -> EdgeRows:
    """Add the rows of eight features, layers in any order between batches, and of two targets."""
    effects, targets, layers = layered(seed)
    rows.add_targets(torch.tensor([60, 61]), targets, torch.tensor([0.7, 0.2]))
    for part in ([31, 39, 25], [26, 18, 12, 7, 3]):
        rows.add_features(torch.tensor(part), [layers[i] for i in part], effects[part])
    return rows


def brute_force_influence(seed: int = 0) -> torch.Tensor:
    """Influence of every source over the rows of :func:`filled`, path length by path length."""
    effects, targets, _ = layered(seed)
    known = [3, 7, 12, 18, 25, 26, 31, 39]
    shares = torch.zeros(N_SOURCES, N_SOURCES, dtype=torch.float64)
    shares[known] = effects[known].abs().double()
    shares /= shares.sum(dim=1, keepdim=True).clamp(min=1e-8)
    start = targets.abs().double() / targets.abs().double().sum(dim=1, keepdim=True)
    influence = current = torch.tensor([0.7, 0.2], dtype=torch.float64) @ start
    while current.any():
        current = current @ shares
        influence = influence + current
    return influence


def test_influence_in_one_pass_is_the_sum_over_all_paths() -> None:
    influence = filled(EdgeRows(N_SOURCES)).influence()
    assert torch.allclose(influence.double(), brute_force_influence(), atol=1e-6)


def renumbering() -> tuple[list[int], np.ndarray]:
    """The features of :func:`filled` in order, and their rows in the graph."""
    kept = [3, 7, 12, 18, 25, 26, 31, 39]
    row_of = np.full(62, -1)
    row_of[kept] = np.arange(8)
    row_of[N_FEATURES:] = np.arange(8, 30)
    return kept, row_of


def test_rows_come_out_in_order_without_dropped_sources() -> None:
    effects, targets, _ = layered(1)
    kept, row_of = renumbering()
    indptr, sources, weights = filled(EdgeRows(N_SOURCES), seed=1).to_csr(row_of)
    dense = np.zeros((30, 30), np.float32)
    dense[np.repeat(np.arange(30), np.diff(indptr)), sources] = weights
    columns = [*kept, *range(N_FEATURES, N_SOURCES)]
    assert np.array_equal(dense[:8, :28], effects[kept][:, columns].numpy())
    assert np.array_equal(dense[28:, :28], targets[:, columns].numpy())
    for row in range(30):
        assert (np.diff(sources[indptr[row] : indptr[row + 1]]) > 0).all()


SHAPES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "log-normal": lambda noise: noise.exp() * noise.sign(),
    "many orders of magnitude": lambda noise: (20 * noise).exp(),
    "tiny": lambda noise: noise * 1e-30,
    "huge": lambda noise: noise * 1e30,
    "one large among equals": lambda noise: torch.ones_like(noise).index_fill_(
        1, torch.tensor([5]), 300.0
    ),
}


@pytest.mark.parametrize("share", [0.5, 0.9, 0.999, 0.9999999])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_shortened_row_carries_its_share_in_its_strongest_entries(
    shape: str, share: float
) -> None:
    rows = SHAPES[shape](torch.randn(8, 3000, generator=torch.Generator().manual_seed(2)))
    with Float64Refused():
        limit = smallest_kept(rows.abs(), share)
    kept = rows.abs() >= limit[:, None]
    magnitude = rows.abs().double()
    total = magnitude.sum(dim=1)
    carried = (magnitude * kept).sum(dim=1) / total
    assert (carried >= share).all()
    # One class of magnitudes less would not do. A class is at most 1/128 wide, and numbers are
    # rounded to 2**-40 of the largest entry.
    fewer = magnitude * (magnitude >= limit[:, None].double() * (1 + 1 / 64))
    slack = 3000 * magnitude.amax(dim=1) * 2.0**-39 + total * 2e-6
    assert (fewer.sum(dim=1) <= share * total + slack).all()

    stored = EdgeRows(3000, share)
    stored.add_features(torch.arange(8), [1] * 8, rows)
    assert stored.dropped == pytest.approx(float((1 - carried).max()), abs=1e-5)
    block = stored._stored[0].host
    assert block.counts.tolist() == kept.sum(1).tolist()
    assert torch.allclose(block.totals, rows.abs().sum(1)), "influence is divided by the total"


def test_rows_without_any_effect_can_be_shortened() -> None:
    """The largest loss of no rows at all used to be an error."""
    stored = EdgeRows(10, share=0.9)
    stored.add_features(torch.arange(2), [1, 1], torch.zeros(2, 10))
    assert stored.dropped == 0.0 and stored.n_bytes == 0


def test_too_many_rows_stop_the_trace_with_the_numbers() -> None:
    effects, _, layers = layered()
    stored = EdgeRows(N_SOURCES, limit=4000)
    with pytest.raises(MemoryLimitError, match=r"20 rows.* than the 4\.0 kB .* to 10 or less"):
        for start in range(N_FEATURES - 10, -1, -10):
            part = torch.arange(start, start + 10)
            stored.add_features(part, [layers[i] for i in part], effects[part])


class Event:
    """A copy that arrives when it is waited for, and not before."""

    def __init__(self, fill: Callable[[], None]) -> None:
        self.synchronize = fill


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Treat the CPU as a device whose copies are under way until their event is waited for.

    Returns a list that records copies as they start and arrive.
    """
    log: list[str] = []
    copy = torch.Tensor.copy_
    under_way: list[tuple[torch.Tensor, torch.Tensor]] = []

    def copy_later(target: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> Any:
        if not non_blocking:
            return copy(target, source)
        under_way.append((target, source.clone()))
        log.append("start")
        return target

    def recorded_event(device: torch.device) -> Event:
        target, source = under_way.pop()

        def arrive() -> None:
            copy(target, source)
            log.append("arrive")

        return Event(arrive)

    monkeypatch.setattr(torch.Tensor, "copy_", copy_later)
    monkeypatch.setattr(host_copies, "recorded_event", recorded_event)
    monkeypatch.setattr(
        host_copies, "page_locked", lambda length: torch.empty(length, dtype=torch.int32)
    )
    monkeypatch.setattr(edge_rows, "on_cpu", lambda effects: False)
    return log


@pytest.mark.parametrize("ranking_limit", [0, 10**9, 800])
def test_rows_of_a_gpu_are_copied_while_it_computes(
    accelerator: list[str], ranking_limit: int
) -> None:
    """Ranked on the device, on the CPU, or on the device until there is no more room."""
    rows = filled(EdgeRows(N_SOURCES, ranking_limit=ranking_limit))
    assert accelerator.count("start") == 3, "one copy for each batch"
    assert accelerator.count("arrive") == 1, "two are still under way"
    influence = rows.influence()
    assert torch.allclose(influence.double(), brute_force_influence(), atol=1e-6)
    assert bool(rows._ranking_limit) == (ranking_limit == 10**9)
    expected = filled(EdgeRows(N_SOURCES)).to_csr(renumbering()[1])
    for left, right in zip(rows.to_csr(renumbering()[1]), expected, strict=True):
        assert np.array_equal(left, right)


def test_a_trace_with_rows_from_a_gpu_is_the_same(
    accelerator: list[str], model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    actual = tracer.trace(model, tiny.PROMPT, max_features=20, rank_every=5)
    assert accelerator
    monkeypatch.undo()
    expected = tracer.trace(model, tiny.PROMPT, max_features=20, rank_every=5)
    assert torch.equal(actual.to_dense(), expected.to_dense())


def test_copies_reuse_two_buffers(accelerator: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    allocated: list[int] = []

    def page_locked(length: int) -> torch.Tensor:
        allocated.append(length)
        return torch.empty(length, dtype=torch.int32)

    monkeypatch.setattr(host_copies, "page_locked", page_locked)
    copies, arrived = host_copies.HostCopies(), []
    for number in range(6):
        copies.start(torch.full((10 - number,), number, dtype=torch.int32), arrived.append)
    copies.finish()
    assert [part.tolist() for part in arrived] == [[n] * (10 - n) for n in range(6)]
    assert len([length for length in allocated if length]) == 2
