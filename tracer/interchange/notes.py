"""What became of everything in a published file: counted in the provenance, told in sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from tracer.graph.graph import AttributionGraph
from tracer.graph.kinds import kind_name
from tracer.interchange.graph_json import ExternalGraph

LEFT_OUT: Final = "left_out"
"""The key of the provenance under which :func:`left_out` is kept."""


def left_out(external: ExternalGraph) -> dict[str, Any]:
    """Return what of a file is not part of the graph it becomes, as counts; empty for nothing.

    ``nodes`` by kind have no layer or position, ``node_links`` are their links, ``missing_links``
    lead to nodes that are not in the file, ``ambiguous_links`` have an id that a feature and an
    error share, and ``shared_ids`` is how many such ids there are.
    """
    unplaced = np.array([entry.node is None for entry in external.nodes], bool)
    counts: dict[str, Any] = {
        "nodes": dict(Counter(entry.kind for entry in external.nodes if entry.node is None)),
        "node_links": int((unplaced[external.sources] | unplaced[external.targets]).sum()),
        "missing_links": external.missing_links,
        "ambiguous_links": external.ambiguous_links,
        "shared_ids": sum(e.id != str(e.stored.get("node_id", e.id)) for e in external.nodes),
    }
    return {key: count for key, count in counts.items() if count}


def import_notes(graph: AttributionGraph) -> tuple[str, ...]:
    """Return what a reader should know about a graph of another tool, one sentence for each thing.

    The sentences say which nodes this library does not compute, what of the file could not be
    placed and is therefore not part of the scores, and how many attention features have QK tracing.
    Empty for a graph that was traced here.

    >>> import tracer
    >>> import_notes(tracer.trace(tracer.load("atlas"), "The opposite of hot is"))
    ()
    """
    stored = graph.provenance.get(LEFT_OUT)
    counts = stored if isinstance(stored, Mapping) else {}
    return tuple(
        note
        for note in (_generic_note(graph), *_left_out_notes(counts), _qk_note(graph, counts))
        if note
    )


def unplaced_nodes(graph: AttributionGraph) -> int:
    """Return how many nodes of a graph's file have no layer or position, and are left out.

    >>> import tracer
    >>> unplaced_nodes(tracer.trace(tracer.load("atlas"), "The opposite of hot is"))
    0
    """
    stored = graph.provenance.get(LEFT_OUT)
    kinds = stored.get("nodes") if isinstance(stored, Mapping) else None
    return sum(n for n in kinds.values() if _is_count(n)) if isinstance(kinds, Mapping) else 0


def _generic_note(graph: AttributionGraph) -> str:
    kinds = Counter(node.node.kind for node in graph.generic)
    if not kinds:
        return ""
    listed = _listed([f"{n:,} {kind_name(kind, n)}" for kind, n in sorted(kinds.items())])
    note = (
        f"The graph has {listed}, which only the tool that wrote it computes: "
        f"{'it takes' if kinds.total() == 1 else 'they take'} part in influence, pruning and scores"
    )
    errors = sorted({node.node.kind for node in graph.generic if node.is_error})
    if errors:
        note += f", where {_listed([kind_name(kind, 2) for kind in errors])} count as errors"
    return f"{note}."


def _left_out_notes(counts: Mapping[str, Any]) -> list[str]:
    notes = []
    kinds = counts.get("nodes")
    numbers = {k: n for k, n in kinds.items() if _is_count(n)} if isinstance(kinds, Mapping) else {}
    if numbers:
        listed = _listed([f"{n:,} {kind_name(str(k), n)}" for k, n in sorted(numbers.items())])
        links = _count(counts, "node_links")
        notes.append(
            f"{listed} of the file {_have(sum(numbers.values()))} no layer or position: left out"
            + (f" with {_links(links)}" if links else "")
            + ", and not part of the scores."
        )
    missing, ambiguous = _count(counts, "missing_links"), _count(counts, "ambiguous_links")
    if missing:
        notes.append(
            f"{_links(missing)} of the file {'leads' if missing == 1 else 'lead'} to nodes that "
            "are not in it: left out, and not part of the scores."
        )
    shared = _count(counts, "shared_ids")
    if shared:
        note = (
            f"{shared:,} {'id' if shared == 1 else 'ids'} of the file {_mean(shared)} both a "
            "feature and an error: the direction of each link tells which"
        )
        if ambiguous:
            note += (
                f", except for {_links(ambiguous)}, which {_are(ambiguous)} left out and not part "
                "of the scores"
            )
        notes.append(f"{note}.")
    return notes


def _qk_note(graph: AttributionGraph, counts: Mapping[str, Any]) -> str:
    n_traced, outside = len(graph.qk.tracings), len(graph.qk.outside)
    unreadable = _count(counts, "qk_entries")
    parts = []
    if n_traced:
        attend = "attends" if n_traced == 1 else "attend"
        parts.append(f"QK tracing explains where {n_traced:,} {_nodes(n_traced)} {attend}")
    if outside:
        parts.append(f"it also names {outside:,} {_nodes(outside)} pruned from the graph")
    if unreadable:
        entries = "entry" if unreadable == 1 else "entries"
        parts.append(f"{unreadable:,} {entries} of the QK tracing cannot be read")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _count(counts: Mapping[str, Any], key: str) -> int:
    number = counts.get(key)
    return number if _is_count(number) and isinstance(number, int) else 0


def _is_count(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number > 0


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _links(count: int) -> str:
    return "1 link" if count == 1 else f"{count:,} links"


def _nodes(count: int) -> str:
    return "node" if count == 1 else "nodes"


def _have(count: int) -> str:
    return "has" if count == 1 else "have"


def _mean(count: int) -> str:
    return "means" if count == 1 else "mean"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"
