"""``python -m tracer search``: what it prints, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tracer.__main__ import main
from tracer.features.cards import FeatureIndex
from tracer.paths import ATLAS_WEIGHTS
from tracer.types import FeatureId

FLAGSHIP = "The capital of the state containing Dallas is"


def report(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    assert main(["search", "--json", *arguments]) == 0
    entries: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    for entry in entries:
        assert entry["feature"] == f"L{entry['layer']}/{entry['index']}"
    return entries


def test_labels(capsys: pytest.CaptureFixture[str]) -> None:
    entries = report(capsys, "--label", "texas -about", "--layers", "0-1", "--limit", "3")
    assert entries and {entry["layer"] for entry in entries} <= {0, 1}
    assert all("Texas" in entry["label"] and "about" not in entry["label"] for entry in entries)
    assert entries[0]["precision"] == entries[0]["value"]
    (one,) = report(capsys, "--label", "L1/887")
    assert one["name"] == one["label"] == "about Texas" and one["z"] is None
    rare = report(capsys, "--label", "texas", "--max-frequency", "0.002")
    index = FeatureIndex.open(ATLAS_WEIGHTS / "per-layer")
    assert 0 < len(rare) < len(report(capsys, "--label", "texas"))
    for entry in rare:
        card = index.card(FeatureId(entry["layer"], entry["index"]))
        assert card.frequency <= 0.002


def test_examples(capsys: pytest.CaptureFixture[str]) -> None:
    entries = report(capsys, "--example", " Dallas", "--limit", "4")
    assert len(entries) == 4
    for entry in entries:
        assert entry["value"] == entry["peaks"] / entry["examples"]
        assert entry["word"] == "Dallas" and entry["activation"] > 0


def test_text(capsys: pytest.CaptureFixture[str]) -> None:
    best = report(capsys, "--text", FLAGSHIP, "--position", "-2", "--limit", "1")[0]
    assert best["token"] == " Dallas" and best["name"] == "about Texas"
    assert best["tokens"][best["position"]] == " Dallas"
    assert best["activations"][best["position"]] == best["value"]
    assert 0.5 < best["share_of_max"] <= 1
    rare = report(capsys, "--text", FLAGSHIP, "--max-frequency", "0.001", "--limit", "500")
    index = FeatureIndex.open(ATLAS_WEIGHTS / "per-layer")
    assert rare and all(
        index.card(FeatureId(entry["layer"], entry["index"])).frequency <= 0.001 for entry in rare
    )


def test_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    promoting = report(capsys, "--promotes", " Austin", "--limit", "5")
    suppressing = report(capsys, "--suppresses", " Austin", "--limit", "5")
    reading = report(capsys, "--reads", " Austin", "--limit", "5")
    for entries, sign in ((promoting, 1), (suppressing, -1), (reading, 1)):
        z = [entry["z"] for entry in entries]
        assert len(z) == 5 and z == sorted(z, key=abs, reverse=True)
        assert all(sign * value > 0 for value in z)


@pytest.mark.parametrize("name", ["per-layer", "cross-layer"])
def test_neighbours(capsys: pytest.CaptureFixture[str], name: str) -> None:
    arguments = ["--transcoders", name, "--like", "1/887", "--limit", "3"]
    similar = report(capsys, *arguments)
    assert similar == report(capsys, *arguments, "--kind", "same-decoder")
    downstream = report(capsys, *arguments, "--kind", "downstream")
    assert len(similar) == 3 and len(downstream) == 6
    assert {entry["layer"] for entry in downstream} <= {2, 3, 4}
    assert report(capsys, *arguments, "--kind", "opposite")[0]["value"] < 0


def test_a_person_can_read_the_plain_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "--example", "Dallas", "--limit", "1"]) == 0
    assert "examples peak on Dallas" in capsys.readouterr().out
    assert main(["search", "--text", FLAGSHIP, "--position", "-2", "--limit", "1"]) == 0
    line = capsys.readouterr().out
    assert "about Texas" in line and "at Dallas, " in line and "% of its maximum" in line
    assert main(["search", "--like", "L1/887", "--kind", "downstream", "--limit", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and "about Texas" in lines[0] and "z +" in lines[0]
    assert main(["search", "--label", "zebra"]) == 0
    assert capsys.readouterr().out == "no feature matches\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--label", " "], "the query is empty"),
        (["--label", "x", "--layers", "two"], "--layers 'two' is not FIRST-LAST"),
        (["--label", "x", "--layers", "3-1"], "layers is 3 to 1"),
        (["--label", "x", "--position", "3"], "--position only works with --text"),
        (["--example", "x", "--max-frequency", "1"], "only works with --label or --text"),
        (["--text", "The", "--kind", "upstream"], "--kind only works with --like"),
        (["--text", "The", "--layers", "1-2"], "--layers only works with --label"),
        (["--text", "of " * 80], "at most 64"),
        (["--text", "The", "--position", "9"], "position 9 cannot be searched"),
        (["--example", "New York"], "one word at a time"),
        (["--promotes", " Atlantis"], "a target is exactly one"),
        (["--like", "L9/1"], "feature L9/1 does not exist"),
        (["--like", "3:417"], "--like '3:417' is not LAYER/FEATURE"),
        (["--label", "x", "--transcoders", "sideways"], "no transcoders at"),
        (["--label", "x", "--limit", "0"], "limit is 0"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["search", *arguments]) == 2
    captured = capsys.readouterr()
    last = captured.err.strip().splitlines()[-1]
    assert last.startswith("error: ") and message in last and not captured.out


def test_exactly_one_search_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--label", "x", "--example", "y"], ["--like", "1/2", "--kind", "near"]):
        with pytest.raises(SystemExit) as ended:
            main(["search", *arguments])
        assert ended.value.code == 2


def test_the_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["search", "--help"])
    assert ended.value.code == 0
    help_text = capsys.readouterr().out
    assert "--json" in help_text and "python -m tracer search" in help_text.split("example", 1)[1]


def test_a_set_without_an_index_is_reported(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import tiny

    model = str(tiny.save_model(tmp_path / "model"))
    place = ["--model", model, "--transcoders", str(tiny.save_transcoders(tmp_path / "set"))]
    assert main(["search", "--label", "x", *place]) == 2
    assert "no labels on this disk" in capsys.readouterr().err
    assert main(["search", "--example", "x", *place]) == 2
    assert "no complete index on this disk" in capsys.readouterr().err
    entries = report(capsys, "--promotes", "w7", "--limit", "2", *place)
    assert [entry["name"] for entry in entries] == ["", ""]
