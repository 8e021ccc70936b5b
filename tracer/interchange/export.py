"""One way out for every graph: the published form, for the library, the app and the command line.

A graph that came as published JSON goes out as it came, with the annotations of today: nothing that
is not understood is lost, and nothing is pruned unless thresholds are given. Any other graph is
written from its nodes and edges.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tracer.graph.graph import AttributionGraph
from tracer.graph.pruning import PrunedGraph, prune, with_nodes, without_pruning
from tracer.interchange.convert import external_from_pruned, graph_from_external
from tracer.interchange.graph_json import ExternalGraph
from tracer.interchange.marks import external_annotations, with_annotations
from tracer.interchange.placing import external_places
from tracer.interchange.qk import OUTSIDE, RESULTS, named_ids
from tracer.types import FeatureId, NodeId, Supernode, Thresholds

Names = Callable[[PrunedGraph], Mapping[FeatureId, str]]
"""What the features of a graph are called, asked only for what is written."""


def exported_file(
    external: ExternalGraph,
    annotations: tuple[Sequence[NodeId], Sequence[Supernode]] | None = None,
    thresholds: Thresholds | None = None,
    slug: str | None = None,
) -> ExternalGraph:
    """Return a graph that was read from published JSON in the form in which it goes out.

    ``annotations`` are its pins and supernodes now; None keeps those of the file. With
    ``thresholds`` it is pruned to them, except for what is annotated. Without any change
    :func:`tracer.interchange.graph_json.write_graph_json` writes the file's own bytes.

    Raises :class:`ExternalGraphError` where :func:`tracer.graph_from_external` does.
    """
    if annotations is not None:
        external = with_annotations(external, *annotations)
    if thresholds is not None:
        external = _pruned_file(external, thresholds)
    if slug is not None and slug != external.slug:
        external = replace(external, metadata={**external.metadata, "slug": slug})
    return external


def exported_graph(
    graph: AttributionGraph,
    slug: str,
    annotations: tuple[Sequence[NodeId], Sequence[Supernode]] = ((), ()),
    thresholds: Thresholds | None = None,
    names: Names | None = None,
) -> ExternalGraph:
    """Return a graph, pruned, in the published form.

    Without ``thresholds`` a complete graph is pruned to the default ones, and a graph that another
    tool has pruned is not pruned again. What is annotated is always part of it, and members of
    supernodes are pinned too: other tools show only what is pinned.

    >>> import tracer
    >>> graph = tracer.trace(tracer.load("atlas"), "The opposite of hot is")
    >>> len(exported_graph(graph, "hot").nodes) == len(tracer.prune(graph).nodes)
    True
    """
    pinned, supernodes = annotations
    marked = [*pinned, *(node for group in supernodes for node in group.nodes)]
    pruned = with_nodes(_pruned(graph, thresholds), marked)
    labels = names(pruned) if names is not None else {}
    return external_from_pruned(pruned, slug, labels, tuple(dict.fromkeys(marked)), supernodes)


def _pruned(graph: AttributionGraph, thresholds: Thresholds | None) -> PrunedGraph:
    provenance = graph.provenance
    if thresholds is None and provenance.get("imported") and not provenance.get("unpruned"):
        return without_pruning(graph)
    chosen = thresholds or Thresholds()
    return prune(graph, chosen.node, chosen.edge)


def _pruned_file(external: ExternalGraph, thresholds: Thresholds) -> ExternalGraph:
    """Return the file without the nodes and links that pruning removes.

    What has no place in the graph cannot be weighed, and stays.
    """
    graph = graph_from_external(external)
    places = external_places(external)
    pinned, supernodes = external_annotations(external)
    marked = [*pinned, *(node for group in supernodes for node in group.nodes)]
    pruned = with_nodes(prune(graph, thresholds.node, thresholds.edge), marked)
    rows = np.array([-1 if place is None else graph.index.row(place) for place in places], np.int64)
    kept = (rows < 0) | pruned.node_mask[rows]
    edges = {(int(s), int(t)) for s, t, _ in zip(*pruned.edges, strict=True)}
    chosen = np.array(
        [
            kept[source]
            and kept[target]
            and (min(rows[source], rows[target]) < 0 or (rows[source], rows[target]) in edges)
            for source, target in zip(external.sources, external.targets, strict=True)
        ],
        bool,
    )
    number = np.cumsum(kept) - 1
    links = np.flatnonzero(chosen)
    numbers = external.entries[links] if external.links else links
    settings = external.metadata.get("pruning_settings")
    return replace(
        external,
        metadata={
            **external.metadata,
            "pruning_settings": {
                **(settings if isinstance(settings, Mapping) else {}),
                "node_threshold": thresholds.node,
                "edge_threshold": thresholds.edge,
            },
        },
        nodes=tuple(entry for entry, is_kept in zip(external.nodes, kept, strict=True) if is_kept),
        sources=number[external.sources[links]],
        targets=number[external.targets[links]],
        weights=external.weights[links],
        links=[external.links[entry] for entry in numbers.tolist()] if external.links else (),
        entries=np.arange(len(links)),
        other=_with_removed(external, kept),
        missing_links=0,
        ambiguous_links=0,
    )


def _with_removed(external: ExternalGraph, kept: np.ndarray) -> Mapping[str, Any]:
    """Return the unknown keys, with a description of the removed nodes that QK tracing names."""
    named = {
        name
        for entry, is_kept in zip(external.nodes, kept, strict=True)
        if is_kept
        for name in named_ids(entry.stored.get(RESULTS))
    }
    removed = {
        entry.id: {key: value for key, value in entry.stored.items() if key != RESULTS}
        for entry, is_kept in zip(external.nodes, kept, strict=True)
        if not is_kept and entry.id in named
    }
    before = external.other.get(OUTSIDE)
    if not removed or not (before is None or isinstance(before, Mapping)):
        return external.other
    return {**external.other, OUTSIDE: {**(before or {}), **removed}}
