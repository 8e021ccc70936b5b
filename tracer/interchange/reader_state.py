"""What a reader of a graph saved with it or in a link: pins, supernodes and labels.

The front ends write each as JSON, as JSON inside a string, or as ids between commas. The functions
here read all of these forms, from a file's ``qParams`` as well as from a link.
"""

from __future__ import annotations

from typing import Any

from tracer.errors import ExternalGraphError, short
from tracer.interchange.strict_json import as_text, parse

Groups = tuple[tuple[str, tuple[str, ...]], ...]
"""Names, each with the ids of its nodes."""


def read_ids(stored: Any, name: str) -> tuple[str, ...]:
    """Read a list of ids: a list, JSON in a string or, as circuit-tracer saves it, "id,id".

    ``name`` is what messages call the graph. Raises :class:`ExternalGraphError` for anything else.

    >>> read_ids("0_7_1,3_11_2", "the graph")
    ('0_7_1', '3_11_2')
    """
    try:
        if isinstance(stored, str):
            stored = parse(stored) if stored.startswith("[") else stored.split(",")
        if not isinstance(stored or [], list):
            raise TypeError(f"it is a {type(stored).__name__}")
        return tuple(as_text(entry, "an entry") for entry in stored or [] if entry)
    except (TypeError, ValueError, ExternalGraphError) as error:
        raise ExternalGraphError(
            f"pinnedIds of {name} cannot be read ({short(str(error))}): expected a list of node ids"
        ) from error


def read_groups(stored: Any, name: str) -> Groups:
    """Read supernodes: lists of a name and ids, or JSON of that in a string.

    Raises :class:`ExternalGraphError` for anything else.

    >>> read_groups('[["size","0_7_1","1_9_2"]]', "the graph")
    (('size', ('0_7_1', '1_9_2')),)
    """
    try:
        groups = parse(stored) if isinstance(stored, str) and stored else stored or []
        for group in groups:
            if not isinstance(group, list):
                raise TypeError(f"an entry is a {type(group).__name__}")
        texts = [[as_text(entry, "an entry") for entry in group] for group in groups]
        return tuple((title, tuple(members)) for title, *members in texts)
    except (TypeError, ValueError, ExternalGraphError) as error:
        raise ExternalGraphError(
            f"supernodes of {name} cannot be read ({short(str(error))}): expected "
            "[[name, id, …], …]"
        ) from error


def read_labels(stored: Any, name: str) -> dict[str, str]:
    """Read labels by key: pairs of key and label, a mapping, or JSON of one of them in a string.

    A key is a node's id, a feature's number, or layer, number and position joined by ``_``.
    Raises :class:`ExternalGraphError` for anything else.

    >>> read_labels('[["14_200290090_37","end of the line"]]', "the graph")
    {'14_200290090_37': 'end of the line'}
    """
    try:
        pairs = parse(stored) if isinstance(stored, str) and stored else stored or []
        entries = list(pairs.items()) if isinstance(pairs, dict) else list(pairs)
        for entry in entries:
            if not isinstance(entry, list | tuple):
                raise TypeError(f"an entry is a {type(entry).__name__}")
        return {as_text(key, "a key"): as_text(label, "a label") for key, label in entries}
    except (TypeError, ValueError, ExternalGraphError) as error:
        raise ExternalGraphError(
            f"clerps of {name} cannot be read ({short(str(error))}): expected [[key, label], …]"
        ) from error
