"""Training end to end follows the gradient of the divergence of the replaced model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tracer.model.model import Model
from tracer.training.corpus_source import CorpusSource, padded
from tracer.training.finetune import divergence, finetune, replaced_logits
from tracer.training.recipe import Recipe
from tracer.training.replacement import replacement_hooks
from tracer.training.texts import open_texts
from tracer.training.token_store import split_windows, store_tokens
from tracer.training.trainer import Trainer
from tracer.transcoders.config import ReadPoint, WritePoint


@pytest.fixture
def source(bare: Callable[..., Model], corpus: Path, tmp_path: Path) -> Callable[..., CorpusSource]:
    def make(architecture: str) -> CorpusSource:
        model = bare(architecture)
        store = store_tokens(
            model, open_texts(corpus), 16, 3000, tmp_path, {"for": architecture}, lambda *_: None
        )
        return CorpusSource(model, store, split_windows(store, 0.1, 0)[0], 2000, 128, seed=0)

    return make


def trainer(source: CorpusSource, kind: str, tokens: int = 4000) -> Trainer:
    recipe = Recipe(
        kind=kind,  # type: ignore[arg-type]
        features=32,
        l0=20,
        l0_first=40,
        tokens=tokens,
        batch_tokens=128,
        rate=5e-3,
        finetune_share=0.5,
        skip=True,
    )
    made = Trainer(source, recipe)
    made.reconstruct(lambda report: None)
    return made


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2"])
@pytest.mark.parametrize("kind", ["per-layer", "cross-layer"])
def test_the_gradient_is_that_of_finite_differences(
    source: Callable[..., CorpusSource], architecture: str, kind: str
) -> None:
    made = source(architecture)
    model, dictionary = made.model, trainer(made, kind, tokens=600).dictionary
    dictionary.threshold = -1e9  # all are active: a feature that switches is not in the gradient
    batch = padded(made.store, [1, 5, 9], model.first_position, model.device)
    own, _ = made.run(batch)

    def loss() -> torch.Tensor:
        return divergence(own, replaced_logits(model, dictionary, batch), batch)

    loss().backward()
    generator = torch.Generator().manual_seed(1)
    for name in ("W_enc", "b_enc", "b_dec", "W_skip", "W_dec.0"):
        parameter = dict(dictionary.named_parameters())[name]
        assert parameter.grad is not None
        direction = torch.randn(parameter.shape, generator=generator) * (parameter.grad != 0)
        direction /= direction.norm()
        expected = float((parameter.grad * direction).sum())
        step = 2e-3
        with torch.no_grad():
            parameter.add_(direction, alpha=step)
            above = float(loss())
            parameter.add_(direction, alpha=-2 * step)
            below = float(loss())
            parameter.add_(direction, alpha=step)
        assert (above - below) / (2 * step) == pytest.approx(expected, rel=0.05, abs=1e-3), name


@pytest.mark.parametrize("kind", ["per-layer", "cross-layer"])
@torch.no_grad()
def test_the_replaced_model_is_that_of_the_published_set(
    source: Callable[..., CorpusSource], kind: str
) -> None:
    made = source("gemma2")
    with torch.enable_grad():
        dictionary = trainer(made, kind, tokens=600).dictionary
    batch = padded(made.store, [1, 5, 9], 1, made.model.device)
    published = dictionary.to_transcoders(ReadPoint.MLP_INPUT, WritePoint.MLP_OUTPUT, "s", "m")
    opened = Model(made.model.source, made.model.bridge, published)
    expected = replaced_logits(made.model, dictionary, batch)
    found = opened.bridge.run_batch(batch.ids, replacement_hooks(opened))
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
    own = opened.bridge.run_batch(batch.ids)
    torch.testing.assert_close(found[:, 0], own[:, 0], msg="the first position keeps its MLPs")
    assert (found[:, 1:] - own[:, 1:]).abs().max() > 0.05


def test_micro_batches_add_up_to_one_step(source: Callable[..., CorpusSource]) -> None:
    made = source("gpt2")
    results = []
    for at_once in (16, 10_000):
        run = trainer(made, "per-layer", tokens=260)
        finetune(run, made, lambda report: None, at_once)
        results.append(run.dictionary.W_enc.detach().clone())
    torch.testing.assert_close(results[0], results[1], atol=2e-4, rtol=1e-3)
