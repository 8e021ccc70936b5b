"""Options reach the library, and a terminal shows the device and progress."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import tiny

import tracer
from tracer.__main__ import main
from tracer.errors import TracerError
from tracer.model.model import Model
from tracer.progress import progress_bar

DEFAULTS = ("atlas", None, "auto", "float32")
FORWARD = {"forward_dtype": "float32", "tf32": False}


class Terminal(io.StringIO):
    """Text that claims to be on a screen."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Arguments of every ``tracer.load``, which opens nothing."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def load(*positional: Any, progress: Any, **named: Any) -> None:
        calls.append((positional, named))
        raise TracerError("stopped")

    monkeypatch.setattr(tracer, "load", load)
    return calls


@pytest.mark.parametrize(
    ("options", "positional", "forward"),
    [
        ([], DEFAULTS, FORWARD),
        (
            ["--model", "m", "--transcoders", "t", "--device", "cuda:1", "--dtype", "bfloat16"],
            ("m", "t", "cuda:1", "bfloat16"),
            FORWARD,
        ),
        (["--forward-dtype", "bfloat16"], DEFAULTS, FORWARD | {"forward_dtype": "bfloat16"}),
        (["--tf32"], DEFAULTS, FORWARD | {"tf32": True}),
    ],
)
@pytest.mark.parametrize(
    "command", [["trace", "x"], ["intervene", "x", "--set", "0:1:2=3"], ["index", "--corpus", "x"]]
)
def test_model_options_reach_the_library(
    loaded: list[tuple[tuple[Any, ...], dict[str, Any]]],
    command: list[str],
    options: list[str],
    positional: tuple[Any, ...],
    forward: dict[str, Any],
) -> None:
    assert main([*command, *options]) == 2
    assert loaded == [(positional, forward)]


def test_help_explains_the_automatic_device(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["trace", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "variable CIRCUIT_DEVICE if it is set, else CUDA, else Apple MPS, else the CPU" in text


@pytest.mark.parametrize("size", ["0", "-1", "nan", "inf", "much"])
def test_memory_is_a_positive_number_of_gb(capsys: pytest.CaptureFixture[str], size: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["trace", "x", f"--memory={size}"])
    assert ended.value.code == 2
    assert f"{size!r} is not a number of GB above 0" in capsys.readouterr().err


def test_memory_is_passed_in_bytes(
    monkeypatch: pytest.MonkeyPatch, open_tiny: Callable[..., Model]
) -> None:
    limits: list[int | None] = []

    def trace(*_: object, memory_limit: int | None, **__: object) -> None:
        limits.append(memory_limit)
        raise TracerError("stopped")

    model = open_tiny()
    monkeypatch.setattr(tracer, "load", lambda *_, **__: model)
    monkeypatch.setattr(tracer, "trace", trace, raising=False)
    assert main(["trace", "x", "--memory", "2.5"]) == main(["trace", "x"]) == 2
    assert limits == [2_500_000_000, None]


def test_the_device_is_named_once_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    open_tiny: Callable[..., Model],
) -> None:
    model = open_tiny()
    capsys.readouterr()
    monkeypatch.setattr(tracer, "load", lambda *_, **__: model)
    arguments = ["intervene", tiny.PROMPT, "--set", "0:1:2=3", "--json"]
    assert main(arguments) == 0
    assert capsys.readouterr().err == ""
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    assert main(arguments) == 0
    lines = [line for line in terminal.getvalue().split("\n") if line.startswith("device: ")]
    assert len(lines) == 1 and lines[0].startswith("device: cpu") and "float32" in lines[0]


def test_progress_is_drawn_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, pipe = Terminal(), io.StringIO()
    for stream in (terminal, pipe):
        monkeypatch.setattr("sys.stderr", stream)
        with progress_bar() as progress:
            progress(1_500_000_000, 3_000_000_000, "downloading model.safetensors")
            progress(0, 0, "reading the model")
            progress(1, 3, "reading the transcoders")
            progress(2, 8, "direct effects")
    assert pipe.getvalue() == ""
    drawn = terminal.getvalue()
    assert "downloading model.safetensors:" in drawn and "/3.00G" in drawn
    assert "reading the transcoders:" in drawn and "/3 [" in drawn
    assert "direct effects:" in drawn and "/8 [" in drawn
    assert not drawn.split("\r")[-2].strip(), "the bar is removed at the end"
