"""Graphs of other tools on their way into the store, and every graph on its way out.

What came as published JSON goes out as it came, with the annotations of today: nothing that is not
understood is lost. Everything else is written from the graph.
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
from tracer.interchange.marks import external_annotations
from tracer.types import FeatureId, Thresholds

_PICKLED: Final = (b"PK\x03\x04", b"\x80")
"""How a `.pt` begins, and a bare pickle, which is refused by name."""


@dataclass(frozen=True)
class ImportedGraph:
    """A graph that was read from a file, before it is stored."""

    key: str
    """A hash of the file: the same file is the same graph."""
    graph: AttributionGraph
    title: str
    marks: Annotations
    original: bytes | None
    """The published JSON; None for a `.pt`, whose numbers are all in the graph."""


def read_import(content: bytes, name: str) -> ImportedGraph:
    """Read published JSON or circuit-tracer's `.pt`, told apart by the content.

    A JSON graph without a slug is called like the file.

    Raises :class:`ExternalGraphError` for anything else, and for a damaged file.
    """
    key = hashlib.sha256(b"import\0" + content).hexdigest()[:32]
    stem = PurePath(name).stem or "graph"
    if name.lower().endswith(".pt") or content.startswith(_PICKLED):
        from tracer.interchange.circuit_tracer_pt import read_graph_pt  # brings torch

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
    marks: Annotations,
    names: Mapping[FeatureId, str],
    original: bytes | None,
    thresholds: Thresholds,
) -> bytes:
    """Return a graph as published JSON, with its labels and annotations.

    With an ``original`` it is that file, complete, byte for byte where the annotations are those of
    the file. Otherwise it is the graph pruned at ``thresholds``, and what is annotated.
    """
    annotations = (marks.pinned, marks.supernodes)
    if original is not None:
        external = read_graph_json(original, title)
        changed = exported_file(external, annotations)
        return original if changed is external else write_graph_json(changed)
    name = slug(title or graph.prompt)
    return write_graph_json(
        exported_graph(graph, name, annotations, thresholds, lambda pruned: names)
    )


def slug(text: str) -> str:
    """Return a name that is safe in an address and on every disk."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:80] or "graph"
