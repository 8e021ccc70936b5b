"""The open trace as the Features page sees it: looked up, never computed."""

from __future__ import annotations

from dataclasses import dataclass

from cache import StoreError
from pages.shared import resources
from pages.shared.session_state import Session
from tracer.graph.graph import AttributionGraph
from tracer.graph.pruning import PrunedGraph
from tracer.types import FeatureId, NodeId


@dataclass(frozen=True)
class OpenTrace:
    """A trace that is known already, with the source of its features' cards."""

    key: str
    graph: AttributionGraph
    pruned: PrunedGraph
    source: resources.FeatureSource | None

    def influence(self, row: int) -> float:
        """Return the share of the paths to the targets that pass through a node, 0..1."""
        total = float(self.graph.target_weights.sum())
        return float(self.pruned.influence[row]) / total if total else 0.0

    def nodes(self, feature: FeatureId) -> tuple[NodeId, ...]:
        """Return the nodes of a feature, one for each token it is active at."""
        index = self.graph.index
        chosen = (index.features[:, 0] == feature.layer) & (index.features[:, 2] == feature.index)
        return tuple(index.node(int(row)) for row in chosen.nonzero()[0])


def known_trace(session: Session) -> OpenTrace | None:
    """Return the trace that the session shows, if it is in the store."""
    backend = resources.backend()
    try:
        key = session.graph or backend.key_of(session.request)
    except StoreError:
        return None
    graph = backend.graph(key) if key else None
    if graph is None or not key:
        return None
    pruned = resources.pruned_graph(key, session.thresholds)
    return OpenTrace(key, graph, pruned, resources.feature_source(graph, session.choice))
