"""Generic nodes and QK tracing in the header of a graph file: to JSON, and back with checks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from itertools import pairwise
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from tracer.errors import short
from tracer.graph.generic import (
    MAX_KIND,
    GenericNode,
    OutsideNode,
    QkPair,
    QkResults,
    QkShare,
    QkTracing,
)
from tracer.graph.nodes import NodeIndex
from tracer.types import NodeId

_Kind = Annotated[str, Field(max_length=MAX_KIND)]
_Number = Annotated[float, Field(allow_inf_nan=False)]


class Stored(BaseModel):
    """A record in the header of a graph file."""

    model_config = ConfigDict(strict=True, frozen=True)


class StoredGeneric(Stored):
    """One :class:`tracer.graph.generic.GenericNode`."""

    kind: _Kind
    layer: Annotated[int, Field(ge=-1)]
    position: Annotated[int, Field(ge=0)]
    index: Annotated[int, Field(gt=-(10**18), lt=10**18)]
    id: str
    label: str = ""
    activation: _Number | None = None


class StoredTracing(Stored):
    """One :class:`tracer.graph.generic.QkTracing`, with nodes as ``str(NodeId)``."""

    target: str
    pairs: tuple[tuple[str, str, _Number], ...] = ()
    queries: tuple[tuple[str, _Number], ...] = ()
    keys: tuple[tuple[str, _Number], ...] = ()


class StoredOutside(Stored):
    """One :class:`tracer.graph.generic.OutsideNode`."""

    node: str
    kind: _Kind
    id: str
    label: str = ""


class StoredQk(Stored):
    """A :class:`tracer.graph.generic.QkResults`."""

    tracings: tuple[StoredTracing, ...] = ()
    outside: tuple[StoredOutside, ...] = ()


def generic_header(generic: tuple[GenericNode, ...], qk: QkResults) -> dict[str, Any]:
    """Return what the header of a graph file says about generic nodes; empty where it has none."""
    header: dict[str, Any] = {}
    if generic:
        header["generic"] = [asdict(node) for node in generic]
    if qk:
        header["qk"] = {
            "tracings": [
                {
                    "target": str(target),
                    "pairs": [(str(q), str(k), weight) for q, k, weight in tracing.pairs],
                    "queries": [(str(node), weight) for node, weight in tracing.queries],
                    "keys": [(str(node), weight) for node, weight in tracing.keys],
                }
                for target, tracing in qk.tracings.items()
            ],
            "outside": [
                {"node": str(entry.node), "kind": entry.kind, "id": entry.id, "label": entry.label}
                for entry in qk.outside
            ],
        }
    return header


def generic_nodes(stored: tuple[StoredGeneric, ...]) -> tuple[GenericNode, ...]:
    """Return the nodes that :func:`generic_header` wrote."""
    return tuple(GenericNode(**dict(entry)) for entry in stored)


def qk_results(stored: StoredQk) -> QkResults:
    """Return the QK tracing that :func:`generic_header` wrote; ``ValueError`` for bad node ids."""

    def shares(entries: tuple[tuple[str, float], ...]) -> tuple[QkShare, ...]:
        return tuple(QkShare(NodeId.parse(node), weight) for node, weight in entries)

    tracings = {
        NodeId.parse(entry.target): QkTracing(
            tuple(QkPair(NodeId.parse(q), NodeId.parse(k), weight) for q, k, weight in entry.pairs),
            shares(entry.queries),
            shares(entry.keys),
        )
        for entry in stored.tracings
    }
    outside = (OutsideNode(NodeId.parse(e.node), e.kind, e.id, e.label) for e in stored.outside)
    return QkResults(tracings, tuple(outside))


def generic_problems(index: NodeIndex, qk: StoredQk) -> Iterator[str]:
    """Yield what is wrong with the generic nodes of a graph and with its QK tracing."""
    for node in index.generic:
        if not (node.layer < index.n_layers and node.position < index.n_positions):
            yield (
                f"generic names a node of layer {node.layer} at position {node.position}, expected "
                f"{index.n_layers} layers and {index.n_positions} positions, counted from 0"
            )
    order = [(n.layer, n.position, n.node.kind, n.index) for n in index.generic]
    for earlier, later in pairwise(order):
        if later <= earlier:
            yield f"generic has {later} after {earlier}, expected ascending nodes without repeats"
    if len({node.id for node in index.generic}) != len(index.generic):
        yield "generic has the same id twice"
    if qk.tracings:
        yield from _qk_problems(index, qk)


def _qk_problems(index: NodeIndex, qk: StoredQk) -> Iterator[str]:
    try:
        results = qk_results(qk)
    except ValueError as error:
        yield f"its QK tracing cannot be read: {short(str(error))}"
        return
    outside = {entry.node for entry in results.outside}
    for target, tracing in results.tracings.items():
        unknown = [node for node in tracing.nodes if node not in index and node not in outside]
        if target not in index or unknown:
            missing = target if target not in index else min(unknown)
            yield f"its QK tracing names {missing}, which is not a node of the graph"
