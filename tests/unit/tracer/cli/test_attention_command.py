"""``attention`` prints which heads carried a node's input, and why a head looks where it looks."""

from __future__ import annotations

import json

import pytest

from tracer.__main__ import main

FLAGSHIP = "The capital of the state containing Dallas is"
DALLAS = 7


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    assert main(["attention", "--json", FLAGSHIP, *arguments]) == 0
    report: dict[str, object] = json.loads(capsys.readouterr().out)
    return report


def test_a_nodes_input_is_split_by_heads(capsys: pytest.CaptureFixture[str]) -> None:
    report = answer(capsys, "--top", "1000")
    assert report["target"] == " Austin"
    total = sum(carrier["weight"] for carrier in report["carried_by"])
    assert total == pytest.approx(report["value"], rel=1e-4)
    assert sum(report["steps"]) == pytest.approx(1)
    strongest = next(c for c in report["carried_by"] if c["head"] >= 0)
    assert strongest["from"][0]["token"] == " Dallas"
    inputs = sum(entry["weight"] for entry in report["inputs"])
    assert inputs == pytest.approx(report["value"], rel=1e-3)
    assert any("Texas" in entry["label"] for entry in report["inputs"])


def test_one_source_is_followed_through_heads(capsys: pytest.CaptureFixture[str]) -> None:
    report = answer(capsys, "--from", str(DALLAS), "--top", "5")
    assert report["source"] == "token Dallas" and report["weight"] > 0
    assert len(report["paths"]) == 5 and report["share_found"] > 0.8
    assert answer(capsys, "--from", "-2")["weight"] == pytest.approx(report["weight"])
    assert main(["attention", FLAGSHIP, "--from", str(DALLAS)]) == 0
    printed = capsys.readouterr().out
    assert "token Dallas → Austin: +" in printed and "% of the edge:" in printed


def test_a_head_is_explained_where_it_looks_most(capsys: pytest.CaptureFixture[str]) -> None:
    report = answer(capsys, "--head", "4:0")
    assert report["key_position"] == max(range(9), key=lambda at: report["pattern"][at])
    asked = answer(capsys, "--head", "4:0", "--key", str(DALLAS), "--top", "1000")
    for side in ("query", "key"):
        total = sum(entry["weight"] for entry in asked[side])
        assert total == pytest.approx(asked["score"], abs=1e-3)
    other = answer(capsys, "--head", "4:0", "--key", str(DALLAS), "--versus", "8")
    assert other["versus"] == 8 and len(other["pairs"]) == 8
    assert main(["attention", FLAGSHIP, "--head", "4:0", "--key", "7", "--versus", "rest"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("L4 H0 looks from is at Dallas, not at the rest: score ")
    assert {"it looks for:", "it finds:", "pairs:"} <= set(lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--head", "9:0"], "layer 9 does not exist: "),
        (["--head", "4"], "--head '4' is not of the form 4:0"),
        (["--head", "4:0", "--versus", "others"], "--versus 'others' is not of the form 6, rest"),
        (["--head", "4:0", "--from", "7"], "--from is part of a question about a node"),
        (["--key", "7"], "--key is part of a question about a head: add --head"),
        (["--top", "0"], "--top is 0: list at least 1 entry"),
        (["--from", "99"], "--from position 99 does not exist: the prompt has 9 tokens"),
        (["--from", "2:7:x"], "--from '2:7:x' is not of the form 7 or 2:7:529"),
        (["--from", "2:7:0"], "feature-2-7-0 is not a source of this prompt"),
        (["--feature", "2:1:0"], "is not active at position 1"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["attention", FLAGSHIP, *arguments]) == 2
    printed = capsys.readouterr()
    error = printed.err.splitlines()[-1]  # the library may show how it loads weights before
    assert message in error and error.startswith("error: ") and not printed.out
