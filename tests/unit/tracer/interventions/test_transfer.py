"""Edits that carry features from one prompt's graph into another prompt."""

from __future__ import annotations

import dataclasses

import pytest
from example_graphs import (
    AUSTIN,
    CALIFORNIA,
    CAPITAL,
    TEXAS,
    TOKENS,
    dallas_graph,
    graph_of,
    oakland_graph,
)

from tracer.errors import InterventionError
from tracer.graph.comparison import ComparedNode, Slots, compare_graphs
from tracer.graph.pruning import prune
from tracer.interventions.scenario import Edit
from tracer.interventions.transfer import difference_edits, transplant
from tracer.types import NodeId


def test_transplanted_features_keep_their_values_and_their_distance_from_the_end() -> None:
    graph = dallas_graph()
    longer = graph_of([(0, 1, 1)], {}, tokens=("<bos>", " So", *TOKENS[1:]))
    [edit] = transplant(graph, [TEXAS], longer)
    value = float(graph.activations[graph.index.row(TEXAS)])
    assert edit == Edit(TEXAS.feature, TEXAS.position + 1, TEXAS.position + 2, "set", value)


def test_a_feature_without_a_matching_position_is_refused() -> None:
    shorter = graph_of([(0, 1, 1)], {}, tokens=TOKENS[:3])
    message = r"^' capital' \(position 2\) has no matching position in this prompt, which is 6"
    with pytest.raises(InterventionError, match=message):
        transplant(dallas_graph(), [CAPITAL], shorter)


def test_features_are_not_transplanted_between_different_transcoders() -> None:
    graph = dallas_graph()
    other = dataclasses.replace(graph, provenance={"model": "gemma", "fingerprint": "1"})
    message = "gemma with unknown transcoders and an unknown model with unknown transcoders do not"
    with pytest.raises(InterventionError, match=message):
        transplant(other, [TEXAS], graph)


def test_the_difference_of_two_graphs_becomes_edits_of_the_left_prompt() -> None:
    graph = oakland_graph()
    comparison = compare_graphs(prune(dallas_graph(), 1.0, 1.0), prune(graph, 1.0, 1.0))
    edits, dropped = difference_edits(comparison, left_factor=0.0)
    value = float(graph.activations[graph.index.row(CALIFORNIA)])
    assert dropped == 0
    assert set(edits) == {
        Edit.at(TEXAS, "scale", 0.0),
        Edit.at(AUSTIN, "scale", 0.0),
        Edit.at(NodeId("feature", 3, 8, 7), "scale", 0.0),
        Edit(CALIFORNIA.feature, 7, 8, "set", value),  # at Dallas, which Oakland is aligned with
    }
    assert CAPITAL.feature not in {edit.feature for edit in edits}


def test_features_at_tokens_the_left_prompt_lacks_are_counted_as_dropped() -> None:
    """Nothing is set at the beginning-of-text token either, which has no features."""
    shorter = graph_of([(0, 1, 1)], {}, tokens=("<bos>", " Go"))
    early = graph_of([(0, 1, 3), (0, 2, 4)], {}, tokens=("<bos>", " Go", " on"))
    comparison = compare_graphs(prune(shorter, 1.0, 1.0), prune(early, 1.0, 1.0))
    right_only = [NodeId("feature", 0, 1, 3), NodeId("feature", 0, 2, 4)]
    nodes = tuple(
        ComparedNode("feature", 0, 0, n.index, (), (n,), (0.0, 1.0), (0.0, 0.5)) for n in right_only
    )
    edits, dropped = difference_edits(dataclasses.replace(comparison, nodes=nodes))
    assert [edit.feature.index for edit in edits] == [3] and dropped == 1
    first = Slots((1, 0), (0, 1, 2), 3)
    edits, dropped = difference_edits(dataclasses.replace(comparison, nodes=nodes, slots=first))
    assert edits == () and dropped == 2
