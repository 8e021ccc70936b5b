"""Prompts from a pasted text or a file, traced in turn and clicked through."""

from __future__ import annotations

import csv
import io
import json
from typing import Final

MOST_PROMPTS: Final = 500
LONGEST_PROMPT: Final = 20_000
_COLUMNS: Final = ("prompt", "text", "question", "input")


class PromptFileError(ValueError):
    """A file of prompts cannot be read."""


def prompts_of(text: str) -> tuple[str, ...]:
    """Return a prompt for each line that is not empty, without repetitions."""
    return _checked([line.strip() for line in text.splitlines()])


def prompts_of_file(content: bytes, name: str) -> tuple[str, ...]:
    """Return the prompts of a file: CSV, JSON lines, or a line each.

    A CSV file's column ``prompt`` (or ``text``, ``question``, ``input``) is taken, else its first.
    A line of JSON is a text, or an object with one of these keys. Raises :class:`PromptFileError`.

    >>> prompts_of_file(b'id,prompt\\n1,"Dallas, in"\\n', "p.csv")
    ('Dallas, in',)
    >>> prompts_of_file(b'{"prompt": "Dallas is"}\\n"Boston is"\\n', "p.jsonl")
    ('Dallas is', 'Boston is')
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PromptFileError(f"{name} is not UTF-8: save it as UTF-8 text") from error
    if name.lower().endswith((".jsonl", ".json")):
        return _checked(_json_lines(text, name))
    if name.lower().endswith(".csv"):
        return _checked(_csv_column(text, name))
    return prompts_of(text)


def _csv_column(text: str, name: str) -> list[str]:
    try:
        rows = [row for row in csv.reader(io.StringIO(text)) if row]
    except csv.Error as error:
        raise PromptFileError(f"{name} is not CSV ({error})") from error
    if not rows:
        return []
    head = [cell.strip().casefold() for cell in rows[0]]
    column = next((head.index(known) for known in _COLUMNS if known in head), None)
    if column is None:
        return [row[0] for row in rows]
    return [row[column] for row in rows[1:] if column < len(row)]


def _json_lines(text: str, name: str) -> list[str]:
    prompts = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise PromptFileError(f"line {number} of {name} is not JSON") from error
        if isinstance(value, dict):
            value = next((value[key] for key in _COLUMNS if key in value), None)
        if not isinstance(value, str):
            raise PromptFileError(
                f"line {number} of {name} has no prompt: expected a text, or an object with the "
                "key 'prompt'"
            )
        prompts.append(value)
    return prompts


def _checked(prompts: list[str]) -> tuple[str, ...]:
    unique = tuple(dict.fromkeys(prompt for prompt in prompts if prompt.strip()))
    if len(unique) > MOST_PROMPTS:
        raise PromptFileError(
            f"there are {len(unique):,} prompts, at most {MOST_PROMPTS} can be traced in turn: "
            "split them"
        )
    longest = max(map(len, unique), default=0)
    if longest > LONGEST_PROMPT:
        raise PromptFileError(
            f"a prompt has {longest:,} characters, at most {LONGEST_PROMPT:,} can be read: "
            "shorten it"
        )
    return unique
