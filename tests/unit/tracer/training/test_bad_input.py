"""Bad input is refused in one sentence, before anything long starts."""

from __future__ import annotations

import json
import re
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from filelock import FileLock
from small_training import sentences
from transformers import MambaConfig, MambaForCausalLM

import tracer
from tracer.errors import (
    CorpusError,
    MemoryLimitError,
    ModelError,
    TracerError,
    TrainingError,
)
from tracer.model.bridge import Bridge
from tracer.model.model import Model
from tracer.training import open_model
from tracer.training.output_folder import OutputFolder
from tracer.training.trainer import Trainer

Train = Callable[..., tracer.TrainingReport]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"l0": 145.0}, "l0 is 145, more than the 144 features of 3 layers with 48 each"),
        ({"l0": 0.0}, "l0 is 0.0: give a positive number of features per token"),
        (
            {"activation": "topk", "l0": 150.0},
            "l0 150 over 3 layers needs k 50, more than the 48 features of a layer",
        ),
        ({"activation": "relu"}, "activation is 'relu': expected one of jumprelu, topk"),
        ({"kind": "crosscoder"}, "kind is 'crosscoder': expected one of per-layer, cross-layer"),
        ({"features": 0}, "features is 0: give at least 1"),
        ({"tokens": 0}, "tokens is 0: give at least 1"),
        ({"batch_tokens": 0}, "batch_tokens is 0: give at least 1"),
        ({"context": 2}, "context is 2: give at least 3 tokens"),
        ({"rate": 0.0}, "rate is 0.0: give a positive learning rate"),
        ({"finetune_share": 1.0}, "finetune_share is 1.0: give a share from 0"),
        ({"validation": 0.0}, "validation is 0.0: give a share between 0 and 1"),
        ({"dtype": "float16"}, "dtype is 'float16': expected one of float32, bfloat16"),
        ({"seed": -1}, "seed is -1: give at least 0"),
        ({"checkpoint_minutes": -1}, "checkpoint_minutes is -1: give at least 0"),
        ({"read": "hook_z"}, "read is 'hook_z': expected one of hook_resid_mid, "),
        ({"write": "hook_z"}, "write is 'hook_z': expected one of mlp.hook_out, hook_mlp_out"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_options_out_of_range(
    train: Train, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrainingError, match=f"^{re.escape(message)}"):
        train(**options)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_corpus(train: Train, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(CorpusError, match=r"empty.txt has no text that .*gpt2 can read: give doc"):
        train(corpus=tmp_path / "empty.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["empty.txt"]


def test_a_corpus_of_unknown_words(train: Train, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("hello there\n\ngeneral\n")
    with pytest.raises(CorpusError, match="2 documents have words it does not know"):
        train(corpus=tmp_path / "other.txt")


def test_a_corpus_smaller_than_a_batch(train: Train, tmp_path: Path) -> None:
    (tmp_path / "small.txt").write_text("\n\n".join(sentences(8)))
    with pytest.raises(
        CorpusError, match=r"small.txt has \d+ tokens to train on, fewer than a batch of 512"
    ):
        train(corpus=tmp_path / "small.txt", batch_tokens=512)


def test_a_corpus_of_one_window(train: Train, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("w1 w2 w3")
    with pytest.raises(CorpusError, match="the corpus has only one window of tokens: give more"):
        train(corpus=tmp_path / "one.txt", batch_tokens=1)


def test_a_folder_without_a_corpus(train: Train, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"png")
    with pytest.raises(CorpusError, match=r"pictures has no text, .jsonl or .parquet file"):
        train(corpus=folder)


def test_a_model_without_mlps_to_replace(corpus: Path, tmp_path: Path) -> None:
    folder = tiny.save_model(tmp_path / "mamba", "gpt2")  # for its tokenizer
    (folder / "config.json").unlink()
    config = MambaConfig(vocab_size=60, hidden_size=32, num_hidden_layers=2, state_size=4)
    MambaForCausalLM(config).save_pretrained(folder)
    with pytest.raises(ModelError, match=r"mamba cannot be (traced|opened): "):
        tracer.train_transcoders(str(folder), corpus, tmp_path / "set", device="cpu")


def test_a_model_that_is_not_there(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model at '/nowhere'"):
        tracer.train_transcoders("/nowhere", corpus, tmp_path / "set")


def test_a_bfloat16_model_is_not_trained_end_to_end(
    bare: Callable[..., Model], corpus: Path, tmp_path: Path
) -> None:
    model = bare()
    narrow = Model(
        model.source,
        Bridge(model.source.model_folder, torch.device("cpu"), torch.bfloat16),
        model.transcoders,
    )
    with pytest.raises(TrainingError, match="was opened in bfloat16, and training end to end"):
        tracer.train_transcoders(narrow, corpus, tmp_path / "set")
    options: dict[str, Any] = {"features": 8, "l0": 3, "tokens": 500, "batch_tokens": 128}
    tracer.train_transcoders(narrow, corpus, tmp_path / "set", finetune_share=0, **options)


@pytest.mark.parametrize("place", ["set", "set.partial"])
def test_a_folder_that_is_something_else_is_left_alone(
    train: Train, tmp_path: Path, place: str
) -> None:
    (tmp_path / place).mkdir()
    (tmp_path / place / "thesis.txt").write_text("mine")
    with pytest.raises(TrainingError, match=rf"{place} (holds thesis.txt|is not an unfinished)"):
        train()
    assert (tmp_path / place / "thesis.txt").read_text() == "mine"
    assert len(list(tmp_path.rglob("*"))) == 2


def test_a_file_in_place_of_the_folder(train: Train, tmp_path: Path) -> None:
    (tmp_path / "set").write_text("mine")
    with pytest.raises(TrainingError, match="set is a file: nothing was changed"):
        train()


def test_two_trainings_do_not_write_one_set(train: Train, tmp_path: Path) -> None:
    work = tmp_path / "set.partial"
    work.mkdir()
    with (
        FileLock(work / "lock"),
        pytest.raises(TrainingError, match=r"another training is writing .*set: wait for it"),
    ):
        train()


Usage = namedtuple("Usage", "total used free")


def test_a_disk_without_room(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10**9, 10**9, 100_000))
    with pytest.raises(
        TrainingError,
        match=r"set needs 2\d\d kB for checkpoints and the finished set, but the disk has 100 kB",
    ):
        train()
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10**9, 10**9, 10))
    with pytest.raises(TrainingError, match="has 10 bytes free"):
        train()
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_at_a_checkpoint(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("tracer.training.checkpoint.save_file", full)
        with pytest.raises(
            TrainingError, match=r"cannot be written to .* \(No space left on device\)"
        ):
            train(checkpoint_minutes=0)


def test_too_little_memory_is_reported_with_numbers(train: Train, tmp_path: Path) -> None:
    with pytest.raises(
        MemoryLimitError,
        match=r"training 3 layers of 48 features needs about \d.* kB for parameters and optimizer, "
        r".* while a batch passes and .* for activations, but 100 kB can be used: lower features",
    ):
        train(memory_limit=100_000)
    assert list(tmp_path.iterdir()) == []


def test_a_device_that_runs_out_of_memory_is_named_and_the_training_kept(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer.step

    def fail(self: Trainer, batch: Any) -> Any:
        if self.steps == 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", fail)
        with pytest.raises(MemoryLimitError, match="ran out of memory while training transcoders"):
            train(checkpoint_minutes=0)
    assert (tmp_path / "set.partial" / "checkpoint.json").exists()
    train()


@pytest.mark.parametrize("damage", ["text", "tensors", "values", "shape"])
def test_a_damaged_checkpoint_is_named(train: Train, tmp_path: Path, damage: str) -> None:
    def cancel(done: int, total: int, what: str) -> None:
        if what.startswith("training"):
            raise tracer.errors.Cancelled("enough")

    with pytest.raises(tracer.errors.Cancelled):
        train(progress=cancel)
    work = tmp_path / "set.partial"
    note = work / "checkpoint.json"
    stored = json.loads(note.read_text())
    if damage == "text":
        note.write_text("{")
    elif damage == "tensors":
        (work / stored["tensors"]).write_bytes(b"no tensors")
    elif damage == "values":
        del stored["values"]["threshold"]
        note.write_text(json.dumps(stored))
    else:
        stored["identity"]["features"] = 40
        note.write_text(json.dumps(stored))
    with pytest.raises(
        TrainingError, match=r"the checkpoint in .*set.partial is damaged"
    ) as raised:
        train(**({"features": 40} if damage == "shape" else {}))
    assert "delete that folder" in str(raised.value)


def test_every_refusal_is_one_sentence(train: Train, bare: Callable[..., Model]) -> None:
    with pytest.raises(TracerError) as raised:
        train(l0=1000.0)
    message = str(raised.value)
    assert "\n" not in message and not message.endswith(".")
    assert open_model(bare().source.name, "cpu").n_layers == 3


def test_a_disk_that_is_full_at_the_start_leaves_the_folder_unlocked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("tracer.training.output_folder.atomic_write", full)
        with pytest.raises(TrainingError, match="No space left"), OutputFolder(tmp_path / "set"):
            pass
    assert list(tmp_path.iterdir()) == []
    with OutputFolder(tmp_path / "set"):
        pass
