"""Read a file of many prompts: CSV with a header, or one JSON object a line.

Columns: ``prompt`` or ``messages`` (a chat: a list of objects with ``role`` and ``content``; in
CSV as JSON), and optionally ``label`` (a name for the row) and ``target`` (a token to explain, for
example `` Austin``). A line that cannot be read is reported and skipped.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tracer.errors import PromptError, one_line
from tracer.parsing import shortened

COLUMNS: Final = ("prompt", "label", "target")
MAX_PROMPTS: Final = 100_000
_MAX_LINE: Final = 10**6


@dataclass(frozen=True)
class Prompt:
    """One line of the file."""

    number: int
    """Of the line in the file, counted from 1."""
    prompt: str
    label: str = ""
    target: str = ""
    messages: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Role and content of each message of a chat, in place of ``prompt``."""


@dataclass(frozen=True)
class BadLine:
    """A line that was skipped, and why."""

    number: int
    reason: str


def read_prompts(path: Path) -> tuple[list[Prompt], list[BadLine]]:
    """Return the prompts of a file and the lines that cannot be read.

    Raises :class:`PromptError` when the file itself cannot be read or has no prompt.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PromptError(f"{path} cannot be read ({error.strerror}): check the path") from error
    return prompts_in(content, str(path))


def prompts_in(content: bytes, name: str) -> tuple[list[Prompt], list[BadLine]]:
    """Return the prompts of a file called ``name`` and the lines that cannot be read.

    Raises :class:`PromptError` when the file has no prompt.

    >>> prompts_in(b'{"prompt": "The opposite of hot is"}', "p.jsonl")
    ([Prompt(number=1, prompt='The opposite of hot is', label='', target='')], [])
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PromptError(f"{name} is not UTF-8 text: save it as UTF-8") from error
    prompts, bad = parse_prompts(text, name.lower().endswith((".jsonl", ".ndjson", ".json")))
    if not prompts:
        reason = f" (line {bad[0].number}: {bad[0].reason})" if bad else ""
        raise PromptError(
            f"{name} has no prompt{reason}: expected a column or key 'prompt' or 'messages'"
        )
    return prompts, bad


def prompts_of_lines(text: str) -> tuple[list[Prompt], list[BadLine]]:
    """Return a prompt for each line that is not empty.

    >>> prompts_of_lines("Dallas is in\\n\\nBoston is in")[0]
    [Prompt(number=1, prompt='Dallas is in', label='', target=''), \
Prompt(number=3, prompt='Boston is in', label='', target='')]
    """
    prompts: list[Prompt] = []
    bad: list[BadLine] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            prompts.append(_prompt(number, {"prompt": line.strip()}))
        except ValueError as error:
            bad.append(BadLine(number, one_line(error)))
    return prompts, bad


def parse_prompts(text: str, is_json: bool) -> tuple[list[Prompt], list[BadLine]]:
    """Return the prompts in ``text`` and the lines that cannot be read.

    >>> parse_prompts("prompt,label\\nThe opposite of hot is,cold\\n,empty\\n", is_json=False)
    ([Prompt(number=2, prompt='The opposite of hot is', label='cold', target='')], \
[BadLine(number=3, reason='it has no prompt')])
    """
    prompts: list[Prompt] = []
    bad: list[BadLine] = []
    for number, row in _json_rows(text) if is_json else _csv_rows(text):
        try:
            if len(prompts) >= MAX_PROMPTS:
                raise ValueError(f"the file has more than {MAX_PROMPTS:,} prompts")
            prompts.append(_prompt(number, row))
        except ValueError as error:
            bad.append(BadLine(number, one_line(error)))
    return prompts, bad


def _prompt(number: int, row: Any) -> Prompt:
    if isinstance(row, Exception):
        raise ValueError(str(row))
    if not isinstance(row, dict):
        raise ValueError(f"it is {shortened(row)}, expected an object with a key 'prompt'")
    values = {name: row.get(name) or "" for name in COLUMNS}
    for name, value in values.items():
        if not isinstance(value, str):
            raise ValueError(f"its {name} is {shortened(value)}, expected text")
        if len(value) > _MAX_LINE:
            raise ValueError(f"its {name} has more than {_MAX_LINE:,} characters")
    messages = _messages(row.get("messages") or ())
    if messages and values["prompt"].strip():
        raise ValueError("it has both a prompt and messages: give one of them")
    if not messages and not values["prompt"].strip():
        raise ValueError("it has no prompt")
    return Prompt(number, **values, messages=messages)


def _messages(given: Any) -> tuple[tuple[str, str], ...]:
    """Return a chat, which is JSON text in a CSV file."""
    if isinstance(given, str):
        try:
            given = json.loads(given) if given.strip() else ()
        except (ValueError, RecursionError) as error:
            raise ValueError(f"its messages are not JSON ({one_line(error)})") from error
    return tuple(map(_message, given if isinstance(given, list | tuple) else (given,)))


def _message(given: Any) -> tuple[str, str]:
    """Return the role and content of a message."""
    role, content = map(given.get, ("role", "content")) if isinstance(given, dict) else (None, None)
    if not isinstance(role, str) or not isinstance(content, str):
        raise ValueError(
            f"its message {shortened(given)} is not an object with the texts 'role' and 'content'"
        )
    if len(role) + len(content) > _MAX_LINE:
        raise ValueError(f"its messages have more than {_MAX_LINE:,} characters")
    return role, content


def _csv_rows(text: str) -> Iterator[tuple[int, Any]]:
    reader = csv.DictReader(text.splitlines(keepends=True), strict=True)
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield reader.line_num, ValueError(f"it is not CSV ({error})")
            return
        extra = row.pop(None, None)
        if extra:
            yield reader.line_num, ValueError("it has more columns than the header")
        else:
            yield reader.line_num, row


def _json_rows(text: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, ValueError(f"it is not JSON ({one_line(error)})")
