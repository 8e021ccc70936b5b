"""Sums over a corpus stay exact without float64."""

from __future__ import annotations

import numpy as np
import torch

from tracer.indexing.statistics import RunningSum

CPU = torch.device("cpu")


def test_rounding_errors_do_not_pile_up() -> None:
    """A plain float32 sum stops growing once a value is below its rounding."""
    generator = torch.Generator().manual_seed(0)
    running, plain, exact = RunningSum((3, 2), CPU), torch.zeros(6), np.zeros(6)
    start = torch.full((6,), 2.0**24)
    for batch in (start, *(torch.rand(6, generator=generator) * 0.3 for _ in range(20_000))):
        index = torch.arange(6)
        running.add(index, batch)
        plain += batch
        exact += batch.numpy().astype(np.float64)
    sums = running.numpy()
    assert sums.shape == (3, 2) and sums.dtype == np.float64
    assert np.abs(sums.ravel() / exact - 1).max() < 1e-8
    assert np.abs(plain.numpy() / exact - 1).max() > 1e-4


def test_values_of_one_index_are_added_up() -> None:
    running = RunningSum((4,), CPU)
    running.add(torch.tensor([1, 3, 1]), torch.tensor([0.5, 2.0, 0.25]))
    running.add(torch.tensor([], dtype=torch.long), torch.tensor([]))
    assert running.numpy().tolist() == [0, 0.75, 0, 2]
