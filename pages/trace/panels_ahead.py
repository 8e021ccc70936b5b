"""Panels of a graph's nodes, sent ahead of the click: the browser shows them without waiting.

They come from the same functions as the server's answer to the click, which then takes their place.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from typing import Any, Final

from cachetools import LRUCache

from charts.graph_payload import DIGEST_LENGTH
from charts.graph_view import GraphView, Side
from charts.palette import Palette
from pages.shared import resources
from pages.shared.graph_component import draw_panels_ahead
from pages.shared.session import read_session
from pages.shared.session_state import Session
from pages.trace import feature_panel, panel_data
from tracer.errors import TracerError
from tracer.types import NodeId

_MOST: Final = 160
"""Nodes whose panels are sent: the most influential."""
_LISTED: Final = 6
"""Neighbours of a side that a panel shows before "Show all" is clicked."""
_KEPT: Final = 16
_built: LRUCache[tuple[Any, ...], bytes] = LRUCache(_KEPT)
_lock = threading.Lock()


def draw(key: str, view: GraphView, session: Session, palette: Palette) -> None:
    """Send the panels of the nodes that a visitor may click next."""
    names = tuple(sorted(view.names.items()))
    parts = (key, view.pruned.thresholds, view.filter, view.rows, names, session.choice, palette)
    with _lock:
        found = _built.get(parts)
    if found is None:
        panels = {}
        for node, panel in panels_of(view, session, palette):
            panels[node] = panel
            read_session()  # Streamlit ends the run here if the visitor has clicked meanwhile
        text = json.dumps(panels, separators=(",", ":"), ensure_ascii=False).encode()
        found = hashlib.sha256(text).hexdigest()[:DIGEST_LENGTH].encode() + text
        with _lock:
            _built[parts] = found
    draw_panels_ahead(found)


def panels_of(
    view: GraphView, session: Session, palette: Palette
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the ids of the most influential drawn nodes, each with what the panel shows of it."""
    graph = view.pruned.graph
    source = resources.feature_source(graph, session.choice)
    inputs, outputs = view.sides(_LISTED, panel_data.MOST_NEIGHBOURS)
    nodes = [graph.index.node(row) for row in view.rows]
    nodes.sort(key=view.influence, reverse=True)
    none = Side([], 0, 0)
    for node in nodes[:_MOST]:
        row = graph.index.row(node)
        panel = {
            **panel_data.head(view, node, source),
            "lists": [
                panel_data.neighbours(*panel_data.INPUTS, inputs.get(row, none), view),
                panel_data.neighbours(*panel_data.OUTPUTS, outputs.get(row, none), view),
            ],
            "examples": examples(node, source, palette),
        }
        yield str(node), panel


def examples(
    node: NodeId, source: resources.FeatureSource | None, palette: Palette
) -> dict[str, Any] | None:
    """Return the strongest examples of a feature; None if this disk has none."""
    if node.kind != "feature" or source is None:
        return None
    try:
        card = resources.card(source, node.feature)
    except TracerError:
        return None  # the panel says why
    return None if card is None else feature_panel.strongest(card, palette)
