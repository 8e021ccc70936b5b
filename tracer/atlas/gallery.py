"""The example prompts that the app offers. Standard library only."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class GalleryPrompt:
    """A prompt that atlas answers correctly, and what to look for in its graph."""

    group: str
    prompt: str
    title: str
    note: str
    answer: str
    """The model's most likely next token, with its leading space."""


@cache
def gallery() -> tuple[GalleryPrompt, ...]:
    """Return all prompts; the first one is what a new visitor sees.

    >>> gallery()[0].prompt, gallery()[0].answer
    ('The capital of the state containing Dallas is', ' Austin')
    """
    path = Path(__file__).parent / "gallery.json"
    return tuple(GalleryPrompt(**entry) for entry in json.loads(path.read_text(encoding="utf-8")))
