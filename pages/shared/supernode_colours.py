"""The colours of supernodes: their own, or one of six in turn."""

from __future__ import annotations

from charts.flow_figure import COLOURS
from tracer.types import Supernode


def colour_of(group: Supernode, number: int) -> str:
    """Return the colour of the ``number``-th supernode."""
    return group.colour or COLOURS[number % len(COLOURS)]
