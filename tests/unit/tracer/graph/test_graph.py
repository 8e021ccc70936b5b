"""A graph knows its nodes, cannot be changed, and is saved and loaded without loss."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from random_graphs import random_graph

from tracer.graph.graph import load_graph
from tracer.types import NodeId


def test_rows_and_nodes_correspond() -> None:
    index = random_graph(2).index
    nodes = [index.node(row) for row in range(len(index))]
    assert [index.row(node) for node in nodes] == list(range(len(index)))
    assert [NodeId.parse(str(node)) for node in nodes] == nodes
    assert [node.layer for node in nodes] == index.layers.tolist()
    assert [node.position for node in nodes] == index.positions.tolist()
    kinds = [node.kind for node in nodes]
    assert kinds == sorted(kinds, key=["feature", "error", "token", "logit"].index)


@pytest.mark.parametrize(
    "text",
    [
        *("", "feature", "feature-1-2", "-1-2-3", "feature-a-b-c", "feature-1-2-3-4"),
        *("feature-1-2-3-", "feature-1-2---3", "feature--", "feature-1-2-1_0", "feature- 1-2-3"),
        *("feature-1-2-+3", "feature-1-2-٣", "feature-1-2-3\n", "feature-1-2-" + "9" * 5000),
    ],
)
def test_only_what_str_writes_is_parsed_as_a_node(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a node id, expected kind-layer-position-index"):
        NodeId.parse(text)


def test_a_row_outside_the_graph_is_an_index_error() -> None:
    index = random_graph(2).index
    for row in (-1, len(index)):
        with pytest.raises(IndexError, match=f"row {row} does not exist: .* 0 to {len(index) - 1}"):
            index.node(row)
    with pytest.raises(KeyError):
        index.row(NodeId("feature", 0, 0, 10**6))


def test_a_saved_graph_is_loaded_without_loss(tmp_path: Path) -> None:
    graph = random_graph(4)
    graph.save(tmp_path / "graph.safetensors")
    back = load_graph(tmp_path / "graph.safetensors")
    assert (back.to_dense() == graph.to_dense()).all()
    assert back.features.tolist() == graph.features.tolist()
    assert (back.activations == graph.activations).all()
    for name in ("prompt", "tokens", "token_ids", "targets", "next_tokens", "n_active_features"):
        assert getattr(back, name) == getattr(graph, name)
    assert list(tmp_path.iterdir()) == [tmp_path / "graph.safetensors"]


def test_a_graph_cannot_be_changed() -> None:
    graph = random_graph(4)
    with pytest.raises(ValueError, match="read-only"):
        graph.weights[0] = 1.0


def test_reading_and_pruning_a_graph_needs_no_torch(tmp_path: Path) -> None:
    random_graph(4).save(tmp_path / "graph")
    code = (
        "import sys, tracer; graph = tracer.load_graph(sys.argv[1]); tracer.prune(graph);"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "graph")], check=True)
