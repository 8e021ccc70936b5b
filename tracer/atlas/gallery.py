"""The example prompts of atlas that the app offers. Standard library only."""

from __future__ import annotations

from tracer.catalog.embedded import ATLAS, GalleryPrompt
from tracer.catalog.embedded import gallery as _gallery

__all__ = ["GalleryPrompt", "gallery"]


def gallery() -> tuple[GalleryPrompt, ...]:
    """Return all prompts; the first one is what a new visitor sees.

    >>> gallery()[0].prompt, gallery()[0].answer
    ('The capital of the state containing Dallas is', ' Austin')
    """
    return _gallery(ATLAS)
