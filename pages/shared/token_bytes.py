"""Which bytes the tokens of a prompt stand for, where they are not characters of their own.

The answer is in the tokenizer's vocabulary, which is read without loading the model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Final

_BYTE: Final = re.compile(r"<0x([0-9A-F]{2})>")
_UNREADABLE: Final = "\ufffd"


def with_bytes(tokens: Sequence[str], ids: Sequence[int], model_folder: Path) -> tuple[str, ...]:
    """Return the tokens with unreadable ones replaced by their bytes, such as ``<0xF0><0x9F>``."""
    if not any(_UNREADABLE in token for token in tokens):
        return tuple(tokens)
    pieces = _pieces(model_folder / "tokenizer.json")
    return tuple(
        bytes_of(pieces.get(number, "")) or token if _UNREADABLE in token else token
        for token, number in zip(tokens, ids, strict=True)
    )


def bytes_of(piece: str) -> str:
    """Return the bytes of a vocabulary entry; empty where they are not known.

    Entries are ``<0xF0>`` where a vocabulary has byte tokens, or text in the alphabet of GPT-2, in
    which every byte is one visible character.

    >>> bytes_of("<0xF0>"), bytes_of("ðŁ")
    ('<0xF0>', '<0xF0><0x9F>')
    """
    if _BYTE.fullmatch(piece):
        return piece
    alphabet = _gpt2_alphabet()
    if not piece or any(character not in alphabet for character in piece):
        return ""
    return "".join(f"<0x{alphabet[character]:02X}>" for character in piece)


@cache
def _gpt2_alphabet() -> dict[str, int]:
    """Return the byte of every character; bytes that are not visible begin at U+0100."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in visible}
    hidden = [byte for byte in range(256) if byte not in visible]
    return alphabet | {chr(256 + number): byte for number, byte in enumerate(hidden)}


@lru_cache(maxsize=2)
def _pieces(path: Path) -> dict[int, str]:
    """Return a vocabulary by id; empty where it cannot be read."""
    try:
        vocabulary = json.loads(path.read_text(encoding="utf-8"))["model"]["vocab"]
        if isinstance(vocabulary, dict):
            return {int(number): str(piece) for piece, number in vocabulary.items()}
        return {number: str(entry[0]) for number, entry in enumerate(vocabulary)}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
