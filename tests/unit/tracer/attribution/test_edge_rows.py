"""Rows kept sparse, and their influence, against the same on whole matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tracer.attribution.edge_rows import EdgeRows, _smallest_kept
from tracer.errors import MemoryLimitError

N_SOURCES, N_FEATURES = 60, 40


def layered(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """Rows of 40 features, ten a layer, that only know lower layers; and two target rows."""
    generator = torch.Generator().manual_seed(seed)
    layers = [row // 10 for row in range(N_FEATURES)]
    rows = torch.randn(N_FEATURES, N_SOURCES, generator=generator)
    rows *= torch.rand(N_FEATURES, N_SOURCES, generator=generator) < 0.6
    for row, layer in enumerate(layers):
        rows[row, 10 * layer : N_FEATURES] = 0
    return rows, torch.randn(2, N_SOURCES, generator=generator), layers


def test_influence_in_one_pass_is_the_sum_over_all_paths() -> None:
    rows, targets, layers = layered()
    known, probabilities = [3, 7, 12, 18, 25, 26, 31, 39], torch.tensor([0.7, 0.2])
    stored = EdgeRows(N_SOURCES)
    stored.add_targets(torch.tensor([60, 61]), targets, probabilities)
    for part in ([31, 39, 25], [26, 18, 12, 7, 3]):  # in any order of layers between batches
        stored.add_features(torch.tensor(part), [layers[i] for i in part], rows[part])

    shares = torch.zeros(N_SOURCES, N_SOURCES, dtype=torch.float64)
    shares[known] = rows[known].abs().double()
    shares /= shares.sum(dim=1, keepdim=True).clamp(min=1e-8)
    start = probabilities.double() @ (targets.abs() / targets.abs().sum(1, keepdim=True)).double()
    expected, current = start.clone(), start
    while current.any():
        current = current @ shares
        expected += current
    assert torch.allclose(stored.influence().double(), expected, atol=1e-6)


def test_rows_come_out_in_order_without_the_sources_that_are_dropped() -> None:
    rows, targets, layers = layered(1)
    stored = EdgeRows(N_SOURCES)
    stored.add_targets(torch.tensor([60, 61]), targets, torch.tensor([0.5, 0.5]))
    part = [39, 22, 21, 5]
    stored.add_features(torch.tensor(part), [layers[i] for i in part], rows[part])
    kept = sorted(part)
    row_of = np.full(62, -1)
    row_of[kept] = np.arange(4)
    row_of[N_FEATURES:] = np.arange(4, 26)
    indptr, sources, weights = stored.to_csr(row_of)
    dense = np.zeros((26, 26), np.float32)
    dense[np.repeat(np.arange(26), np.diff(indptr)), sources] = weights
    columns = [*kept, *range(N_FEATURES, N_SOURCES)]
    assert np.array_equal(dense[:4, :24], rows[kept][:, columns].numpy())
    assert np.array_equal(dense[24:, :24], targets[:, columns].numpy())
    for row in range(26):
        assert (np.diff(sources[indptr[row] : indptr[row + 1]]) > 0).all()


@pytest.mark.parametrize("share", [0.5, 0.9, 0.999])
def test_a_shortened_row_keeps_its_strongest_entries_and_its_share(share: float) -> None:
    generator = torch.Generator().manual_seed(2)
    rows = torch.randn(8, 3000, generator=generator).exp() * torch.randn(8, 3000)
    limit = _smallest_kept(rows.abs(), share)
    kept = rows.abs() >= limit[:, None]
    carried = (rows.abs() * kept).sum(1) / rows.abs().sum(1)
    assert (carried >= share).all()
    # A class of magnitudes is an eighth of a power of two and smaller: little more is kept.
    assert (carried < share + 0.02).all()
    stored = EdgeRows(3000, share)
    stored.add_features(torch.arange(8), [1] * 8, rows)
    assert stored.dropped == pytest.approx(float((1 - carried).max()), abs=1e-5)
    piece = stored._by_layer[1][0]
    assert piece.counts.tolist() == kept.sum(1).tolist()
    assert torch.allclose(piece.totals, rows.abs().sum(1)), "influence is shared out over all"


def test_rows_that_outgrow_their_memory_stop_the_work_with_the_numbers() -> None:
    rows, _, layers = layered()
    stored = EdgeRows(N_SOURCES, limit=4000)
    with pytest.raises(MemoryLimitError, match=r"20 rows.*max_features to 10 or less"):
        for start in range(N_FEATURES - 10, -1, -10):
            part = torch.arange(start, start + 10)
            stored.add_features(part, [layers[i] for i in part], rows[part])
