"""`import tracer` has exactly these names, and importing it loads nothing heavy."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys

import pytest

import tracer
from tracer import errors

ERRORS = """
    TracerError PromptError EmptyPromptError PromptTooLongError UnknownTokenError ModelError
    ChatNeededError
    DeviceLostError NotDownloadedError TranscoderError RegistryError NoActiveFeaturesError
    TargetError ThresholdError InterventionError FeatureIndexError FeatureLookupError
    SourceUnavailableError CorpusError ComparisonError ExternalGraphError GraphFileError
    MemoryLimitError HubError HubReferenceError RepositoryMissingError RevisionMissingError
    SearchError HubFileMissingError LicenceError AccessError TokenError HubUnreachableError
    NetworkOffError HubAnswerError BrokenTransferError CacheFolderError DiskFullError Cancelled
    TrainingError AttentionError
"""
VALUES = """
    AttentionExplanation AttributionGraph Comparison Contrast Direction EdgeHeads EdgePaths Edit
    FeatureId
    HeadEdit HeadSplit FeatureIndex FeatureMatch FeatureTarget IndexSummary Intervention
    InterventionResult Model NodeId NodeIndex Outcome PairCheck
    PrunedGraph Scenario ScenarioRun Supernode Target Thresholds TokenProbability
    TrainingReport
"""
FUNCTIONS = """
    build_index chat_prompt compare_graphs convert external_from_pruned graph_from_external
    intervene load
    feature_activations features_on_text features_promoting features_reading neighbours
    search_examples search_labels load_graph progress_bar prune read_graph_json read_graph_pt
    run_scenarios trace write_graph_json evaluate_transcoders train_transcoders
    explain_attention head_paths split_by_head split_edges
    check_pairs without_pairs
"""


def test_the_public_names_are_exactly_these() -> None:
    assert sorted(tracer.__all__) == sorted((ERRORS + VALUES + FUNCTIONS).split())


def test_every_public_name_can_be_used_and_is_documented() -> None:
    for name in tracer.__all__:
        value = getattr(tracer, name)
        assert callable(value) and name in dir(tracer), name
        assert inspect.getdoc(value), name
        assert value.__module__.startswith("tracer."), name


def test_every_error_of_the_library_is_public() -> None:
    classes = {value for value in vars(errors).values() if inspect.isclass(value)}
    assert {cls.__name__ for cls in classes if issubclass(cls, errors.TracerError)} == set(
        ERRORS.split()
    )


def test_the_drawn_tree_of_errors_is_the_real_one() -> None:
    parents: dict[str, str] = {}
    above: dict[int, str] = {}
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"    ([│├└─ ]*)(\w+)", line)
        if match and match[2] in vars(errors):
            depth, name = len(match[1]) // 4, match[2]
            above[depth] = name
            parents[name] = above[depth - 1] if depth else "Exception"
    assert parents == {name: vars(errors)[name].__bases__[0].__name__ for name in ERRORS.split()}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("graph_from_shared", "graph_from_external"),
        ("shared_from_trace", "external_from_pruned"),
    ],
)
def test_names_of_the_first_version_still_work(old: str, new: str) -> None:
    assert getattr(tracer, old) is getattr(tracer, new)
    assert old not in tracer.__all__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'tracer' has no attribute 'tracing'"):
        tracer.tracing  # noqa: B018


def test_importing_the_library_loads_nothing_heavy() -> None:
    code = (
        "import sys, tracer; tracer.load_graph, tracer.compare_graphs, tracer.FeatureIndex;"
        "heavy = {'torch', 'transformers', 'transformer_lens', 'pandas', 'huggingface_hub'};"
        "print(*heavy & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
