"""A batch of targets computes nothing twice, and nothing that a GPU would have to queue for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import tiny
import torch
from dispatch import Operations

from tracer.attribution.backward import FrozenAttention, FrozenBackward
from tracer.attribution.frozen import frozen_pass
from tracer.model.model import Model

KINDS = ("transcoder_set", "cross_layer_transcoder")
N_POS = len(tiny.IDS)


@pytest.fixture(params=KINDS)
def backward(request: pytest.FixtureRequest, open_tiny: Callable[..., Model]) -> FrozenBackward:
    model = open_tiny("gemma2", kind=request.param)  # norms on both sides of attention
    return FrozenBackward(model, frozen_pass(model, model.encode(tiny.IDS)))


class Scaled(Operations):
    """Collects products and quotients of arrays as large as an attention pattern."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def saw(self, name: str, result: Any) -> None:
        if name.rstrip("_") in ("mul", "div") and tuple(result.shape[-2:]) == (N_POS, N_POS):
            self.names.append(name)


class Dtypes(Operations):
    """Collects the data types of matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[torch.dtype] = set()

    def saw(self, name: str, result: Any) -> None:
        if name in ("bmm", "mm"):
            self.seen.add(result.dtype)


def test_patterns_are_scaled_once_and_not_for_every_batch(backward: FrozenBackward) -> None:
    """Dividing them in every layer of every batch cost as much memory traffic as the products."""
    with Scaled() as first:
        frozen_pass(backward.model, backward.frozen.token_ids)
    assert first.names, "the norms' scales are divided out"
    last = backward.frozen.host_features[-4:]
    assert int(last[:, 1].max()) == N_POS - 1, "the walk carries all positions"
    with Scaled() as batch:
        backward.on_features(last)
    assert not batch.names


@pytest.mark.parametrize("kept", [True, False])
def test_sources_are_added_to_distinct_columns(
    backward: FrozenBackward, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    """Empty slots used to add zeros to column 0, and a GPU queued for that one address."""
    added: list[torch.Tensor] = []
    index_add = torch.Tensor.index_add_

    def note(tensor: torch.Tensor, dim: int, index: torch.Tensor, source: torch.Tensor) -> Any:
        added.append(index)
        return index_add(tensor, dim, index, source)

    backward.sources.keep(kept)
    monkeypatch.setattr(torch.Tensor, "index_add_", note)
    backward.on_logits(torch.ones(2, backward.model.bridge.d_model))
    n_slots = sum(layer.n_values for layer in backward.sources.layers) // tiny.D_MODEL
    columns = torch.cat(added)
    assert 0 < len(columns) < n_slots, "some slots are empty"
    assert set(columns.tolist()) == set(range(len(backward.frozen.features)))
    assert all(len(index.unique()) == len(index) for index in added)


@pytest.mark.parametrize(
    ("device", "expected"),
    [("meta", {torch.bfloat16}), ("cpu", {torch.bfloat16, torch.float32})],
)
def test_only_the_cpu_multiplies_small_products_in_float32(
    open_tiny: Callable[..., Model], device: str, expected: set[torch.dtype]
) -> None:
    """On a GPU bfloat16 is the faster type; the meta device stands for one here."""
    block = open_tiny("llama").blocks[0]
    weights = {name: getattr(block, name).to(device) for name in ("W_V", "W_O")}
    block = replace(block, **weights, attn_norm=None, attn_post_norm=None)
    pattern = torch.ones(block.W_O.shape[0], N_POS, N_POS, device=device)
    attention = FrozenAttention(block, pattern, torch.bfloat16, kept=True)
    gradient = torch.ones(N_POS, 3, tiny.D_MODEL, device=device, dtype=torch.bfloat16)
    with Dtypes() as products:
        result = attention(gradient, torch.tensor([1, 2, 5], device=device), 0)
    assert products.seen == expected
    assert (result.shape, result.dtype) == (gradient.shape, torch.bfloat16)
