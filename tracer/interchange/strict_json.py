"""JSON from outside, read strictly: any Unicode encoding, nothing that cannot be written again.

Nothing here knows what a graph is. Every function that takes ``what`` names it in its errors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

from tracer.errors import ExternalGraphError, short

_GZIP_START: Final = b"\x1f\x8b"
_LARGEST_FLOAT32: Final = 3.4e38


def parse_file(content: bytes, name: str) -> Any:
    """Return the value that a JSON file holds.

    Raises :class:`ExternalGraphError` for anything that is not JSON, and for what Python accepts
    although it cannot be written again: NaN, infinite numbers, halves of surrogate pairs.
    """
    if content.startswith(_GZIP_START):
        raise ExternalGraphError(f"{name} is gzip-compressed: decompress it and open the result")
    if not content.strip():
        raise ExternalGraphError(f"{name} is empty: export the graph again")
    try:
        return parse(content.decode(json.detect_encoding(content)))
    except ValueError as error:
        raise ExternalGraphError(
            f"{name} is not JSON ({short(str(error))}): export the graph again"
        ) from error


def parse(text: str) -> Any:
    """Return the value of a JSON text; raises ``ValueError`` as :func:`parse_file` does.

    >>> parse('[1, 2.5]')
    [1, 2.5]
    >>> parse('[1e400]')
    Traceback (most recent call last):
    ValueError: 1e400 is out of range
    """
    try:
        # A Python function for every float also lets other threads run meanwhile: the parser alone
        # would keep the interpreter to itself until its end.
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
        if "\\ud" in text or "\\uD" in text:  # perhaps half of a surrogate pair
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return value


def _refuse_constant(constant: str) -> float:
    raise ValueError(f"{constant} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{short(text)} is out of range")
    return number


def as_object(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ExternalGraphError(f"{what} is a {type(value).__name__}, expected an object")
    return value


def as_list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise ExternalGraphError(f"{what} is a {type(value).__name__}, expected a list")
    return value


def as_text(value: Any, what: str) -> str:
    """Return a string or number as text; lists and objects, which can be of any size, are not."""
    if isinstance(value, dict | list):
        raise ExternalGraphError(f"{what} is a {type(value).__name__}, expected a string")
    return str(value)


def required(mapping: Mapping[str, Any], key: str, what: str) -> Any:
    if key not in mapping:
        raise ExternalGraphError(f"{what} has no {key!r}: it is not a published attribution graph")
    return mapping[key]


def fits_float32(value: Any) -> bool:
    """Return whether ``value`` is a number that fits into a float32."""
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and -_LARGEST_FLOAT32 < value < _LARGEST_FLOAT32
    )
