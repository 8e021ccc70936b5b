"""Read graphs of other tools for the store, and write any stored graph as published JSON.

A graph that was imported as JSON is exported as it came, with its current annotations, so that
nothing we do not understand is lost. Everything else is written from the graph.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Final

from cache.annotations import Annotations
from tracer.graph.graph import AttributionGraph
from tracer.interchange.convert import graph_from_external
from tracer.interchange.export import exported_file, exported_graph
from tracer.interchange.graph_json import read_graph_json, write_graph_json
from tracer.interchange.labels import with_labels
from tracer.interchange.marks import external_annotations
from tracer.types import FeatureId, Thresholds

_PICKLED: Final = (b"PK\x03\x04", b"\x80")
"""How a `.pt` begins, and a bare pickle, which the `.pt` reader refuses with its reason."""


@dataclass(frozen=True)
class ImportedGraph:
    """A graph that was read from a file and is not in the store yet."""

    key: str
    """A digest of the file's content: the same file is the same graph."""
    graph: AttributionGraph
    title: str
    annotations: Annotations
    original: bytes | None
    """The published JSON; None for a `.pt`, whose numbers are all in the graph."""


def import_key(content: bytes) -> str:
    """Return the key (32 hex digits) of the graph that is imported from ``content``."""
    return hashlib.sha256(b"import\0" + content).hexdigest()[:32]


def read_import(content: bytes, name: str) -> ImportedGraph:
    """Read published JSON or a `.pt` of circuit-tracer, whichever ``content`` is.

    A JSON graph without a slug is called like the file.

    Raises :class:`ExternalGraphError` for anything else, and for a damaged file.
    """
    key = import_key(content)
    stem = PurePath(name).stem or "graph"
    if name.lower().endswith(".pt") or content.startswith(_PICKLED):
        from tracer.interchange.circuit_tracer_pt import read_graph_pt  # imports torch

        graph = read_graph_pt(content)
        graph = replace(graph, provenance={**graph.provenance, "imported": stem})
        return ImportedGraph(key, graph, stem, Annotations(), None)
    external = read_graph_json(content, name)
    graph = graph_from_external(external)
    title = external.slug.strip() or stem
    graph = replace(graph, provenance={**graph.provenance, "imported": title})
    return ImportedGraph(key, graph, title, Annotations(*external_annotations(external)), content)


def exported(
    graph: AttributionGraph,
    title: str,
    annotations: Annotations,
    names: Mapping[FeatureId, str],
    original: bytes | None,
    thresholds: Thresholds,
    own: Mapping[FeatureId, str] | None = None,
) -> bytes:
    """Return published JSON of a graph with its labels and annotations.

    With an ``original``, return that complete file, byte for byte while the annotations are those
    of the file, with the reader's ``own`` labels added (``clerps``), which other tools show in
    place of its labels; otherwise the graph pruned at ``thresholds``, plus the annotated nodes.
    Members of supernodes are pinned too, because other tools show only pinned nodes.
    """
    marks = (annotations.pinned, annotations.supernodes)
    if original is not None:
        external = read_graph_json(original, title)
        changed = with_labels(exported_file(external, marks), own or {})
        return original if changed is external else write_graph_json(changed)
    name = slug(title or graph.prompt)
    return write_graph_json(exported_graph(graph, name, marks, thresholds, lambda pruned: names))


def slug(text: str) -> str:
    """Return a name that is valid in a URL and as a file name on every system.

    >>> slug("The capital of Texas is…")
    'the-capital-of-texas-is'
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:80] or "graph"
