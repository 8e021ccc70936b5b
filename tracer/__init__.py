"""Circuit tracing: how the features of a language model produce its next token.

    >>> import tracer
    >>> model = tracer.load("atlas")
    >>> graph = tracer.trace(model, "The capital of the state containing Dallas is")
    >>> graph.next_tokens[0].token
    ' Austin'
    >>> pruned = tracer.prune(graph)
    >>> strongest = next(n for n, _ in pruned.inputs(pruned.nodes[-1]) if n.kind == "feature")
    >>> off = tracer.Intervention(strongest.layer, strongest.position, strongest.index, value=0.0)
    >>> result = tracer.intervene(model, graph.prompt, [off])
    >>> result.edited[0].probability < result.baseline[0].probability
    True

Every error raised on purpose is a :class:`TracerError`; :mod:`tracer.errors` draws the tree. Names
that need torch are imported on first use, so that reading a saved graph is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tracer.attention.edge_heads import EdgeHeads
from tracer.attention.results import AttentionExplanation, EdgePaths, HeadSplit
from tracer.errors import (
    AccessError,
    AttentionError,
    BrokenTransferError,
    CacheFolderError,
    Cancelled,
    ChatNeededError,
    ComparisonError,
    CorpusError,
    DeviceLostError,
    DiskFullError,
    EmptyPromptError,
    ExternalGraphError,
    FeatureIndexError,
    FeatureLookupError,
    GraphFileError,
    HubAnswerError,
    HubError,
    HubFileMissingError,
    HubReferenceError,
    HubUnreachableError,
    InterventionError,
    LicenceError,
    MemoryLimitError,
    ModelError,
    NetworkOffError,
    NoActiveFeaturesError,
    NotDownloadedError,
    PromptError,
    PromptTooLongError,
    RegistryError,
    RepositoryMissingError,
    RevisionMissingError,
    SearchError,
    SourceUnavailableError,
    TargetError,
    ThresholdError,
    TokenError,
    TracerError,
    TrainingError,
    TranscoderError,
    UnknownTokenError,
)
from tracer.graph.comparison import Comparison, compare_graphs
from tracer.graph.graph import AttributionGraph, load_graph
from tracer.graph.nodes import NodeIndex
from tracer.graph.pruning import PrunedGraph, prune
from tracer.interchange.convert import external_from_pruned, graph_from_external
from tracer.interchange.graph_json import read_graph_json, write_graph_json
from tracer.interventions.head_edit import HeadEdit, without_pairs
from tracer.interventions.scenario import Edit, Scenario
from tracer.progress import progress_bar
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
    from tracer.attention.explain import explain_attention
    from tracer.attention.paths import head_paths
    from tracer.attention.split import split_by_head
    from tracer.attention.split_edges import split_edges
    from tracer.attribution.trace import trace
    from tracer.features.cards import FeatureIndex
    from tracer.indexing import IndexSummary, build_index
    from tracer.interchange.circuit_tracer_pt import read_graph_pt
    from tracer.interventions.head_check import PairCheck, check_pairs
    from tracer.interventions.run import (
        InterventionResult,
        Outcome,
        ScenarioRun,
        intervene,
        run_scenarios,
    )
    from tracer.model.model import Model, chat_prompt, load
    from tracer.search.by_text import feature_activations, features_on_text
    from tracer.search.by_weight import features_promoting, features_reading, neighbours
    from tracer.search.by_word import search_examples, search_labels
    from tracer.search.match import FeatureMatch
    from tracer.training import TrainingReport, evaluate_transcoders, train_transcoders
    from tracer.transcoders.save import convert

__all__ = [
    "AccessError",
    "AttentionError",
    "AttentionExplanation",
    "AttributionGraph",
    "BrokenTransferError",
    "CacheFolderError",
    "Cancelled",
    "ChatNeededError",
    "Comparison",
    "ComparisonError",
    "Contrast",
    "CorpusError",
    "DeviceLostError",
    "Direction",
    "DiskFullError",
    "EdgeHeads",
    "EdgePaths",
    "Edit",
    "EmptyPromptError",
    "ExternalGraphError",
    "FeatureId",
    "FeatureIndex",
    "FeatureIndexError",
    "FeatureLookupError",
    "FeatureMatch",
    "FeatureTarget",
    "GraphFileError",
    "HeadEdit",
    "HeadSplit",
    "HubAnswerError",
    "HubError",
    "HubFileMissingError",
    "HubReferenceError",
    "HubUnreachableError",
    "IndexSummary",
    "Intervention",
    "InterventionError",
    "InterventionResult",
    "LicenceError",
    "MemoryLimitError",
    "Model",
    "ModelError",
    "NetworkOffError",
    "NoActiveFeaturesError",
    "NodeId",
    "NodeIndex",
    "NotDownloadedError",
    "Outcome",
    "PairCheck",
    "PromptError",
    "PromptTooLongError",
    "PrunedGraph",
    "RegistryError",
    "RepositoryMissingError",
    "RevisionMissingError",
    "Scenario",
    "ScenarioRun",
    "SearchError",
    "SourceUnavailableError",
    "Supernode",
    "Target",
    "TargetError",
    "ThresholdError",
    "Thresholds",
    "TokenError",
    "TokenProbability",
    "TracerError",
    "TrainingError",
    "TrainingReport",
    "TranscoderError",
    "UnknownTokenError",
    "build_index",
    "chat_prompt",
    "check_pairs",
    "compare_graphs",
    "convert",
    "evaluate_transcoders",
    "explain_attention",
    "external_from_pruned",
    "feature_activations",
    "features_on_text",
    "features_promoting",
    "features_reading",
    "graph_from_external",
    "head_paths",
    "intervene",
    "load",
    "load_graph",
    "neighbours",
    "progress_bar",
    "prune",
    "read_graph_json",
    "read_graph_pt",
    "run_scenarios",
    "search_examples",
    "search_labels",
    "split_by_head",
    "split_edges",
    "trace",
    "train_transcoders",
    "without_pairs",
    "write_graph_json",
]

_ON_FIRST_USE = {
    "FeatureIndex": "tracer.features.cards",
    "FeatureMatch": "tracer.search.match",
    "IndexSummary": "tracer.indexing",
    "InterventionResult": "tracer.interventions.run",
    "Model": "tracer.model.model",
    "Outcome": "tracer.interventions.run",
    "PairCheck": "tracer.interventions.head_check",
    "ScenarioRun": "tracer.interventions.run",
    "TrainingReport": "tracer.training",
    "build_index": "tracer.indexing",
    "check_pairs": "tracer.interventions.head_check",
    "chat_prompt": "tracer.model.model",
    "convert": "tracer.transcoders.save",
    "explain_attention": "tracer.attention.explain",
    "evaluate_transcoders": "tracer.training",
    "feature_activations": "tracer.search.by_text",
    "features_on_text": "tracer.search.by_text",
    "features_promoting": "tracer.search.by_weight",
    "features_reading": "tracer.search.by_weight",
    "head_paths": "tracer.attention.paths",
    "intervene": "tracer.interventions.run",
    "load": "tracer.model.model",
    "neighbours": "tracer.search.by_weight",
    "read_graph_pt": "tracer.interchange.circuit_tracer_pt",
    "run_scenarios": "tracer.interventions.run",
    "search_examples": "tracer.search.by_word",
    "search_labels": "tracer.search.by_word",
    "split_by_head": "tracer.attention.split",
    "split_edges": "tracer.attention.split_edges",
    "trace": "tracer.attribution.trace",
    "train_transcoders": "tracer.training",
}

_RENAMED = {
    "graph_from_shared": "graph_from_external",
    "shared_from_trace": "external_from_pruned",
}
"""Names of the first version, which keep working."""


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        return globals()[_RENAMED[name]]
    if name not in _ON_FIRST_USE:
        raise AttributeError(f"module 'tracer' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_ON_FIRST_USE[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
