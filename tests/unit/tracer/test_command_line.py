"""The command line: what it prints, and how it says no."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

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
    assert fewer["nodes"][0]["label"], "labels are found again"

    published = tmp_path / "dallas.json"
    assert main(["export", "--node-threshold", "0.5", str(saved), str(published)]) == 0
    assert f"{len(fewer['nodes'])} nodes" in capsys.readouterr().out
    shared = tracer.read_graph_json(published)
    assert shared.metadata["slug"] == "dallas"
    assert any("Texas" in node.label for node in shared.nodes)
    assert main(["export", str(saved), str(tmp_path / "no" / "where.json")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_person_can_read_the_plain_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", FLAGSHIP]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(FLAGSHIP) and "Austin" in lines[1]
    assert any("Texas" in line and "←" in line for line in lines)


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
    ("arguments", "said"),
    [
        (["trace", ""], "empty"),
        (["trace", "The capital of Zürich is"], "“Zürich”"),
        (["trace", "of " * 80], "at most 64"),
        (["trace", "--model", "no/such/model", "x"], "no model at"),
        (["trace", "--transcoders", "sideways", "x"], "no transcoders at"),
        (["trace", "--target", " Atlantis", FLAGSHIP], "Atlantis"),
        (["trace", "--node-threshold", "2", FLAGSHIP], "between 0 and 1"),
        (["trace", "--save", "/no/such/folder/graph", FLAGSHIP], "/no/such/folder/graph"),
        (["prune", "missing.safetensors"], "missing.safetensors"),
        (["intervene", FLAGSHIP, "--set", "nonsense"], "LAYER:POSITION:FEATURE=VALUE"),
        (["intervene", FLAGSHIP, "--set", "0:1:2=nan"], "finite"),
        (["intervene", FLAGSHIP, "--set", "9:1:2=0"], "layer 9"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    message = captured.err.strip().splitlines()[-1]
    assert message.startswith("error: ") and said in message
    assert not captured.out
