"""Graphs as the browser gets them, built once for each thing that can change them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

from cachetools import LRUCache

from charts.drawing import Drawing
from charts.graph_payload import graph_payload
from charts.graph_view import GraphView
from pages.shared.graph_component import PLOTLY_PATH

_KEPT: Final = 64
_payloads: LRUCache[tuple[Any, ...], bytes] = LRUCache(_KEPT)
_lock = threading.Lock()


def view_payload(
    name: str, key: str, view: GraphView, size: tuple[float, float], fixed_height: int = 0
) -> bytes:
    """Return the payload of a view of the graph stored under ``key``.

    What is selected, pinned or switched off does not change it, unless such a node was pruned and
    is drawn for that reason alone. ``fixed_height`` in pixels keeps the graph from taking the rest
    of the window.
    """
    index = view.pruned.graph.index
    nodes = (index.node(row) for row in view.rows)
    names = tuple(view.names.get(node.feature) for node in nodes if node.kind == "feature")
    parts = (name, key, view.pruned.thresholds, view.filter.negative_only, view.rows, names, size)
    return _built((*parts, fixed_height), lambda: view.drawing, size, name, key, fixed_height)


def drawing_payload(
    name: str, key: str, parts: tuple[Any, ...], drawing: Drawing, size: tuple[float, float]
) -> bytes:
    """Return the payload of a drawing called ``key``; ``parts`` are all that can change it."""
    return _built((name, key, *parts, size), lambda: drawing, size, name, key)


def _built(
    parts: tuple[Any, ...],
    draw: Callable[[], Drawing],
    size: tuple[float, float],
    name: str,
    key: str,
    fixed_height: int = 0,
) -> bytes:
    """``key`` tells the browser which zoom belongs to which graph."""
    with _lock:
        found = _payloads.get(parts)
    if found is None:
        found = graph_payload(
            draw(), *size, name=name, graph=key, plotly=PLOTLY_PATH, fixed_height=fixed_height
        )
        with _lock:
            _payloads[parts] = found
    payload: bytes = found
    return payload
