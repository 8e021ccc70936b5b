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
from tracer.exchange import graph_from_shared, shared_from_trace
from tracer.graph import AttributionGraph, load_graph
from tracer.pruning import PrunedGraph, prune
from tracer.published import read_graph_json, write_graph_json
from tracer.scenarios import Edit, Scenario
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
    from tracer.attribution import trace
    from tracer.indexing import IndexSummary, build_index
    from tracer.interventions import (
        InterventionResult,
        Outcome,
        ScenarioRun,
        intervene,
        run_scenarios,
    )
    from tracer.models import Model, load
    from tracer.pickled import read_graph_pt

__all__ = [
    "AttributionGraph",
    "Contrast",
    "Direction",
    "Edit",
    "FeatureId",
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
    "graph_from_shared",
    "intervene",
    "load",
    "load_graph",
    "prune",
    "read_graph_json",
    "read_graph_pt",
    "run_scenarios",
    "shared_from_trace",
    "trace",
    "write_graph_json",
]

_NEEDS_TORCH = {
    "IndexSummary": "tracer.indexing",
    "InterventionResult": "tracer.interventions",
    "Model": "tracer.models",
    "Outcome": "tracer.interventions",
    "ScenarioRun": "tracer.interventions",
    "build_index": "tracer.indexing",
    "intervene": "tracer.interventions",
    "read_graph_pt": "tracer.pickled",
    "run_scenarios": "tracer.interventions",
    "load": "tracer.models",
    "trace": "tracer.attribution",
}


def __getattr__(name: str) -> Any:
    if name not in _NEEDS_TORCH:
        raise AttributeError(f"module 'tracer' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_NEEDS_TORCH[name]), name)
