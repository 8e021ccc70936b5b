"""A dictionary in normalised units and the set that is published compute the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tracer.training.dictionary import Dictionary
from tracer.training.recipe import Recipe
from tracer.training.source import Batch, Moments
from tracer.transcoders.config import ReadPoint, WritePoint

LAYERS, BATCH, D_MODEL = 3, 50, 8


def examples() -> Batch:
    """Inputs and outputs far from mean 0 and variance 1."""
    generator = torch.Generator().manual_seed(2)
    shape = (LAYERS, BATCH, D_MODEL)
    scales = torch.tensor([0.1, 1.0, 30.0])[:, None, None]
    return Batch(
        3 + 2 * torch.randn(shape, generator=generator),
        scales * (torch.randn(shape, generator=generator) - 1),
    )


def dictionary(**options: Any) -> Dictionary:
    recipe = Recipe(features=20, l0=6, **options)
    made = Dictionary(recipe, Moments.of(examples()))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    made.threshold, made.k = 0.8, 2
    return made


@pytest.mark.parametrize("activation", ["jumprelu", "topk"])
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("kind", ["per-layer", "cross-layer"])
@torch.no_grad()
def test_the_published_set_computes_what_was_trained(
    kind: str, skip: bool, activation: str
) -> None:
    made, raw = dictionary(kind=kind, skip=skip, activation=activation), examples()
    batch = made.normalized(raw)
    codes = made.encode_all(batch.inputs)
    moments = made.moments
    expected = torch.stack(made.reconstruct(codes, batch.inputs))
    expected = expected * moments.output_scale[:, None, None] + moments.output_mean[:, None]

    published = made.to_transcoders(ReadPoint.MLP_INPUT, WritePoint.MLP_OUTPUT, "s", "m")
    activations = [published[layer].activations(raw.inputs[layer]) for layer in range(LAYERS)]
    rebuilt = published.reconstructions(activations, list(raw.inputs))
    torch.testing.assert_close(rebuilt, expected, atol=2e-3, rtol=1e-4)
    counts = [int((active != 0).sum()) for active in activations]
    assert counts == [code.count() for code in codes]
    assert 0 < sum(counts) < LAYERS * BATCH * 20
    assert published.is_cross_layer == (kind == "cross-layer")


def test_a_published_per_layer_decoder_has_length_one() -> None:
    published = dictionary().to_transcoders(ReadPoint.MLP_INPUT, WritePoint.MLP_OUTPUT, "s", "m")
    for layer in published.layers:
        torch.testing.assert_close(layer.decoder().flatten(1).norm(dim=1), torch.ones(20))
        assert layer.threshold is not None
        assert float(layer.threshold.std()) < 1e-6, "so every feature has the same threshold"


def test_inputs_and_outputs_are_normalised() -> None:
    batch = dictionary().normalized(examples())
    assert torch.allclose(batch.inputs.mean(1), torch.zeros(LAYERS, D_MODEL), atol=1e-5)
    assert torch.allclose(batch.inputs.pow(2).mean((1, 2)), torch.ones(LAYERS), atol=1e-5)
    assert torch.allclose(batch.outputs.pow(2).sum(-1).mean(1), torch.ones(LAYERS), atol=1e-5)


@pytest.mark.parametrize("l0", [0.5, 4.0, 20.0])
def test_calibration_sets_the_requested_l0(l0: float) -> None:
    made = dictionary()
    inputs = made.normalized(examples()).inputs
    made.calibrate(inputs, l0)
    count = sum(code.count() for code in made.encode_all(inputs))
    assert count == pytest.approx(l0 * BATCH, abs=1)
