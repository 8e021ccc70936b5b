"""The tokens of a prompt as chips with their ids; bytes of one character belong together."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from itertools import groupby

from charts.palette import Palette, translucent
from charts.text import token_text

_UNREADABLE = "\ufffd"
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_BYTES = re.compile(r"(<0x[0-9A-F]{2}>)+")


def chips(tokens: Sequence[str], ids: Sequence[int], palette: Palette) -> str:
    """Return the tokens of a prompt in HTML.

    Tokens that are only some bytes of a character are shown in one frame: alone they are not
    readable.
    """
    numbered = list(enumerate(zip(tokens, ids, strict=True)))
    parts = []
    for is_byte, group in groupby(numbered, key=lambda entry: _is_byte(entry[1][0])):
        if not is_byte:
            parts += [_chip(token_text(token), number, palette) for _, (token, number) in group]
            continue
        members = [entry for _, entry in group]
        inside = "".join(_chip(_byte(token), number, palette) for token, number in members)
        frame = f"border:1px dashed {translucent(palette.muted, 0.7)};border-radius:6px"
        title = html.escape(_joined([token for token, _ in members]), quote=True)
        parts.append(
            f'<span style="{frame};padding:2px 0 2px 4px;margin:0 4px 4px 0" '
            f'title="bytes of one text: {title}">{inside}'
            f'<span style="margin-right:4px">{title}</span></span>'
        )
    return f'<div style="line-height:1.9">{"".join(parts)}</div>'


def _is_byte(token: str) -> bool:
    return _UNREADABLE in token or _BYTES.fullmatch(token) is not None


def _byte(token: str) -> str:
    return "".join(f"<{byte}>" for byte in _BYTE.findall(token)) or "byte"


def _joined(tokens: Sequence[str]) -> str:
    """Return the characters that byte tokens spell; empty where that is not known.

    >>> _joined(["<0xC3>", "<0xBC>"])
    'ü'
    """
    if not all(_BYTES.fullmatch(token) for token in tokens):
        return ""
    return bytes.fromhex("".join(_BYTE.findall("".join(tokens)))).decode("utf-8", "replace")


def _chip(text: str, number: int, palette: Palette) -> str:
    style = (
        f"display:inline-block;border:1px solid {translucent(palette.feature, 0.5)};"
        "border-radius:5px;padding:0 6px;margin:0 4px 4px 0;font-size:0.8125rem;white-space:pre"
    )
    muted = f"color:{palette.muted};font-size:0.6875rem;margin-left:5px"
    name = html.escape(text, quote=True)
    return f'<span style="{style}">{name}<span style="{muted}">{number}</span></span>'
