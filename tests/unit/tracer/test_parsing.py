"""YAML and JSON from outside are bounded, and every failure is a ValueError of one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from tracer.parsing import Fields, parse_yaml, problem, read_json, read_yaml, shortened


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: &x 1", "line 1: anchors and aliases"),
        ("a: 1\nb: *x", "line 2: anchors and aliases"),
        ("a: !!python/name:os.system", "line 1: tags"),
        ("a: ! b", "line 1: tags"),
        ("a:\n  b: 1\n  b: 2", "line 3: the key 'b' is repeated"),
        ("[" * 21, "line 1: nested deeper than 20 levels"),
        ("? " * 21, "line 1: nested deeper than 20 levels"),
        ("a: " + "9" * 5000, "line 1: a number of more than 40 digits"),
        ("a: 0x" + "f" * 5000, "line 1: a number of more than 40 digits"),
        ("a: 1" + ":1" * 5000, "line 1: a number of more than 40 digits"),
        ("a: 1" + ":1" * 5000 + ".0", "line 1: a number of more than 40 digits"),
        ("? [a]\n: b", "line 1: found unhashable key"),
        ("a: [", "line 1: expected the node content"),
        ("a: \0", "unacceptable character"),
        ("a: 2024-02-30", "day is out of range for month"),
    ],
)
def test_yaml_that_a_configuration_does_not_need_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError) as raised:
        parse_yaml(text)
    assert str(raised.value).startswith(why) and "\n" not in str(raised.value)


def test_plain_yaml_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: [1, 2.5, true, null, text]\nb: {c: é, d: 'x'}\n", encoding="utf-8")
    assert read_yaml(path) == {"a": [1, 2.5, True, None, "text"], "b": {"c": "é", "d": "x"}}
    assert parse_yaml("") is None


def test_text_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"a: \xff")
    with pytest.raises(ValueError, match="utf-8"):
        read_yaml(path)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "9" * 5000, "{", "", '"\\ud800"', " " * 10**6 + "1"]
)
def test_malformed_deep_or_large_json_is_a_value_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError):
        read_json(path)


class Layer(Fields):
    name: str
    width: int


class Layers(Fields):
    layers: list[Layer]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (7, "the content is 7: expected keys with values"),
        ({"layers": [{"name": "x"}]}, "'width' of layer 'x' is missing"),
        ({"layers": [{"width": 1}]}, "'name' of layers[0] is missing"),
        (
            {"layers": [{"name": "x", "width": 2.5}]},
            "'width' of layer 'x' is 2.5: expected a whole number",
        ),
        (
            {"layers": [{"name": "x", "width": 1, "depth": 2}]},
            "'depth' of layer 'x' is not a known field: expected one of name, width",
        ),
        (
            {"layers": [{"name": 10**5000, "width": 1}]},
            "'name' of layers[0] is a number with thousands of digits: expected text",
        ),
    ],
)
def test_a_problem_names_field_entry_value_and_expectation(content: object, message: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Layers.model_validate(content)
    assert problem(raised.value, content) == message


def test_long_values_are_shortened_to_eighty_characters() -> None:
    assert len(shortened("x" * 10**6)) == len(shortened([["x" * 90] * 9])) == 80
