"""Attribution graphs as published: the JSON of Anthropic's front end, circuit-tracer, Neuronpedia.

Unknown keys and kinds of nodes are kept, and so are ids. A graph that was read and not changed is
written byte for byte as it came.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePath
from typing import Any, Final

import numpy as np

from tracer.errors import ExternalGraphError, one_line, short
from tracer.files import atomic_write, format_bytes
from tracer.graph.nodes import FloatArray, IntArray
from tracer.interchange.published_links import read_links
from tracer.interchange.published_nodes import TYPES as TYPES
from tracer.interchange.published_nodes import ExternalNode, read_nodes
from tracer.interchange.published_nodes import cantor_pair as cantor_pair
from tracer.interchange.published_nodes import cantor_unpair as cantor_unpair
from tracer.interchange.reader_state import Groups, read_groups, read_ids
from tracer.interchange.strict_json import as_list, as_object, as_text, parse_file, required

MAX_BYTES: Final = 512 * 2**20
MAX_NODES: Final = 200_000
_NEVER_NULL: Final = ("clerp", "node_threshold", "clickedId", "sg_pos")
"""Keys that Neuronpedia's schema wants left out rather than null."""
_NONE: Final = np.zeros(0, np.int64)


@dataclass(frozen=True)
class ExternalGraph:
    """A published graph: its nodes and links, and the annotations that came with it."""

    metadata: Mapping[str, Any]
    nodes: tuple[ExternalNode, ...]
    sources: IntArray
    """``(n_links,)`` indices into ``nodes``."""
    targets: IntArray
    """``(n_links,)`` indices into ``nodes``."""
    weights: FloatArray
    """``(n_links,)`` float32."""
    pinned: tuple[str, ...] = ()
    """Ids of the pinned nodes."""
    supernodes: Groups = ()
    """Names, each with the ids of its nodes. Two may have the same name."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """``qParams`` as in the file; ``pinned`` and ``supernodes`` take precedence."""
    other: Mapping[str, Any] = field(default_factory=dict)
    """Unknown top-level keys."""
    links: Sequence[Mapping[str, Any]] = ()
    """The links as in the file, those included that lead nowhere; empty for a graph made here."""
    entries: IntArray = field(default_factory=lambda: _NONE)
    """``(n_links,)`` which of ``links`` each link is."""
    missing_links: int = 0
    """Links in the file of a node that is not in the file."""
    ambiguous_links: int = 0
    """Links in the file of an id that a feature and an error share, where either could be meant."""
    name: str = "graph"
    """What the file is called: the slug and the scan where the metadata have none."""
    original: bytes | None = field(default=None, repr=False)
    """The file, for a graph that was read."""

    @property
    def slug(self) -> str:
        """The short name of the graph."""
        return str(self.metadata.get("slug") or self.name)

    @property
    def scan(self) -> str:
        """What the metadata call the model and its transcoders."""
        return str(self.metadata.get("scan") or self.name)


def read_graph_json(
    source: str | os.PathLike[str] | bytes, name: str | None = None
) -> ExternalGraph:
    """Read a published graph from a file or from its bytes.

    ``name`` is what bytes are called: the file's name, for a graph whose metadata have none.

    Links to nodes that are not in the file are left out and counted. An older id that a feature and
    an error share is resolved where only one of them can have the link.

    Raises :class:`ExternalGraphError`, which says what is wrong: the file is not JSON, a key is
    missing, two nodes have the same id, a number is not finite, there are more than `MAX_NODES`
    nodes.

    >>> token = {"node_id": "E_5_1", "feature_type": "embedding", "layer": "E", "ctx_idx": 1}
    >>> logit = {"node_id": "1_9_1", "feature_type": "logit", "layer": "1", "ctx_idx": 1}
    >>> content = json.dumps({
    ...     "metadata": {"slug": "dog", "scan": "m", "prompt": "dog", "prompt_tokens": ["", "dog"]},
    ...     "nodes": [token, logit | {"token_prob": 0.5}],
    ...     "links": [{"source": "E_5_1", "target": "1_9_1", "weight": 2.5}],
    ... }).encode()
    >>> external = read_graph_json(content)
    >>> [str(node.node) for node in external.nodes], external.weights.tolist()
    (['token--1-1-5', 'logit-0-1-9'], [2.5])
    """
    title = name or ("" if isinstance(source, bytes) else os.fspath(source))
    name, content = _content(source)
    stored = parse_file(content, name)
    if not isinstance(stored, dict):
        raise ExternalGraphError(
            f"{name} is a {type(stored).__name__}, expected an object with metadata, nodes and "
            "links: it is not a published attribution graph"
        )
    metadata = as_object(required(stored, "metadata", name), f"metadata of {name}")
    tokens = required(metadata, "prompt_tokens", f"metadata of {name}")
    for key in ("slug", "scan"):
        as_text(metadata.get(key, ""), f"{key} of {name}")
    as_text(required(metadata, "prompt", f"metadata of {name}"), f"prompt of {name}")
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise ExternalGraphError(f"prompt_tokens of {name} is not a list of strings")
    parameters = as_object(stored.get("qParams") or {}, f"qParams of {name}")
    listed = as_list(required(stored, "nodes", name), f"nodes of {name}")
    if len(listed) > MAX_NODES:
        raise ExternalGraphError(
            f"{name} has {len(listed):,} nodes, at most {MAX_NODES:,} can be read: prune it first"
        )
    nodes = read_nodes(listed, len(tokens), name)
    entries = as_list(required(stored, "links", name), f"links of {name}")
    links = read_links(entries, nodes, name)
    known = {"metadata", "qParams", "nodes", "links"}
    return ExternalGraph(
        metadata=metadata,
        nodes=nodes,
        sources=links.sources,
        targets=links.targets,
        weights=links.weights,
        pinned=read_ids(parameters.get("pinnedIds"), name),
        supernodes=read_groups(parameters.get("supernodes"), name),
        parameters=parameters,
        other={key: value for key, value in stored.items() if key not in known},
        links=entries,
        entries=links.entries,
        missing_links=links.missing,
        ambiguous_links=links.ambiguous,
        name=PurePath(title).stem or "graph",
        original=content,
    )


def _content(source: str | os.PathLike[str] | bytes) -> tuple[str, bytes]:
    """Return what messages call the graph, and its bytes."""
    name = "the graph" if isinstance(source, bytes) else Path(source).name
    try:
        size = len(source) if isinstance(source, bytes) else Path(source).stat().st_size
        if size > MAX_BYTES:
            raise ExternalGraphError(
                f"{name} has {format_bytes(size)}, at most {format_bytes(MAX_BYTES)} can be read: "
                "prune the graph first"
            )
        return name, source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise ExternalGraphError(f"{source!s} cannot be read: {error.strerror}") from error
    except ValueError as error:  # a path with a NUL or half a character
        raise ExternalGraphError(f"{source!r} cannot be read: {one_line(error)}") from error


def write_graph_json(external: ExternalGraph, path: str | os.PathLike[str] | None = None) -> bytes:
    """Return a graph in the published form; write it to ``path`` too.

    A graph that was read and not changed since is returned byte for byte as it came. Any other is
    valid against the published schema: nulls that it refuses are dropped.

    Raises :class:`ExternalGraphError` when an unknown key holds something that is not JSON, and
    ``OSError`` when the file cannot be written; it is then left as it was.

    >>> import tracer
    >>> graph = tracer.trace(tracer.load("atlas"), "The opposite of hot is")
    >>> external = tracer.external_from_pruned(tracer.prune(graph), "hot")
    >>> write_graph_json(external)[:27]
    b'{"metadata": {"slug": "hot"'
    """
    content = external.original
    if content is None or not _is_unchanged(external, content):
        content = _written(external)
    if path is not None:
        atomic_write(Path(path), content)
    return content


def _is_unchanged(external: ExternalGraph, original: bytes) -> bool:
    """Return whether a graph is still what its file says.

    The file is read again, because its parts are plain dictionaries that anybody can change.
    """
    again = read_graph_json(original, external.name)
    return all(
        np.array_equal(left, right) if isinstance(left, np.ndarray) else left == right
        for left, right in (
            (getattr(external, part.name), getattr(again, part.name))
            for part in fields(external)
            if part.name not in ("name", "original")
        )
    )


def _written(external: ExternalGraph) -> bytes:
    named = {"slug": external.slug, "scan": external.scan}
    stored = {
        "metadata": {**_without_nulls(external.metadata), **named},
        "qParams": _without_nulls(_parameters(external)),
        "nodes": [
            {"clerp": node.label} | _without_nulls(node.stored) | {"node_id": node.id}
            for node in external.nodes
        ],
        "links": _links(external),
        **external.other,
    }
    try:
        return json.dumps(stored, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ExternalGraphError(
            f"the graph cannot be written as JSON ({short(str(error))}): it has a value that is "
            "not JSON, or nested too deeply"
        ) from error


def _parameters(external: ExternalGraph) -> dict[str, Any]:
    """Return ``qParams``, its pins and supernodes in the file's form unless they were changed."""
    stored = {"pinnedIds": [], "supernodes": [], **external.parameters}
    name = "the graph"
    if read_ids(stored["pinnedIds"], name) != external.pinned:
        stored["pinnedIds"] = list(external.pinned)
    if read_groups(stored["supernodes"], name) != external.supernodes:
        stored["supernodes"] = [[title, *members] for title, members in external.supernodes]
    return stored


def _links(external: ExternalGraph) -> list[Mapping[str, Any]]:
    """Return the links in the order of the file, with their unknown keys and exact weights."""
    ids = [node.id for node in external.nodes]
    written: list[Mapping[str, Any]] = list(external.links)
    known = len(external.entries) == len(external.weights)
    for row, (source, target, weight) in enumerate(
        zip(external.sources, external.targets, external.weights, strict=True)
    ):
        link: Mapping[str, Any] = {"source": ids[source], "target": ids[target]}
        if not known or not external.links:
            written.append({**link, "weight": float(weight)})
            continue
        number = int(external.entries[row])
        stored = external.links[number]
        exact = stored["weight"] if np.float32(stored["weight"]) == weight else float(weight)
        written[number] = {**stored, **link, "weight": exact}
    return written


def _without_nulls(stored: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in stored.items() if v is not None or k not in _NEVER_NULL}
