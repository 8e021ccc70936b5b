"""Parse YAML and JSON that others wrote: bounded in size and depth, errors as one sentence.

What is parsed is then validated with pydantic; `problem` says in plain words what it found. Every
function here raises ``ValueError`` and nothing else for malformed input, so a caller adds the name
of the file and raises an error of its own kind. No torch here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from reprlib import Repr
from typing import Any, Final

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError, from_json

from tracer.errors import one_line

MAX_BYTES: Final = 10**6
"""The largest YAML or JSON file that `read_yaml` and `read_json` read."""
MAX_DEPTH: Final = 20
"""The deepest nesting in a YAML file."""
_MAX_DIGITS: Final = 40
_ROOT: Final = "the content"
_SHOWN: Final = 80
"""Characters of a wrong value that a message repeats."""

_repr = Repr()
_repr.maxstring = _repr.maxother = _SHOWN
_repr.maxlevel = 3

_EXPECTED: Final = {
    "bool_type": "true or false",
    "dict_type": "keys with values",
    "finite_number": "a finite number",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "list_type": "a list",
    "model_type": "keys with values",
    "string_too_short": "text that is not empty",
    "string_type": "text",
    "string_unicode": "text",
    "too_short": "a list that is not empty",
}
"""What pydantic's most frequent errors expect, in the words of a person who writes YAML."""
_SIDES: Final = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("of at least", "ge"),
    "less_than": ("below", "lt"),
}


def read_yaml(path: Path) -> Any:
    """Return the contents of a YAML file of plain values, lists and mappings.

    Anchors, aliases, tags and repeated keys are refused: a configuration needs none of them, and
    aliases let a few lines expand to gigabytes. Raises ``OSError`` for a file that cannot be
    opened and ``ValueError`` for one that is malformed, larger than `MAX_BYTES` or nested deeper
    than `MAX_DEPTH`.
    """
    return parse_yaml(_read(path).decode("utf-8"))


def parse_yaml(text: str) -> Any:
    """Return what ``text`` says, as `read_yaml` does for a file.

    >>> parse_yaml("models: [{name: mine, layers: 3}]")
    {'models': [{'name': 'mine', 'layers': 3}]}
    >>> parse_yaml("a: &x [1, 2]")
    Traceback (most recent call last):
    ValueError: line 1: anchors and aliases (& and *) are not supported
    """
    try:
        return yaml.load(text, _PlainLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ValueError(f"line {line}: {one_line(error.problem)}") from error
    except yaml.YAMLError as error:
        raise ValueError(one_line(error)) from error


def read_json(path: Path) -> Any:
    """Return the contents of a JSON file.

    Raises ``OSError`` for a file that cannot be opened and ``ValueError`` for one that is malformed
    or larger than `MAX_BYTES`; nesting is bounded by the parser.
    """
    return from_json(_read(path))


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES:,} bytes")
    return content


class _PlainLoader(yaml.SafeLoader):
    """Safe YAML without anchors, aliases, tags, repeated keys and deep nesting."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise ValueError(f"line {line}: anchors and aliases (& and *) are not supported")
        if getattr(event, "tag", None) is not None:
            raise ValueError(f"line {line}: tags (!) are not supported")
        if self._depth == MAX_DEPTH:
            raise ValueError(f"line {line}: nested deeper than {MAX_DEPTH} levels")
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        number = isinstance(node, yaml.ScalarNode) and node.tag.endswith((":int", ":float"))
        if node is not None and number and len(node.value) > _MAX_DIGITS:
            raise ValueError(f"line {line}: a number of more than {_MAX_DIGITS} digits")
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                line = key.start_mark.line + 1
                raise ValueError(f"line {line}: the key {shortened(key.value)} is repeated")
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return super().construct_mapping(node, deep)


class Fields(BaseModel):
    """A mapping with exactly these fields, of exactly these types."""

    model_config = ConfigDict(frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _only_known_fields(cls, value: Any) -> Any:
        unknown = (
            [key for key in value if key not in cls.model_fields] if isinstance(value, dict) else []
        )
        if unknown:
            known = ", ".join(cls.model_fields)
            raise PydanticCustomError(
                "unknown_field", "{known}", {"key": unknown[0], "known": known}
            )
        return value


def problem(error: ValidationError, root: object = None) -> str:
    """Return what is wrong, without the file's name: field, entry, value found, value expected.

    ``root`` is what was validated; with it, entries of a list are called by their ``name``. Only
    the first of several errors is reported.

    >>> class Model(Fields):
    ...     name: str
    ...     layers: int
    >>> class Models(Fields):
    ...     models: list[Model]
    >>> given = {"models": [{"name": "mine", "layers": "many"}]}
    >>> try:
    ...     Models.model_validate(given)
    ... except ValidationError as error:
    ...     print(problem(error, given))
    'layers' of model 'mine' is 'many': expected a whole number
    """
    detail = error.errors(include_url=False)[0]
    kind, place = detail["type"], _place(detail["loc"], root)
    if kind == "json_invalid":
        return f"it is not JSON ({detail['ctx']['error']})"
    if kind == "missing":
        return f"{place} is missing"
    if kind == "unknown_field":
        key, known = shortened(detail["ctx"]["key"]), detail["ctx"]["known"]
        inside = "" if place == _ROOT else f" of {place}"
        return f"{key}{inside} is not a known field: expected one of {known}"
    return f"{place} is {shortened(detail['input'])}: expected {_expected(detail)}"


def _place(location: Sequence[int | str], root: object) -> str:
    """``('models', 0, 'layers')`` -> ``'layers' of model 'mine'``; `_ROOT` without a location."""
    names: list[str] = []
    for part in location:
        try:
            root = root[part]  # type: ignore[index]
        except (KeyError, IndexError, TypeError):
            root = None
        name = root.get("name") if isinstance(root, dict) else None
        if isinstance(part, str):
            names.append(f"'{part}'")
        elif names and isinstance(name, str):
            names[-1] = f"{names[-1].strip(chr(39)).removesuffix('s')} {shortened(name)}"
        else:
            names.append(f"{names.pop().strip(chr(39))}[{part}]" if names else f"item {part}")
    return " of ".join(reversed(names)) or _ROOT


def _expected(detail: ErrorDetails) -> str:
    kind, limits = detail["type"], detail.get("ctx", {})
    if kind in _EXPECTED:
        return _EXPECTED[kind]
    if kind in ("greater_than", "less_than", "greater_than_equal"):
        side, limit = _SIDES[kind]
        return f"a number {side} {limits[limit]}"
    if kind == "literal_error":
        return str(limits["expected"]).replace("'", "")
    return detail["msg"].removeprefix("Input should be ").removeprefix("Value error, ")


def shortened(value: object) -> str:
    """Return the value as Python writes it, shortened to at most 80 characters.

    >>> shortened("many"), len(shortened("x" * 1000))
    ("'many'", 80)
    >>> shortened([1, [2, [3, [4, [5]]]]])
    '[1, [2, [3, [...]]]]'
    """
    try:
        text = _repr.repr(value)
    except ValueError:  # an integer of more digits than Python writes
        return "a number with thousands of digits"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
