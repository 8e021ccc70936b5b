"""An example of a feature as data, for the scripts that draw it as text."""

from __future__ import annotations

from typing import Any

from charts.text import token_text
from tracer.features.cards import Example


def example_parts(example: Example, around: int) -> dict[str, Any]:
    """Return the text around an example's peak, at most ``around`` tokens on either side.

    ``parts`` are pairs of a text and its activation; neighbouring tokens on which the feature is
    not active are one text. ``before`` and ``after`` say where the text goes on.
    """
    peak = max(range(len(example.tokens)), key=lambda i: example.activations[i])
    start, stop = max(0, peak - around), min(len(example.tokens), peak + around + 1)
    parts: list[list[Any]] = []
    tokens, activations = example.tokens[start:stop], example.activations[start:stop]
    for token, activation in zip(tokens, activations, strict=True):
        text = token if token.strip() else token_text(token)
        if activation > 0:
            parts.append([text, round(float(activation), 3)])
        elif parts and parts[-1][1] == 0:
            parts[-1][0] += text
        else:
            parts.append([text, 0])
    return {
        "parts": parts,
        "before": start > 0,
        "after": stop < len(example.tokens),
        "source": example.source or "",
    }
