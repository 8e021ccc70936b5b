"""The pruned graph as the session shows it: names, selection, pins."""

from __future__ import annotations

from charts.graph_view import GraphView
from pages.shared import resources
from pages.shared.session_state import Session
from tracer.graph.pruning import PrunedGraph


def session_view(session: Session, pruned: PrunedGraph) -> GraphView:
    """Return the view of a pruned graph; selected, edited or pinned nodes it lacks are dropped."""
    index = pruned.graph.index
    names = resources.names(session.choice, pruned)
    imported = resources.is_imported(pruned.graph)
    marked = {*session.pinned, *(node for group in session.supernodes for node in group.nodes)}
    chosen = [*session.off, *marked, *([session.selected] if session.selected else [])]
    for node in chosen:
        if imported or node.kind != "feature" or node not in index:
            continue
        if node.feature not in names:
            name = resources.feature_name(session.choice, node.feature)
            if name:
                names[node.feature] = name
    selected = session.selected if session.selected in index else None
    off = frozenset(node for node in session.off if node in index)
    pinned = frozenset(node for node in marked if node in index)
    density = {}
    if session.filter.max_density < 1:
        density = resources.densities(session.choice, pruned)
    return GraphView(pruned, names, selected, off, pinned, session.filter, density)
