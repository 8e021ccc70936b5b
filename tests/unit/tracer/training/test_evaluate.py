"""Figures of a set are those of a plain, slow computation, for published layouts too."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_training import sentences

import tracer
from tracer.errors import CorpusError, TrainingError
from tracer.model.model import Model
from tracer.training.replacement import replacement_hooks
from tracer.transcoders.transcoder import TranscoderSet

TEXTS = sentences(25)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n\n".join(TEXTS))
    return path


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("llama", {"skip": True}),
        ("gemma2", {"kind": "cross_layer_transcoder", "read": "ln2.hook_normalized"}),
        ("neox", {"activation": "topk"}),
    ],
)
@torch.no_grad()
def test_every_figure_is_that_of_a_plain_computation(
    open_tiny: Callable[..., Model], texts: Path, architecture: str, options: dict[str, object]
) -> None:
    model = open_tiny(architecture, **options)
    report = tracer.evaluate_transcoders(model, texts, context=16)
    layers = range(model.n_layers)
    outputs, rebuilt, active, losses, replaced, zeros = [], [], [], [], [], []
    for text in TEXTS:
        own = model.bridge.tokenizer(text, add_special_tokens=False)["input_ids"]
        ids = model.with_beginning(own)
        for start in range(1, len(ids), 15):
            window = torch.tensor((ids[0], *ids[start : start + 15]))
            reads = [model.read_hook(layer) for layer in layers]
            writes = [model.write_hook(layer) for layer in layers]
            logits, seen = model.bridge.capture(window, [*reads, *writes])
            inputs = [seen[name] for name in reads]
            activations = [model.transcoders[i].activations(inputs[i]) for i in layers]
            rebuilt.append(model.transcoders.reconstructions(activations, inputs)[:, 1:])
            outputs.append(torch.stack([seen[name] for name in writes])[:, 1:])
            active.append(torch.stack(activations)[:, 1:])

            def off(value: torch.Tensor, hook: object) -> torch.Tensor:
                return torch.cat([value[:, :1], torch.zeros_like(value[:, 1:])], dim=1)

            ablated = model.bridge.run(window, [(name, off) for name in writes])
            other = model.bridge.run(window, replacement_hooks(model))
            for found, kind in ((losses, logits), (replaced, other), (zeros, ablated)):
                if len(window) > 2:
                    found.append(
                        torch.nn.functional.cross_entropy(kind[1:-1], window[2:], reduction="none")
                    )
    true, rebuilt_all = torch.cat(outputs, 1), torch.cat(rebuilt, 1)
    missed = (true - rebuilt_all).pow(2).sum((1, 2))
    variance = (true - true.mean(1, keepdim=True)).pow(2).sum((1, 2))
    fired = torch.cat(active, 1) != 0
    assert report.tokens == fired.shape[1]
    for layer, entry in enumerate(report.layers):
        assert entry.l0 == pytest.approx(float(fired[layer].sum()) / report.tokens)
        assert entry.dead == pytest.approx(1 - float(fired[layer].any(0).float().mean()))
        assert entry.unexplained == pytest.approx(float(missed[layer] / variance[layer]), rel=1e-4)
    assert report.loss_tokens == len(torch.cat(losses))
    assert report.loss == pytest.approx(float(torch.cat(losses).mean()), rel=1e-4)
    assert report.replaced_loss == pytest.approx(float(torch.cat(replaced).mean()), rel=1e-4)
    assert report.ablated_loss == pytest.approx(float(torch.cat(zeros).mean()), rel=1e-4)
    assert json.loads(json.dumps(report.to_dict()))["features"] == report.features == 72


@pytest.mark.parametrize("kind", ["transcoder_set", "cross_layer_transcoder"])
@torch.no_grad()
def test_replacing_puts_in_what_the_set_reconstructs_in_that_run(
    open_tiny: Callable[..., Model], kind: str
) -> None:
    model = open_tiny("llama", kind=kind)
    ids = torch.tensor([[1, 5, 11, 6, 34, 15]])
    writes = [model.write_hook(layer) for layer in range(3)]
    for layers in ([0, 1, 2], [1], [2]):
        seen: dict[str, torch.Tensor] = {}

        def keep(name: str, seen: dict[str, torch.Tensor] = seen) -> tuple[str, object]:
            def hook(value: torch.Tensor, hook: object) -> None:
                seen[name] = value[0]

            return name, hook

        reads = [model.read_hook(layer) for layer in range(3)]
        model.bridge.run_batch(
            ids, [*replacement_hooks(model, layers), *(keep(name) for name in (*reads, *writes))]
        )
        inputs = [seen[name] for name in reads]
        activations = [model.transcoders[i].activations(inputs[i]) for i in range(3)]
        expected = model.transcoders.reconstructions(activations, inputs)
        for layer in layers:
            torch.testing.assert_close(
                seen[writes[layer]][1:], expected[layer][1:], atol=1e-4, rtol=1e-4
            )


def test_a_set_of_zeros_recovers_nothing(open_tiny: Callable[..., Model], texts: Path) -> None:
    model = open_tiny("llama")
    nothing = TranscoderSet(
        tuple(
            replace(layer, W_dec=torch.zeros_like(layer.decoder()), b_dec=torch.zeros(32))
            for layer in model.transcoders.layers
        ),
        model.transcoders.read_point,
        model.transcoders.write_point,
        "zeros",
    )
    report = tracer.evaluate_transcoders(
        Model(model.source, model.bridge, nothing), texts, context=16
    )
    assert report.replaced_loss == report.ablated_loss
    assert report.recovered in (0.0, None)
    assert all(layer.replaced_loss == layer.ablated_loss for layer in report.layers)


def test_decoders_left_in_their_files_give_the_same(
    open_tiny: Callable[..., Model], texts: Path
) -> None:
    model = open_tiny("gpt2", kind="cross_layer_transcoder")
    lazy = tracer.load(
        str(model.source.model_folder),
        str(model.source.transcoder_folder),
        device="cpu",
        lazy_decoders=True,
    )
    expected = tracer.evaluate_transcoders(model, texts, context=16)
    found = tracer.evaluate_transcoders(lazy, texts, context=16)
    assert found.unexplained == pytest.approx(expected.unexplained, rel=1e-5)
    assert found.replaced_loss == pytest.approx(expected.replaced_loss, rel=1e-5)


def test_the_embedded_sets_are_measured(tmp_path: Path) -> None:
    """Both recover nearly all of the loss on atlas's own kind of sentence."""
    text = tmp_path / "atlas.txt"
    cities = ("Dallas", "Houston", "Oakland", "Chicago")
    text.write_text(
        "\n\n".join(f"The capital of the state containing {city} is" for city in cities)
    )
    for name in ("per-layer", "cross-layer"):
        report = tracer.evaluate_transcoders(tracer.load("atlas", name, device="cpu"), text)
        assert report.recovered is not None and report.recovered > 0.98
        assert report.unexplained < 0.01 and 20 < report.l0 < 80
        assert f"{name} of atlas: 5,120 features in 5 layers" in str(report)


@pytest.mark.parametrize("option", ["tokens", "loss_tokens", "context"])
def test_options_out_of_range(open_tiny: Callable[..., Model], texts: Path, option: str) -> None:
    with pytest.raises(TrainingError, match=f"{option} is 0: give at least"):
        tracer.evaluate_transcoders(open_tiny(), texts, **{option: 0})


def test_a_text_without_two_tokens_in_a_row(
    open_tiny: Callable[..., Model], tmp_path: Path
) -> None:
    (tmp_path / "t.txt").write_text("w1\n\nw2")
    with pytest.raises(CorpusError, match=r"one token for .*llama, which leaves none to predict"):
        tracer.evaluate_transcoders(open_tiny(), tmp_path / "t.txt")
