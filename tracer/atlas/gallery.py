"""Prompts worth a click: what the app offers first. Standard library only."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class GalleryPrompt:
    """A prompt that atlas answers right, and what to look for in its graph."""

    group: str
    prompt: str
    title: str
    note: str
    answer: str
    """The model's next token, with its leading space."""


@cache
def gallery() -> tuple[GalleryPrompt, ...]:
    """All prompts, the flagship first."""
    path = Path(__file__).parent / "gallery.json"
    return tuple(GalleryPrompt(**entry) for entry in json.loads(path.read_text(encoding="utf-8")))
