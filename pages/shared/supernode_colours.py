"""The colours of supernodes: their own, or one of six in turn."""

from __future__ import annotations

from typing import Final

from tracer.types import Supernode

COLOURS: Final = ("#c2410c", "#7c3aed", "#0e7490", "#a16207", "#be185d", "#4d7c0f")


def colour_of(group: Supernode, number: int) -> str:
    """Return the colour of the ``number``-th supernode."""
    return group.colour or COLOURS[number % len(COLOURS)]
