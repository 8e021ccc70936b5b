"""The pins and supernodes of a published graph, read and written back. Data only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from tracer.interchange.graph_json import ExternalGraph
from tracer.interchange.placing import places_by_id
from tracer.types import NodeId, Supernode


def external_annotations(
    external: ExternalGraph,
) -> tuple[tuple[NodeId, ...], tuple[Supernode, ...]]:
    """Return the pins and supernodes; a node in a supernode is not listed as a pin as well.

    Every supernode has a name of its own: the second "size" of a file is called "size (2)".
    Annotations of missing nodes, and of nodes without a place, are left out.
    """
    return annotations_by_id(places_by_id(external), external.pinned, external.supernodes)


def annotations_by_id(
    place: Mapping[str, NodeId],
    pinned: Sequence[str],
    groups: Sequence[tuple[str, Sequence[str]]],
) -> tuple[tuple[NodeId, ...], tuple[Supernode, ...]]:
    """Return pins and supernodes that are given by ids, as :func:`external_annotations` does."""
    supernodes, taken = [], set[NodeId]()
    names = distinct([name for name, _ in groups])
    for name, (_, members) in zip(names, groups, strict=True):
        nodes = tuple(dict.fromkeys(place[m] for m in members if m in place))
        nodes = tuple(node for node in nodes if node not in taken)
        taken.update(nodes)
        if nodes:
            supernodes.append(Supernode(name, nodes))
    pins = dict.fromkeys(place[entry] for entry in pinned if entry in place)
    return tuple(node for node in pins if node not in taken), tuple(supernodes)


def distinct(names: Sequence[str]) -> list[str]:
    """Return the names, with a number added to each that is there already.

    >>> distinct(["size", "size", "size (2)", "size"])
    ['size', 'size (3)', 'size (2)', 'size (4)']
    """
    given, used, numbers, result = set(names), set[str](), Counter[str](), []
    for name in names:
        chosen = name
        while chosen in used or (chosen != name and chosen in given):
            numbers[name] += 1
            chosen = f"{name} ({numbers[name] + 1})"
        used.add(chosen)
        result.append(chosen)
    return result


def with_annotations(
    external: ExternalGraph, pinned: Sequence[NodeId], supernodes: Sequence[Supernode]
) -> ExternalGraph:
    """Return the graph with these pins and supernodes; unchanged where it already has them.

    Members of supernodes are pinned too: other tools show only what is pinned. What is not changed
    stays as it was written, the order of the pins and names that several supernodes share included.
    So do annotations of nodes without a place or that the file does not have, unless they are in a
    supernode that is deleted.
    """
    if external_annotations(external) == (tuple(pinned), tuple(supernodes)):
        return external
    place = places_by_id(external)
    ids = {node: entry.id for entry in external.nodes if (node := place.get(entry.id))}
    groups = tuple(_groups(external, supernodes, place, ids))
    marked = dict.fromkeys([*pinned, *(node for group in supernodes for node in group.nodes)])
    kept = [entry for entry in external.pinned if entry not in place or place[entry] in marked]
    covered = {place.get(entry) for entry in kept}
    added = [ids[node] for node in marked if node in ids and node not in covered]
    return replace(external, pinned=tuple(dict.fromkeys([*kept, *added])), supernodes=groups)


def _groups(
    external: ExternalGraph,
    supernodes: Sequence[Supernode],
    place: Mapping[str, NodeId],
    ids: Mapping[NodeId, str],
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the supernodes to write, those of the file first and in its order."""
    names = distinct([name for name, _ in external.supernodes])
    shown = {group.name: group.nodes for group in external_annotations(external)[1]}
    new = {group.name: group.nodes for group in supernodes}
    for name, (title, members) in zip(names, external.supernodes, strict=True):
        if name not in shown or shown[name] == new.get(name):
            yield title, members
        elif name in new:
            unknown = [entry for entry in members if entry not in place]
            yield title, (*(ids[node] for node in new[name] if node in ids), *unknown)
    for name, nodes in new.items():
        written = tuple(ids[node] for node in nodes if node in ids)
        if name not in shown and written:
            yield name, written
