"""The colours of all figures, for light and dark pages.

Positive and negative effects differ in hue (bluish green and vermilion, distinguishable with all
common forms of colour blindness), in lightness, and in the graph also in dash.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Palette:
    """Colours as ``#rrggbb``."""

    background: str
    text: str
    muted: str
    grid: str
    band: str
    """Fill of every second layer, close to the background."""
    feature: str
    error: str
    anchor: str
    """Tokens and logits, the two ends of the graph."""
    other: str
    """Node kinds that only imported graphs have: attention features, biases, …"""
    positive: str
    negative: str
    selected: str


LIGHT: Final = Palette(
    background="#ffffff",
    text="#1f2733",
    muted="#667085",
    grid="#dfe3ea",
    band="#f6f7f9",
    feature="#4a6fa5",
    error="#a3a9b5",
    anchor="#27364d",
    other="#8a5fb0",
    positive="#12876b",
    negative="#cc4a26",
    selected="#e08a00",
)
DARK: Final = Palette(
    background="#14181f",
    text="#e6e9ef",
    muted="#98a2b3",
    grid="#2c3440",
    band="#191e26",
    feature="#7fa6dc",
    error="#7d8695",
    anchor="#d5dceb",
    other="#b99ae0",
    positive="#3fc79f",
    negative="#f0835f",
    selected="#ffb340",
)


def palette(theme: str | None) -> Palette:
    """Return the palette for a page theme: dark for ``"dark"``, else light."""
    return DARK if theme == "dark" else LIGHT


def translucent(colour: str, alpha: float) -> str:
    """Return ``#rrggbb`` as a CSS ``rgba()`` with the given opacity, 0..1."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha:g})"
