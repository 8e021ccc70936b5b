"""Random accidents to the files of other tools end in a graph or in one sentence, never else."""

from __future__ import annotations

from pathlib import Path

import peer_graphs
import published_graphs
import pytest

import tracer
from tracer.errors import ExternalGraphError
from tracer.interchange.nodes import external_annotations, stored_labels, with_annotations


def check_use(graph: tracer.AttributionGraph, path: Path) -> None:
    """Do with an imported graph what the app does; anything raised here is a failure."""
    pruned = tracer.prune(graph)
    tracer.write_graph_json(tracer.external_from_pruned(pruned, "again"))
    stored_labels(graph)
    graph.save(path)
    assert tracer.load_graph(path).to_bytes() == graph.to_bytes()


def check_message(error: ExternalGraphError) -> None:
    message = str(error)
    assert "\n" not in message and len(message) < 400
    message.encode()


@pytest.mark.parametrize("batch", range(10))
def test_published_json(tmp_path: Path, batch: int) -> None:
    read = 0
    for seed in range(40 * batch, 40 * batch + 40):
        try:
            external = tracer.read_graph_json(published_graphs.mutated(seed))
            graph = tracer.graph_from_external(external)
        except ExternalGraphError as error:
            check_message(error)
            continue
        tracer.write_graph_json(external)
        pinned, _ = external_annotations(external)
        tracer.write_graph_json(with_annotations(external, pinned[:1], ()))
        check_use(graph, tmp_path / "graph")
        read += 1
    assert 5 < read < 35


@pytest.mark.usefixtures("peer_records")
@pytest.mark.parametrize("batch", range(10))
def test_circuit_tracers_pt(tmp_path: Path, batch: int) -> None:
    read = 0
    for seed in range(40 * batch, 40 * batch + 40):
        try:
            graph = tracer.read_graph_pt(peer_graphs.mutated(seed))
        except ExternalGraphError as error:
            check_message(error)
            continue
        check_use(graph, tmp_path / "graph")
        read += 1
    assert read < 20
