"""What the tests of imports and exports share."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Callable
from typing import Any

from flavours import neuronpedia

from cache import Backend
from tracer.types import NodeId

FEATURE, ATTENTION, ERROR, ANSWER = (
    NodeId("feature", 0, 1, 7),
    NodeId("lorsa", 1, 2, 0),
    NodeId("error", 1, 2, -1),
    NodeId("logit", 2, 2, 11),
)
"""Nodes of the graph in `flavours.py`."""


def content(stored: dict[str, Any]) -> bytes:
    return json.dumps(stored).encode()


def changed(change: Callable[[dict[str, Any]], Any]) -> bytes:
    """Return a published graph with one change."""
    stored = copy.deepcopy(neuronpedia())
    change(stored)
    return content(stored)


def imported(backend: Backend, file: bytes, name: str) -> str:
    """Import a file and return its key."""
    return backend.import_graph(file, name).result(60)


def graph_of(backend: Backend, key: str) -> Any:
    graph = backend.graph(key)
    assert graph is not None
    return graph


def pt(**changes: Any) -> bytes:
    """Return a `.pt` of an older circuit-tracer: one layer, one feature, two tokens, one target."""
    import torch

    dense = torch.zeros(6, 6)
    dense[0, 3:5] = torch.tensor([1.0, 2.0])
    dense[5, 0] = 3.0
    stored = {
        "input_string": "big dog",
        "adjacency_matrix": dense,
        "cfg": {"n_layers": 1, "d_vocab": 50},
        "active_features": torch.tensor([[0, 1, 4]]),
        "activation_values": torch.tensor([2.0]),
        "logit_targets": torch.tensor([11]),
        "logit_probabilities": torch.tensor([0.5]),
        "input_tokens": torch.tensor([5, 6]),
        "scan": "gemma",
    }
    buffer = io.BytesIO()
    torch.save(stored | changes, buffer)
    return buffer.getvalue()
