"""Circuit tracing: which features of a language model directly affect which, and the next token.

    model  = tracer.load("atlas")
    graph  = tracer.trace(model, "The capital of the state containing Dallas is")
    pruned = tracer.prune(graph)
    result = tracer.intervene(model, graph.prompt, [tracer.Intervention(3, -1, 417, 0.0)])

Names that need torch are imported when first used, so that reading a saved graph stays quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tracer.errors import TracerError
from tracer.graph.graph import AttributionGraph, load_graph
from tracer.graph.pruning import PrunedGraph, prune
from tracer.interchange.convert import external_from_pruned, graph_from_external
from tracer.interchange.graph_json import read_graph_json, write_graph_json
from tracer.interventions.scenario import Edit, Scenario
from tracer.types import (
    Contrast,
    Direction,
    FeatureId,
    FeatureTarget,
    Intervention,
    NodeId,
    Supernode,
    Target,
    Thresholds,
    TokenProbability,
)

if TYPE_CHECKING:
    from tracer.attribution.trace import trace
    from tracer.indexing import IndexSummary, build_index
    from tracer.interchange.circuit_tracer_pt import read_graph_pt
    from tracer.interventions.run import (
        InterventionResult,
        Outcome,
        ScenarioRun,
        intervene,
        run_scenarios,
    )
    from tracer.model.model import Model, load
    from tracer.search.by_text import feature_activations, features_on_text
    from tracer.search.by_weight import features_promoting, features_reading, neighbours
    from tracer.search.by_word import search_examples, search_labels
    from tracer.search.match import FeatureMatch

__all__ = [
    "AttributionGraph",
    "Contrast",
    "Direction",
    "Edit",
    "FeatureId",
    "FeatureMatch",
    "FeatureTarget",
    "IndexSummary",
    "Intervention",
    "InterventionResult",
    "Model",
    "NodeId",
    "Outcome",
    "PrunedGraph",
    "Scenario",
    "ScenarioRun",
    "Supernode",
    "Target",
    "Thresholds",
    "TokenProbability",
    "TracerError",
    "build_index",
    "external_from_pruned",
    "feature_activations",
    "features_on_text",
    "features_promoting",
    "features_reading",
    "graph_from_external",
    "intervene",
    "load",
    "load_graph",
    "neighbours",
    "prune",
    "read_graph_json",
    "read_graph_pt",
    "run_scenarios",
    "search_examples",
    "search_labels",
    "trace",
    "write_graph_json",
]

_NEEDS_TORCH = {
    "IndexSummary": "tracer.indexing",
    "InterventionResult": "tracer.interventions.run",
    "Model": "tracer.model.model",
    "Outcome": "tracer.interventions.run",
    "ScenarioRun": "tracer.interventions.run",
    "build_index": "tracer.indexing",
    "feature_activations": "tracer.search.by_text",
    "features_on_text": "tracer.search.by_text",
    "features_promoting": "tracer.search.by_weight",
    "features_reading": "tracer.search.by_weight",
    "intervene": "tracer.interventions.run",
    "read_graph_pt": "tracer.interchange.circuit_tracer_pt",
    "run_scenarios": "tracer.interventions.run",
    "load": "tracer.model.model",
    "neighbours": "tracer.search.by_weight",
    "trace": "tracer.attribution.trace",
}

_READS_FEATURES = {
    "FeatureMatch": "tracer.search.match",
    "search_examples": "tracer.search.by_word",
    "search_labels": "tracer.search.by_word",
}
"""Names that need no torch, but more than reading a graph does."""
_LAZY = _NEEDS_TORCH | _READS_FEATURES

_RENAMED = {
    "graph_from_shared": "graph_from_external",
    "shared_from_trace": "external_from_pruned",
}
"""Names of the first version; they keep working."""


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        return globals()[_RENAMED[name]]
    if name not in _LAZY:
        raise AttributeError(f"module 'tracer' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)
