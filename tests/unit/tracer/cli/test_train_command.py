"""The commands `train` and `evaluate`."""

from __future__ import annotations

import inspect
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import tiny

import tracer
from tracer.__main__ import main
from tracer.cli.train import _TrainingProgress
from tracer.training.train import train_transcoders

TEXT = "\n\n".join(
    " ".join(f"w{(start + 3 * step) % 40}" for step in range(14)) for start in range(90)
)


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str, str]:
    tiny.save_model(tmp_path / "model", "gpt2")
    (tmp_path / "texts.txt").write_text(TEXT)
    return str(tmp_path / "model"), str(tmp_path / "texts.txt"), str(tmp_path / "set")


def training(files: tuple[str, str, str], *more: str) -> list[str]:
    model, corpus, output = files
    options = "--features 24 --l0 6 --tokens 900 --batch-tokens 64 --context 16 --device cpu"
    names = ["--model", model, "--corpus", corpus, "--output", output]
    return ["train", *names, *options.split(), *more]


def test_a_set_is_trained_and_measured(
    files: tuple[str, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(training(files, "--kind", "cross-layer", "--json")) == 0
    trained = json.loads(capsys.readouterr().out)
    assert trained["features"] == 72 and trained["folder"] == files[2]
    assert trained["training"]["kind"] == "cross-layer"
    measuring = ["evaluate", "--model", files[0], "--transcoders", files[2], "--corpus", files[1]]
    assert main([*measuring, "--context", "16", "--device", "cpu", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["l0"] == pytest.approx(6, rel=0.15)
    assert main([*measuring, "--context", "16", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("72 features in 3 layers")
    assert f"{measured['l0']:.1f}" in lines[1]
    assert main(training(files)) == 2
    assert "set holds README.md: nothing was changed" in capsys.readouterr().err


def test_ctrl_c_leaves_a_training_that_resumes(
    files: tuple[str, str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    count, pressed = _TrainingProgress.count, []

    def press(self: Any, done: int, total: int, what: str) -> None:
        if what.startswith("training") and done > 300 and not pressed:
            pressed.append(done)
            os.kill(os.getpid(), signal.SIGINT)
        count(self, done, total, what)

    monkeypatch.setattr(_TrainingProgress, "count", press)
    before = signal.getsignal(signal.SIGINT)
    assert main(training(files)) == 130
    assert signal.getsignal(signal.SIGINT) is before
    assert Path(f"{files[2]}.partial", "checkpoint.json").exists()
    done_values: list[int] = []

    def record(self: Any, done: int, total: int, what: str) -> None:
        if what.startswith("training"):
            done_values.append(done)

    monkeypatch.setattr(_TrainingProgress, "count", record)
    assert main(training(files)) == 0
    assert min(done_values) > pressed[0]
    assert "wrote the set to" in capsys.readouterr().out


def test_without_a_terminal_a_line_is_written_every_30_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter([100.0, 110.0, 131.0])
    monkeypatch.setattr("tracer.cli.train.time.monotonic", lambda: next(seconds))
    with _TrainingProgress() as progress:
        for done in (10, 20, 30):
            progress.count(done, 100, "training")
    assert capsys.readouterr().err == "training: 10 of 100\ntraining: 30 of 100\n"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--l0", "100"], "error: l0 is 100, more than the 72 features of 3 layers with 24 each"),
        (["--corpus", "/nowhere.txt"], "error: corpus /nowhere.txt does not exist"),
        (["--memory", "0.0001"], "error: training 3 layers of 24 features needs about"),
    ],
)
def test_bad_input_is_one_line(
    files: tuple[str, str, str],
    capsys: pytest.CaptureFixture[str],
    option: list[str],
    message: str,
) -> None:
    assert main(training(files, *option)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith(message)] == lines[-1:]


def test_options_reach_the_training(
    files: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every option of the command is one of the function, with the same default."""
    passed: dict[str, Any] = {}

    def record(*names: Any, **options: Any) -> Any:
        passed.update(options)
        raise tracer.TracerError("stopped")

    monkeypatch.setattr("tracer.training.train_transcoders", record)
    model, corpus, output = files
    command = ["train", "--model", model, "--corpus", corpus, "--output", output]
    assert main(command) == 2
    parameters = inspect.signature(train_transcoders).parameters
    defaults = {name: parameters[name].default for name in passed if name != "progress"}
    assert {name: passed[name] for name in defaults} == defaults
    assert set(passed) == set(parameters) - {"model", "corpus", "folder"}
