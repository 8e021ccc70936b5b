"""The options of circuit-tracer's command line work, or are refused with what to do instead."""

from __future__ import annotations

from typing import Any

import pytest

import tracer
from tracer.__main__ import main
from tracer.catalog.registry import listed
from tracer.cli.habits import translated
from tracer.errors import TracerError


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """The arguments of ``tracer.load`` and ``tracer.trace``, which do nothing."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def load(*positional: Any, progress: Any, **named: Any) -> Any:
        calls.append((positional, named))
        return None

    def trace(*positional: Any, progress: Any, **named: Any) -> Any:
        calls.append((positional, named))
        raise TracerError("stopped")

    monkeypatch.setattr(tracer, "load", load)
    monkeypatch.setattr(tracer, "trace", trace)
    return calls


def test_a_command_of_circuit_tracer_runs_as_it_is(
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]],
) -> None:
    command = (
        "attribute -t gemma --max_n_logits 5 --desired_logit_prob=0.9 --max_feature_nodes 7500 "
        "--batch_size 256 --dtype bf16 --offload disk --node_threshold 0.7 --verbose "
        "--lazy-decoder -o graph.safetensors -p"
    )
    assert main([*command.split(), "The sky is"]) == 2
    (model, opened), (prompt, options) = calls
    assert model == ("gemma-2-2b", "gemma", "auto", "bfloat16")
    assert opened["lazy_decoders"] and opened["lazy_encoders"]
    assert prompt == (None, "The sky is")
    assert options == {
        "targets": None,
        "max_logits": 5,
        "logit_mass": 0.9,
        "max_features": 7500,
        "batch_size": 256,
        "memory_limit": None,
        "offload": True,
        "force": False,
    }


@pytest.mark.parametrize(
    ("transcoders", "model"),
    [
        ("gemma", "gemma-2-2b"),
        ("llama", "llama-3.2-1b"),
        ("mwhanna/gemma-scope-transcoders", "gemma-2-2b"),
        ("mntss/clt-gemma-2-2b-2.5M", "gemma-2-2b"),
        ("per-layer", "atlas"),
        ("someone/set", "atlas"),
    ],
)
def test_a_listed_set_alone_names_its_model(
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]], transcoders: str, model: str
) -> None:
    assert main(["trace", "--transcoders", transcoders, "x"]) == 2
    assert calls[0][0][:2] == (model, transcoders)
    assert main(["trace", "--model", "mine", "--transcoders", transcoders, "x"]) == 2
    assert calls[2][0][:2] == ("mine", transcoders)


def test_short_names_are_those_of_listed_sets() -> None:
    for name, reference in (("gemma", "mntss/gemma-scope-transcoders"), ("llama", None)):
        entry = listed("gemma-2-2b" if name == "gemma" else "llama-3.2-1b", name)
        assert entry is not None
        assert entry[1].reference == (reference or "mntss/transcoder-Llama-3.2-1B")
    assert listed("gemma-2-2b", "llama") is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["attribute", "--slug", "x"], "trace with --save, then run `export GRAPH DIRECTORY/SLUG"),
        (["attribute", "--graph_file_dir=x"], "--graph_file_dir is an option of circuit-tracer: "),
        (["attribute", "--server"], "run `app`, the dashboard"),
        (["start-server", "--port", "8041"], r"run `app --server\.port PORT`"),
        (["attribute", "--backend", "nnsight"], "every model opens through TransformerLens"),
    ],
)
def test_an_option_without_a_counterpart_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(TracerError, match=message):
        translated(arguments)
    assert main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("name", ["graph.pt", "graph.json"])
def test_a_graph_is_not_saved_under_a_misleading_name(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["attribute", "-t", "gemma", "-o", name, "-p", "x"]) == 2
    assert f"--save {name} would not be a " in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["export", "graph", "--slug", "x"],
        ["search", "-p"],
        ["trace", "--json", "--", "--prompt"],
        [],
    ],
)
def test_other_commands_and_plain_words_stay(arguments: list[str]) -> None:
    assert translated(arguments) == arguments
