"""Trained sets have the requested L0, explain their MLPs and open like published ones.

A training that was interrupted gives the same bits as one that was not.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from small_training import OPTIONS, weights

import tracer
from tracer.errors import Cancelled, TrainingError
from tracer.model.model import Model

SHAPES = [
    (architecture, kind)
    for architecture in ("gpt2", "gemma2")
    for kind in ("per-layer", "cross-layer")
]
Train = Callable[..., tracer.TrainingReport]


@pytest.mark.parametrize(("architecture", "kind"), SHAPES)
def test_a_trained_set_has_the_requested_l0_and_explains_its_mlps(
    train: Train,
    bare: Callable[..., Model],
    corpus: Path,
    tmp_path: Path,
    architecture: str,
    kind: str,
) -> None:
    tokens = 5000 if architecture == "gpt2" else 8000
    report = train(architecture=architecture, kind=kind, tokens=tokens, skip=kind == "per-layer")
    assert report.l0 == pytest.approx(OPTIONS["l0"], rel=0.15)
    assert report.l0 == pytest.approx(sum(layer.l0 for layer in report.layers))
    untrained = train("untrained", architecture, kind=kind, tokens=128, finetune_share=0)
    for layer, before in zip(report.layers, untrained.layers, strict=True):
        assert layer.unexplained < 0.8, "the mean alone leaves 1"
        assert layer.unexplained < 0.9 * before.unexplained
    assert report.divergence < untrained.divergence

    source = bare(architecture).source.name
    model = tracer.load(source, str(tmp_path / "set"), device="cpu")
    assert model.transcoders.is_cross_layer == (kind == "cross-layer")
    assert [layer.n_features for layer in model.transcoders.layers] == [48, 48, 48]
    assert all(layer.threshold is not None for layer in model.transcoders.layers)
    measured = tracer.evaluate_transcoders(model, corpus, context=16, tokens=2000)
    assert measured.l0 == pytest.approx(OPTIONS["l0"], rel=0.15)
    assert measured.unexplained == pytest.approx(report.unexplained, rel=0.3)
    graph = tracer.trace(model, "w1 w8 w29 w12")
    assert graph.n_active_features > 0


@pytest.mark.parametrize(("architecture", "kind"), SHAPES)
def test_stopping_and_resuming_changes_no_bit(
    train: Train, tmp_path: Path, architecture: str, kind: str
) -> None:
    options = {"architecture": architecture, "kind": kind, "memory_limit": 8_000_000}
    options["tokens"] = 2500
    whole = train("whole", **options)
    for stop in (350, 1250, 2300):  # twice in the first phase, once while training end to end

        def cancel(done: int, total: int, what: str, stop: int = stop) -> None:
            if done >= stop and what.startswith("training"):
                raise Cancelled("enough")

        with pytest.raises(Cancelled):
            train("stopped", progress=cancel, **options)
        assert (tmp_path / "stopped.partial" / "checkpoint.json").exists()
        assert not (tmp_path / "stopped").exists()
    resumed = train("stopped", **options)
    assert weights(tmp_path / "stopped") == {
        name: content.replace(b"whole", b"stopped") if name == "config.yaml" else content
        for name, content in weights(tmp_path / "whole").items()
    }
    assert resumed.layers == whole.layers and resumed.replaced_loss == whole.replaced_loss
    assert not (tmp_path / "stopped.partial").exists()


def test_a_killed_training_resumes_from_its_last_checkpoint(train: Train, tmp_path: Path) -> None:
    """A kill leaves exactly what is on disk at that moment."""
    train("set", tokens=2500)
    expected = weights(tmp_path / "set")
    checkpoints = []

    def kill(done: int, total: int, what: str) -> None:
        note = tmp_path / "set.partial" / "checkpoint.json"
        if done >= 1000 and what.startswith("training") and note.exists():
            checkpoints.append(json.loads(note.read_text())["values"]["tokens"])
            if done >= 1400:
                shutil.copytree(tmp_path / "set.partial", tmp_path / "left")
                raise Cancelled("killed")

    shutil.rmtree(tmp_path / "set")
    with pytest.raises(Cancelled):
        train("set", tokens=2500, progress=kill, checkpoint_minutes=0)
    assert len(set(checkpoints)) > 2, "there is a checkpoint after every step"
    shutil.rmtree(tmp_path / "set.partial")
    (tmp_path / "left").rename(tmp_path / "set.partial")
    first = []
    train("set", tokens=2500, progress=lambda done, _, what: first.append((done, what)))
    assert min(done for done, what in first if what.startswith("training")) > 1000
    assert weights(tmp_path / "set") == expected


def test_the_seed_decides(train: Train, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(f"{name}/set", seed=seed, tokens=700)
    assert weights(tmp_path / "a" / "set") == weights(tmp_path / "b" / "set")
    assert weights(tmp_path / "a" / "set") != weights(tmp_path / "c" / "set")


def test_resuming_with_another_option_names_it(train: Train, tmp_path: Path) -> None:
    def cancel(done: int, total: int, what: str) -> None:
        if what.startswith("training"):
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        train(progress=cancel)
    others = {"l0": 8.0, "features": 40, "tokens": 6000, "seed": 4, "kind": "cross-layer"}
    for option, value in others.items():
        before = {"kind": "per-layer", "seed": 0, **OPTIONS}[option]
        expected = f"with {option} {before}, not {value}: resume it with"
        with pytest.raises(TrainingError, match=expected):
            train(**{option: value})
        assert (tmp_path / "set.partial" / "checkpoint.json").exists(), option


def test_topk_writes_its_k(train: Train, bare: Callable[..., Model], tmp_path: Path) -> None:
    report = train(activation="topk", kind="cross-layer", tokens=1500)
    config = yaml.safe_load((tmp_path / "set" / "config.yaml").read_text())
    assert config["activation"] == "topk" and config["k"] == 3
    assert report.l0 == 9
    model = tracer.load(bare().source.name, str(tmp_path / "set"), device="cpu")
    assert [layer.k for layer in model.transcoders.layers] == [3, 3, 3]


def test_other_hook_points_are_read_and_written(
    train: Train, bare: Callable[..., Model], tmp_path: Path
) -> None:
    report = train(
        architecture="gemma2", read="ln2.hook_normalized", write="hook_mlp_out", tokens=8000
    )
    model = tracer.load(bare("gemma2").source.name, str(tmp_path / "set"), device="cpu")
    assert model.read_hook(1) == "blocks.1.ln2.hook_normalized"
    assert model.write_hook(1) == "blocks.1.ln2_post.hook_out"
    assert report.unexplained < 0.9


def test_training_end_to_end_brings_the_replaced_model_closer(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = train("alone", tokens=4000, finetune_share=0)
    # The distributions of a random model are so flat that their divergence needs more weight.
    monkeypatch.setattr("tracer.training.finetune._DIVERGENCE_WEIGHT", 100.0)
    both = train("both", tokens=4000, finetune_share=0.8)
    assert both.divergence < 0.9 * alone.divergence


def test_the_report_is_in_the_folder(train: Train, tmp_path: Path) -> None:
    report = train(tokens=1500)
    stored = json.loads((tmp_path / "set" / "report.json").read_text())
    assert stored == json.loads(json.dumps(report.to_dict()))
    assert stored["training"]["l0"] == 9 and stored["training"]["tokens_trained"] >= 1500
    card = (tmp_path / "set" / "README.md").read_text()
    assert "# Per-layer transcoders for gpt2" in card
    assert f"| {report.l0:.1f} |" in card and f"| {report.replaced_loss:.3f} |" in card
    assert str(tmp_path) not in card + json.dumps(stored)


def test_a_model_that_has_transcoders_can_be_trained_anew(
    bare: Callable[..., Model], train: Train, corpus: Path, tmp_path: Path
) -> None:
    train("first", tokens=1500)
    opened = tracer.load(bare().source.name, str(tmp_path / "first"), device="cpu")
    tracer.train_transcoders(
        opened, corpus, tmp_path / "second" / "first", **OPTIONS | {"tokens": 1500}
    )
    assert weights(tmp_path / "first") == weights(tmp_path / "second" / "first")
    assert torch.is_grad_enabled()
