"""Graphs of other tools on their way into the store, and every graph on its way out.

What came as published JSON goes out as it came, with the marks of now: nothing that we do not
understand is lost. All else is written from the graph.
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
from tracer.graph.pruning import prune, with_nodes
from tracer.interchange.convert import external_from_pruned, graph_from_external
from tracer.interchange.graph_json import read_graph_json, write_graph_json
from tracer.interchange.nodes import external_annotations, with_annotations
from tracer.types import FeatureId, Thresholds

_PICKLED: Final = (b"PK\x03\x04", b"\x80")
"""How a `.pt` begins, and the pickles that are refused with a word about what they are."""


@dataclass(frozen=True)
class ImportedGraph:
    """A graph that was read from a file, before it is kept."""

    key: str
    """From the file's content: the same file is the same graph."""
    graph: AttributionGraph
    title: str
    marks: Annotations
    original: bytes | None
    """The published JSON; None for a `.pt`, whose numbers are all in the graph."""


def read_import(content: bytes, name: str) -> ImportedGraph:
    """Read published JSON or a `.pt` of circuit-tracer; which of them, the content says.

    Raises :class:`ExternalGraphError` for anything else, and for damage.
    """
    key = hashlib.sha256(b"import\0" + content).hexdigest()[:32]
    stem = PurePath(name).stem or "graph"
    if name.lower().endswith(".pt") or content.startswith(_PICKLED):
        from tracer.interchange.circuit_tracer_pt import read_graph_pt  # brings torch

        graph = read_graph_pt(content)
        graph = replace(graph, provenance={**graph.provenance, "imported": stem})
        return ImportedGraph(key, graph, stem, Annotations(), None)
    shared = read_graph_json(content)
    graph = graph_from_external(shared)
    title = str(shared.metadata["slug"]).strip() or stem
    graph = replace(graph, provenance={**graph.provenance, "imported": title})
    return ImportedGraph(key, graph, title, Annotations(*external_annotations(shared)), content)


def exported(
    graph: AttributionGraph,
    title: str,
    marks: Annotations,
    names: Mapping[FeatureId, str],
    original: bytes | None,
    thresholds: Thresholds,
) -> bytes:
    """Published JSON of a graph with its labels and marks.

    With an ``original`` it is that one, whole, with the marks changed; else the graph pruned at
    ``thresholds``, and what is marked. Members of supernodes are pinned too: other tools show only
    what is pinned.
    """
    if original is not None:
        return write_graph_json(
            with_annotations(read_graph_json(original), marks.pinned, marks.supernodes)
        )
    pinned = [*marks.pinned, *(node for group in marks.supernodes for node in group.nodes)]
    pruned = with_nodes(prune(graph, thresholds.node, thresholds.edge), pinned)
    shared = external_from_pruned(
        pruned, slug(title or graph.prompt), names, tuple(dict.fromkeys(pinned)), marks.supernodes
    )
    return write_graph_json(shared)


def slug(text: str) -> str:
    """A name that can stand in an address and on every disk."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:80] or "graph"
