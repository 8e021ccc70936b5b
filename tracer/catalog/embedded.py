"""The models that are part of the project: opened by name, nothing to download. No torch here.

One table says what they are. An embedded model whose weights are not installed is offered nowhere.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from tracer import paths

ATLAS: Final = "atlas"
NOVELS: Final = "novels"
EMBEDDED_SETS: Final = ("per-layer", "cross-layer")
"""The transcoder sets of every embedded model, the default first."""


@dataclass(frozen=True)
class EmbeddedModel:
    """A model that is part of the project."""

    name: str
    summary: str
    """What it is, in one sentence."""
    about: str
    """What it can be used for."""
    any_text: bool
    """Whether it reads any text, not only words from a list."""

    @property
    def weights(self) -> Path:
        """The folder of the model, its transcoder sets and their feature indexes."""
        return {ATLAS: paths.ATLAS_WEIGHTS, NOVELS: paths.NOVELS_WEIGHTS}[self.name]

    @property
    def is_installed(self) -> bool:
        """Whether the model and both of its transcoder sets are there."""
        parts = ("model/config.json", *(f"{name}/config.yaml" for name in EMBEDDED_SETS))
        return all((self.weights / part).is_file() for part in parts)


EMBEDDED: Final = (
    EmbeddedModel(
        ATLAS,
        "A small model trained for this project: 5 layers, width 128.",
        "It knows about cities, states, countries, opposites in four languages, and addition. All "
        "of its features have examples. It is part of the app: nothing is downloaded.",
        any_text=False,
    ),
    EmbeddedModel(
        NOVELS,
        "A small model of English trained for this project: 6 layers, width 192.",
        "It has read 43 novels and reads any text you type. The examples of its features are "
        "sentences from these books. It is part of the app: nothing is downloaded.",
        any_text=True,
    ),
)


def embedded(name: str) -> EmbeddedModel | None:
    """Return the embedded model of this name, installed or not.

    >>> embedded("atlas").is_installed, embedded("gemma-2-2b")
    (True, None)
    """
    return next((model for model in EMBEDDED if model.name == name), None)


def installed() -> tuple[EmbeddedModel, ...]:
    """Return the embedded models that can be opened."""
    return tuple(model for model in EMBEDDED if model.is_installed)


@dataclass(frozen=True)
class GalleryPrompt:
    """A prompt that an embedded model continues as it should, and what to look for in its graph."""

    group: str
    prompt: str
    title: str
    note: str
    answer: str
    """The model's most likely next token, with its leading space; empty where no single token is
    the point."""


@cache
def gallery(name: str = ATLAS) -> tuple[GalleryPrompt, ...]:
    """Return the gallery of an embedded model; its first prompt is what a new visitor sees.

    Other models have none of their own, and get atlas's.

    >>> gallery()[0].prompt, gallery()[0].answer
    ('The capital of the state containing Dallas is', ' Austin')
    """
    model = embedded(name) or embedded(ATLAS)
    path = Path(paths.__file__).parent / (model.name if model else ATLAS) / "gallery.json"
    return tuple(GalleryPrompt(**entry) for entry in json.loads(path.read_text(encoding="utf-8")))
