"""Text to token ids and back, for tokenizers of every kind. No torch here.

A token may be part of a character: a byte, or several, that are not UTF-8 alone. Such bytes are
shown as ``\\xe2\\x82``, so that different tokens are different texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import Any, Final

from tracer.errors import ModelError, PromptError, TargetError, UnknownTokenError

_BYTE_PIECE: Final = re.compile(r"<0x([0-9A-F]{2})>")
_ESCAPED: Final = re.compile(r"\\x([0-9a-f]{2})")
_REPLACEMENT: Final = "\ufffd"


def checked_text(text: str, what: str) -> str:
    """Return ``text``; raises :class:`PromptError` if it has half of a surrogate pair.

    Such text comes from a terminal with another encoding, or from a program that cut it apart.

    >>> checked_text("a\\ud800", "the prompt")
    Traceback (most recent call last):
    tracer.errors.PromptError: character 1 of the prompt is '\\ud800', which is not a character: \
expected text that can be written as UTF-8
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"character {error.start} of {what} is {text[error.start]!r}, which is not a "
            "character: expected text that can be written as UTF-8"
        ) from error
    return text


def text_ids(tokenizer: Any, text: str, model: str, vocab_size: int) -> list[int]:
    """Return the ids of a text without special tokens around it.

    Raises :class:`PromptError`, or its subclass :class:`UnknownTokenError` for words that the
    tokenizer has no token for, and :class:`ModelError` for ids outside the vocabulary.
    """
    checked_text(text, "the prompt")
    try:
        encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    except Exception as error:  # tokenizers has no error type of its own
        raise PromptError(
            f"the tokenizer of {model} cannot read this prompt ({str(error)[:100]}): use other "
            "words, or give token ids"
        ) from error
    ids: list[int] = encoding["input_ids"]
    spans: list[tuple[int, int]] = encoding["offset_mapping"]
    if not ids:
        raise PromptError(
            f"the tokenizer of {model} returned no tokens for this prompt: its files may belong "
            "to another model; give token ids instead of text"
        )
    unk = _unknown_ids(tokenizer)
    pairs = zip(ids, spans, strict=True)
    unknown = [text[start:stop].strip() for token, (start, stop) in pairs if token in unk]
    if not unk:
        unknown = _left_out(text, spans)
    if unknown:
        words = list(dict.fromkeys(unknown))
        shown = ", ".join(f"“{word}”" for word in words[:5]) + (", …" if words[5:] else "")
        raise UnknownTokenError(
            f"{model} has no token for {shown}: its vocabulary has {vocab_size} tokens; use other "
            "words"
        )
    if max(ids, default=0) >= vocab_size:
        raise ModelError(
            f"the tokenizer of {model} returned token {max(ids)}, the model has token ids 0 to "
            f"{vocab_size - 1}: the tokenizer belongs to another model; fetch the model again"
        )
    return ids


def _unknown_ids(tokenizer: Any) -> set[int]:
    """Return the tokens that stand for unknown words, declared or only used by the tokenizer."""
    backend = tokenizer.backend_tokenizer
    used = getattr(backend.model, "unk_token", None)
    ids = {tokenizer.unk_token_id} if _is_own(tokenizer, "unk") else set()
    return ids | ({backend.token_to_id(used)} if used else set()) - {None}


def _left_out(text: str, spans: list[tuple[int, int]]) -> list[str]:
    """Return the words of a text that no token covers: a tokenizer without UNK drops them."""
    covered = bytearray(len(text))
    for start, stop in spans:
        covered[start:stop] = b"\1" * (stop - start)
    pairs = zip(text, covered, strict=True)
    return "".join(" " if is_covered else char for char, is_covered in pairs).split()


