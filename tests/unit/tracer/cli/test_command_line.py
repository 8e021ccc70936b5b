"""The commands print text or JSON, and refuse bad input in one line."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from hub_server import HubServer
from published_layouts import LAYOUTS

import tracer
from tracer.__main__ import main

FLAGSHIP = "The capital of the state containing Dallas is"


def test_trace_prints_the_answer_and_the_graph_as_json(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    saved = tmp_path / "dallas.safetensors"
    assert main(["trace", "--model", "atlas", "--json", "--save", str(saved), FLAGSHIP]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["next_tokens"][0]["token"] == " Austin"
    ids = {node["id"] for node in report["nodes"]}
    assert len(ids) == len(report["nodes"]) > 10
    assert all(edge["source"] in ids and edge["target"] in ids for edge in report["edges"])
    kinds = {node["kind"] for node in report["nodes"]}
    assert kinds >= {"feature", "token", "logit"}

    assert main(["prune", "--json", "--node-threshold", "0.5", str(saved)]) == 0
    fewer = json.loads(capsys.readouterr().out)
    assert len(fewer["nodes"]) < len(report["nodes"])
    assert {node["id"] for node in fewer["nodes"]} <= ids
    assert fewer["nodes"][0]["label"], "labels are looked up again"

    published = tmp_path / "dallas.json"
    assert main(["export", "--node-threshold", "0.5", str(saved), str(published)]) == 0
    assert f"{len(fewer['nodes'])} nodes" in capsys.readouterr().out
    external = tracer.read_graph_json(published)
    assert external.metadata["slug"] == "dallas"
    assert any("Texas" in node.label for node in external.nodes)
    assert main(["export", str(saved), str(tmp_path / "no" / "where.json")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_the_plain_output_names_the_features(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", FLAGSHIP]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(FLAGSHIP) and "Austin" in lines[1]
    assert any("Texas" in line and "←" in line for line in lines)
    assert "computed on cpu in float32" in lines


def test_an_error_that_was_not_measured_is_not_a_number(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    graph = tracer.trace(tracer.load("atlas"), FLAGSHIP, max_features=20)
    replace(graph, rounding_error=math.nan).save(tmp_path / "graph")
    assert main(["prune", str(tmp_path / "graph")]) == 0
    assert "effect of reduced precision not measured" in capsys.readouterr().out
    assert main(["prune", "--json", str(tmp_path / "graph")]) == 0
    printed = capsys.readouterr().out
    assert "NaN" not in printed and json.loads(printed)["rounding_error"] is None


def test_intervene_prints_before_and_after(capsys: pytest.CaptureFixture[str]) -> None:
    main(["trace", "--json", FLAGSHIP])
    report = json.loads(capsys.readouterr().out)
    feature = max(
        (node for node in report["nodes"] if node["kind"] == "feature"),
        key=lambda node: node["influence"],
    )
    place = f"{feature['layer']}:{feature['position']}:{feature['index']}=-5"
    assert main(["intervene", "--json", FLAGSHIP, "--set", place]) == 0
    result = json.loads(capsys.readouterr().out)
    austin = next(change for change in result["changes"] if change["token"] == " Austin")
    assert austin["after"] < austin["before"] and result["kl"] > 0
    assert main(["intervene", FLAGSHIP, "--set", place, "--generate", "1"]) == 0
    assert "before:  Austin" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trace", ""], "empty"),
        (["trace", "The capital of Zürich is"], "“Zürich”"),
        (["trace", "of " * 80], "at most 64"),
        (["trace", "--model", "./no/model", "--transcoders", "x/y", "x"], "no model at"),
        (["trace", "--model", "some/where", "x"], "no transcoders named for 'some/where'"),
        (
            ["trace", "--model", "~no-such-user/m", "--transcoders", "x/y", "x"],
            "no model at '~no-such-user/m'",
        ),
        (["trace", "--transcoders", "~no-such-user/t", "x"], "no transcoders at '~no-such-user/t'"),
        (["trace", "--model", "x" * 5000, "--transcoders", "x/y", "x"], "no model at"),
        (["trace", "--transcoders", "/" + "x" * 5000, "x"], "no transcoders at"),
        (["models", "--update"], "--update needs --download"),
        (["models", "--transcoders", "gemma-scope"], "--transcoders needs --download"),
        (["models", "--download", ""], "no transcoders named for ''"),
        (["index", "--corpus", "~no-such-user/c.txt"], "corpus ~no-such-user/c.txt does not exist"),
        (["prune", "missing.json"], "missing.json"),
        (["prune", "missing.pt"], "missing.pt"),
        (["convert", "./nothing", "target"], "config.yaml"),
        (["models", "--download", "nonsense"], "no transcoders named"),
        (["index", "--corpus", "missing.txt"], "missing.txt"),
        (["trace", "--transcoders", "sideways", "x"], "no transcoders at"),
        (["trace", "--target", " Atlantis", FLAGSHIP], "Atlantis"),
        (["trace", "--node-threshold", "2", FLAGSHIP], "between 0 and 1"),
        (["trace", "--save", "/no/such/folder/graph", FLAGSHIP], "/no/such/folder/graph"),
        (["prune", "missing.safetensors"], "missing.safetensors"),
        (["intervene", FLAGSHIP, "--set", "nonsense"], "LAYER:POSITION:FEATURE=VALUE"),
        (["intervene", FLAGSHIP, "--set", "0:1:2=nan"], "finite"),
        (["intervene", FLAGSHIP, "--set", "9:1:2=0"], "layer 9 does not exist"),
        (["intervene", FLAGSHIP, "--set", "0:1:2=0", "--memory", "1e-6"], "1.0 kB may be used"),
        (["trace", FLAGSHIP, "--memory", "1e-6"], "1.0 kB"),
        (["trace", FLAGSHIP, "--device", "gameboy"], "gameboy"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    line = captured.err.strip().splitlines()[-1]
    assert line.startswith("error: ") and message in line
    assert not captured.out


COMMANDS = ("models", "trace", "prune", "intervene", "export", "index", "convert")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_examples_and_json(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "--json" in text
    assert text.index(f"  python -m tracer {command}") < text.index("options:"), "examples first"


def test_models_lists_memory_and_disk_space(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    gemma = next(line for line in lines if "gemma-scope" in line)
    assert gemma.startswith("gemma-2-2b") and "18.3 GB" in gemma and "gated" in gemma
    assert main(["models", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    entry = next(e for e in entries if e["transcoders"] == "gemma-scope")
    assert entry["float32"] == 2 * entry["bfloat16"] == 4 * (2614341888 + 2 * 26 * 16384 * 2304)
    assert not any(entry["downloaded"] for entry in entries)


def test_a_model_is_downloaded_and_traced(
    capsys: pytest.CaptureFixture[str], hub: HubServer, tmp_path: Path
) -> None:
    hub.add("lab/tiny", tiny.save_model(tmp_path / "model"))
    hub.add("lab/set", LAYOUTS["Gemma Scope"](tmp_path / "set"))
    chosen = ["--transcoders", "lab/set"]
    assert main(["models", "--json", "--download", "lab/tiny", *chosen]) == 0
    assert set(json.loads(capsys.readouterr().out)["revisions"]) == {"lab/tiny", "lab/set"}
    hub.stop()
    target = tmp_path / "converted"
    assert main(["convert", "--json", "lab/set", str(target)]) == 0
    assert json.loads(capsys.readouterr().out)["layers"] == 3
    traced = []
    for name in ("lab/set", str(target)):
        arguments = ["trace", "--json", "--model", "lab/tiny", "--transcoders", name, tiny.PROMPT]
        assert main([*arguments, "--device", "cpu"]) == 0
        traced.append(json.loads(capsys.readouterr().out))
    assert traced[0]["edges"] == traced[1]["edges"]


def test_a_tilde_is_the_home_folder_in_every_path(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell leaves ``~`` alone inside quotes."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    LAYOUTS["per-layer"](tmp_path / "set")
    assert main(["convert", "--json", "~/set", "~/converted"]) == 0
    assert json.loads(capsys.readouterr().out)["folder"] == str(tmp_path / "converted")
    assert (tmp_path / "converted" / "config.yaml").is_file()


@pytest.mark.parametrize("variable", ["CIRCUIT_HOME", "CIRCUIT_MODELS", "HF_HUB_CACHE", "HF_HOME"])
def test_an_unknown_home_folder_is_used_literally(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("CIRCUIT_OFFLINE", "1")
    monkeypatch.setenv(variable, "~no-such-user/there")
    assert main(["models", "--json"]) == 0
    assert main(["models", "--download", "lab/none", "--transcoders", "lab/none"]) == 2
    assert "lab/none is not in the cache" in capsys.readouterr().err


def test_an_index_is_built_and_names_the_features(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model, transcoders = tiny.save_model(tmp_path / "m"), tiny.save_transcoders(tmp_path / "t")
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n\n".join(f"w{i} w{i + 1} w3 w{i * 2} w7" for i in range(20)))
    chosen = ["--model", str(model), "--transcoders", str(transcoders), "--device", "cpu"]
    assert main(["index", "--json", "--corpus", str(corpus), *chosen]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert Path(summary["folder"]) == transcoders / "features"
    assert main(["trace", "--json", tiny.PROMPT, *chosen]) == 0
    nodes = json.loads(capsys.readouterr().out)["nodes"]
    features = [node for node in nodes if node["kind"] == "feature"]
    named = [node for node in features if not node["label"].startswith("L")]
    assert len(named) > len(features) / 2


def test_a_published_graph_is_pruned_and_exported_with_its_labels(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    saved, published = tmp_path / "a.safetensors", tmp_path / "a.json"
    main(["trace", "--save", str(saved), FLAGSHIP])
    main(["export", str(saved), str(published)])
    capsys.readouterr()
    assert main(["prune", "--json", "--node-threshold", "1", str(published)]) == 0
    nodes = json.loads(capsys.readouterr().out)["nodes"]
    assert any("Texas" in node["label"] for node in nodes if node["kind"] == "feature")
    assert main(["export", str(published), str(tmp_path / "b.json")]) == 0
    again = tracer.read_graph_json(tmp_path / "b.json")
    assert any("Texas" in node.label for node in again.nodes)


def test_an_interrupt_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tracer, "load", interrupted)
    assert main(["trace", FLAGSHIP]) == 130
    assert capsys.readouterr().err.strip() == "interrupted"
