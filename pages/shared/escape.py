"""Show prompts, tokens and labels as text: escape them for Markdown and HTML."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from charts.palette import Palette, translucent
from charts.text import token_text
from tracer.features.cards import Example

_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+\-.!|~$:<>&^=])")

_ADDRESS = re.compile(r"://|www\.|@(?=\w)\w", re.IGNORECASE)
"""What makes a text a web or mail address, which is broken before its last character."""


def plain(text: str) -> str:
    """Escape ``text`` for Streamlit's Markdown, on one line.

    A blank line followed by four spaces would otherwise start a code block. Addresses are made
    inert with an invisible character: Streamlit turns even escaped ones into links.
    """
    return _MARKDOWN.sub(r"\\\1", _ADDRESS.sub(_inert, text)).replace("\n", " ↵ ")


def _inert(address: re.Match[str]) -> str:
    return f"{address[0][:-1]}\u200b{address[0][-1]}"


def sentence(error: Exception | str) -> str:
    """Return an error message as a sentence: capitalised, unless it starts with a name or path,
    and with a period."""
    text = str(error).strip()
    first = text.partition(" ")[0]
    is_name = any(mark in first.rstrip(":,") for mark in "/._-'\"“")
    capitalised = text if is_name else text[:1].upper() + text[1:]
    return capitalised if capitalised.endswith((".", "!", "?", "…")) else f"{capitalised}."


def example_html(example: Example, strongest: float, palette: Palette, around: int) -> str:
    """Return an example's tokens shaded by activation, at most ``around`` either side of the peak.

    An activation of ``strongest`` gets the full shade.
    """
    peak = max(range(len(example.tokens)), key=lambda i: example.activations[i])
    start, stop = max(0, peak - around), min(len(example.tokens), peak + around + 1)
    return _shaded(example, start, stop, strongest, palette)


def shaded_html(example: Example, strongest: float, palette: Palette) -> str:
    """Return all tokens of a text shaded by activation."""
    return _shaded(example, 0, len(example.tokens), strongest, palette)


def _shaded(example: Example, start: int, stop: int, strongest: float, palette: Palette) -> str:
    spans = []
    for token, activation in zip(
        example.tokens[start:stop], example.activations[start:stop], strict=True
    ):
        text = html.escape(token if token.strip() else token_text(token), quote=True)
        if activation > 0:
            alpha = 0.12 + 0.6 * min(1.0, activation / strongest) if strongest > 0 else 0.2
            shade = translucent(palette.selected, alpha)
            spans.append(
                f'<span style="background:{shade};border-radius:3px" '
                f'title="activation {activation:.2f}">{text}</span>'
            )
        else:
            spans.append(text)
    return (
        '<div style="white-space:pre-wrap;line-height:1.55;font-size:0.875rem;padding:1px 0">'
        + ("…" if start else "")
        + "".join(spans)
        + ("…" if stop < len(example.tokens) else "")
        + _source_html(example)
        + "</div>"
    )


def _source_html(example: Example) -> str:
    """Return title and author of an example's text, on a line of their own; empty if unknown."""
    if not example.source:
        return ""
    name = html.escape(example.source, quote=True)
    return f'<div style="opacity:0.6;font-size:0.75rem;line-height:1.2">{name}</div>'


def chips_html(tokens: Sequence[str], colour: str) -> str:
    """Return tokens as small outlined words."""
    style = (
        f"display:inline-block;border:1px solid {translucent(colour, 0.55)};border-radius:5px;"
        "padding:0 6px;margin:0 4px 4px 0;font-size:0.8125rem;white-space:pre"
    )
    words = (html.escape(token_text(token), quote=True) for token in tokens)
    return "<div>" + "".join(f'<span style="{style}">{word}</span>' for word in words) + "</div>"