def beginning(tokenizer: Any, vocab_size: int) -> int | None:
    """Return the token that begins a text: BOS, else PAD, else EOS, as in circuit-tracer.

    A special token that the model has no embedding for is passed over, and so is one that the
    tokenizer's own files do not have: TransformerLens adds ``<|endoftext|>`` to a tokenizer without
    an EOS. None if no other is left.
    """
    for name in ("bos", "pad", "eos"):
        token = getattr(tokenizer, f"{name}_token_id")
        if _is_own(tokenizer, name) and 0 <= token < vocab_size:
            return int(token)
    return None


def _is_own(tokenizer: Any, name: str) -> bool:
    """Return whether the tokenizer's files have this special token."""
    token = getattr(tokenizer, f"{name}_token_id")
    if token is None:
        return False
    n_plain = tokenizer.backend_tokenizer.get_vocab_size(with_added_tokens=False)
    return token < n_plain or tokenizer.init_kwargs.get(f"{name}_token") is not None


def token_text(tokenizer: Any, token_id: int) -> str:
    """Return a token as text, including its leading space."""
    piece = tokenizer.convert_ids_to_tokens(int(token_id))
    if piece is None:
        return f"<token {token_id}>"  # vocabularies of models are padded
    if isinstance(piece, str) and "▁" in piece:
        return piece.replace("▁", " ")
    text = str(tokenizer.decode([int(token_id)]))
    stored = _bytes_of(piece) if _REPLACEMENT in text else None
    return text if stored is None else stored.decode(errors="backslashreplace")


def joined_text(tokenizer: Any, token_ids: Iterable[int]) -> str:
    """Return the text of several tokens, whose characters may be spread over tokens."""
    ids = list(token_ids)
    texts = [token_text(tokenizer, token) for token in ids]
    if not any(_ESCAPED.search(text) for text in texts):
        return "".join(texts)
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def token_of(tokenizer: Any, text: str, model: str) -> int:
    """Return the id of the one token that is ``text``; raises :class:`TargetError`."""
    try:
        checked_text(text, "the target")
    except PromptError as error:
        raise TargetError(str(error)) from error
    id_of = tokenizer.backend_tokenizer.token_to_id  # get_vocab copies the vocabulary
    for piece in (text.replace(" ", "▁"), text.replace(" ", "Ġ"), text, *_pieces_of(text)):
        token = id_of(piece)
        if token is not None:
            return int(token)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    unk = _unknown_ids(tokenizer)
    if len(ids) == 1 and ids[0] not in unk:
        return int(ids[0])
    parts = "unknown" if len(ids) == 1 else f"{len(ids)} tokens"
    if len(ids) > 1 and not unk.isdisjoint(ids):
        parts += ", some unknown"
    raise TargetError(
        f"{text!r} is not one token of {model} ({parts}): a target is exactly one; check the "
        "leading space"
    )


def _bytes_of(piece: str) -> bytes | None:
    """Return the bytes of a piece of a vocabulary that is made of bytes; None for another."""
    match = _BYTE_PIECE.fullmatch(piece)
    if match is not None:
        return bytes.fromhex(match[1])
    values = _byte_values()
    return bytes(values[char] for char in piece) if all(c in values for c in piece) else None


def _pieces_of(text: str) -> tuple[str, ...]:
    """Return the pieces that :func:`token_text` shows as ``text``; none without an escaped byte."""
    if not _ESCAPED.search(text):
        return ()
    stored = b"".join(
        bytes.fromhex(part) if number % 2 else part.encode()
        for number, part in enumerate(_ESCAPED.split(text))
    )
    characters = {value: char for char, value in _byte_values().items()}
    whole = "".join(characters[value] for value in stored)
    return (whole, f"<0x{stored[0]:02X}>") if len(stored) == 1 else (whole,)


@cache
def _byte_values() -> dict[str, int]:
    """Return the character that stands for each byte in a byte-level vocabulary, and its byte.

    Printable bytes stand for themselves, the others for the characters from 256 on, in order: the
    table of GPT-2's byte-level tokenizer.
    """
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [value for value in range(256) if value not in shown]
    return {
        **{chr(value): value for value in shown},
        **{chr(256 + number): value for number, value in enumerate(others)},
    }
