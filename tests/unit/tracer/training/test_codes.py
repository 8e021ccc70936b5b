"""Sparse and dense codes are the same numbers, and so are their gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tracer.training.codes import DenseCode, SparseCode

BATCH, D_MODEL, FEATURES, WIDTH = 37, 8, 21, 12


def tables(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(BATCH, D_MODEL), (FEATURES, D_MODEL), (FEATURES,), (FEATURES, WIDTH)]
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def run(kind: type[SparseCode] | type[DenseCode], threshold: float) -> tuple[Tensor, ...]:
    inputs, encoder, bias, decoder = tables()
    code = kind.encode(inputs, encoder, bias, lambda pre: pre > threshold, torch.float32)
    decoded = code.decode(decoder)
    weights = torch.randn(decoded.shape, generator=torch.Generator().manual_seed(1))
    (decoded.sin() * weights).sum().backward()
    return (
        decoded.detach(),
        code.fired(),
        torch.tensor(code.count()),
        code.strengths(torch.arange(1.0, FEATURES + 1)),
        *(t.grad for t in (inputs, encoder, bias, decoder) if t.grad is not None),
    )


@pytest.mark.parametrize("threshold", [-1e9, 0.5, 3.0], ids=["all", "some", "few"])
def test_sparse_and_dense_agree(threshold: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracer.training.codes._ENTRIES_AT_ONCE", 5 * FEATURES)
    sparse, dense = run(SparseCode, threshold), run(DenseCode, threshold)
    assert len(sparse) == len(dense) == 8
    assert 0 < int(dense[2]) <= BATCH * FEATURES
    for left, right in zip(sparse, dense, strict=True):
        torch.testing.assert_close(left, right, atol=1e-4, rtol=1e-4)


def test_a_batch_without_active_features() -> None:
    inputs, encoder, bias, decoder = tables()
    code = SparseCode.encode(inputs, encoder, bias, lambda pre: pre > 1e9, torch.float32)
    decoded = code.decode(decoder)
    decoded.sum().backward()
    assert code.count() == 0 and not code.fired().any()
    assert not decoded.any()
    assert encoder.grad is not None and not encoder.grad.any()
    assert decoder.grad is not None and not decoder.grad.any()


def test_activations_are_those_that_the_gate_opens() -> None:
    inputs, encoder, bias, _ = tables()
    preactivations = inputs @ encoder.T + bias
    code = SparseCode.encode(inputs, encoder, bias, lambda pre: pre > 1.0, torch.float32)
    expected = torch.where(preactivations > 1.0, preactivations, 0.0)
    rebuilt = code.decode(torch.eye(FEATURES))
    torch.testing.assert_close(rebuilt, expected, atol=1e-5, rtol=1e-5)
