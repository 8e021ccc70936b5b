"""Groups of features, and outcomes of scenarios side by side."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from example_graphs import AUSTIN, CAPITAL, NAMES, TEXAS, dallas_graph, graph_of

from charts.edit_groups import (
    edit_groups,
    edit_line,
    feature_groups,
    group_of,
    lone_names,
    own_groups,
)
from charts.graph_view import GraphView
from charts.palette import LIGHT
from charts.scenario_figures import (
    activation_figure,
    continuation_parts,
    dose_figure,
    flips,
    outcome_figure,
    outcome_sentence,
    shared_tokens,
)
from tracer.graph.pruning import prune
from tracer.interventions.run import Outcome
from tracer.interventions.scenario import Edit, Scenario, edit_all
from tracer.types import FeatureId, NodeId, Supernode, TokenProbability

WORDS = (" Austin", " Sacramento", " <b>", " Paris")


def outcome(
    name: str, *probabilities: float, continuation: str = "", differs: int | None = None
) -> Outcome:
    logits = np.log(np.array(probabilities, np.float32))
    order = np.argsort(-logits)
    tokens = tuple(
        TokenProbability(WORDS[i], int(i), float(probabilities[i]), float(logits[i])) for i in order
    )
    words = tuple(f" {word}" for word in continuation.split())
    return Outcome(name, tokens, logits, continuation_tokens=words, differs_at=differs)


BEFORE = outcome("baseline", 0.9, 0.06, 0.03, 0.01, continuation="Austin is big")
AFTER = outcome("swap", 0.1, 0.75, 0.05, 0.1, continuation="Austin was big", differs=1)


def test_features_with_one_name_form_a_group_strongest_group_first() -> None:
    graph = dallas_graph()
    names = {**NAMES, FeatureId(4, 2): NAMES[TEXAS.feature]}
    view = GraphView(prune(graph, 1.0, 1.0), names)
    groups = feature_groups(view)
    texas = group_of(groups, NAMES[TEXAS.feature])
    assert texas is not None and set(texas.nodes) == {TEXAS, AUSTIN}
    influences = [group.influence for group in groups]
    assert influences == sorted(influences, reverse=True)
    assert texas.influence == pytest.approx(view.influence(TEXAS) + view.influence(AUSTIN))
    assert sum(len(group.nodes) for group in groups) == graph.index.n_features
    assert group_of(groups, "Atlantis") is None


def test_edits_are_described_by_name_and_token() -> None:
    scenario = Scenario(
        "x",
        (
            *edit_all([TEXAS, NodeId("feature", 3, 7, 7)], "scale", 0.0),
            Edit(FeatureId(2, 2), 8, None, "scale", -2.0),
            Edit(FeatureId(0, 9), 2, 3, "set", 4.5),
        ),
    )
    names = {**NAMES, FeatureId(3, 7): NAMES[TEXAS.feature]}
    groups = edit_groups(scenario, dallas_graph(), names.get)
    assert [edit_line(group) for group in groups] == [
        f"off: {NAMES[TEXAS.feature]} at “Dallas” (2 features)",
        "−2× L2/2 at “is …”",  # and at every later token
        "set: capital at “capital”",
    ]
    assert [edit for group in groups for edit in group.edits] == list(scenario.edits)


def test_supernodes_and_single_pins_are_groups() -> None:
    graph = dallas_graph()
    error, missing = NodeId("error", 2, 8, -1), NodeId("feature", 1, 1, 1)
    marked = frozenset({TEXAS, AUSTIN, CAPITAL, error})
    view = GraphView(prune(graph, 0.5, 0.9), NAMES, selected=AUSTIN, pinned=marked)
    supernodes = (Supernode("Texas & more", (TEXAS, error, missing)),)
    groups = own_groups(view, supernodes)
    assert [(group.name, group.nodes) for group in groups] == [
        (
            "Texas & more",
            (TEXAS,),
        ),  # the error has no activation, the other node is not in the graph
        ("capital · layer 0 at “capital”", (CAPITAL,)),
        ("say Austin · layer 4 at “is”", (AUSTIN,)),
    ]
    assert groups[0].influence == view.influence(TEXAS)


def test_nodes_with_the_same_name_and_place_get_unique_names() -> None:
    graph = graph_of([(1, 7, 4), (1, 7, 5), (1, 6, 4)], {})
    names = {FeatureId(1, 4): "Texas", FeatureId(1, 5): "Texas"}
    view = GraphView(prune(graph, 1.0, 1.0), names)
    nodes = [graph.index.node(row) for row in range(3)]
    assert list(lone_names(view, nodes).values()) == [
        "Texas · layer 1 at “containing”",
        "Texas · layer 1 at “Dallas” · 4",
        "Texas · layer 1 at “Dallas” · 5",
    ]


def test_remaining_activation_is_a_dumbbell() -> None:
    after = dataclasses.replace(AFTER, activations={TEXAS: 1.0, CAPITAL: 6.0, AUSTIN: 0.5})
    before = dataclasses.replace(BEFORE, activations={TEXAS: 2.0, CAPITAL: 2.0, AUSTIN: 0.0})
    groups = {"Texas": (TEXAS,), "<b>both</b>": (TEXAS, CAPITAL), "silent": (AUSTIN,)}
    figure = activation_figure(groups, before, after, LIGHT)
    *_, ends = figure.data
    assert list(ends.x)[:2] == [0.5, 1.75]
    assert list(ends.text) == ["50 %", "175 %", "not active before"]
    assert "&lt;b&gt;" in figure.layout.yaxis.ticktext[1]


def test_columns_show_the_same_tokens_in_the_baselines_order() -> None:
    tokens = shared_tokens([BEFORE, AFTER], limit=3)
    assert [name for _, name in tokens] == [" Austin", " Sacramento", " Paris"]
    figure = outcome_figure(BEFORE, AFTER, tokens, LIGHT)
    alone = outcome_figure(BEFORE, None, tokens, LIGHT)
    before, after = figure.data
    assert list(before.x) == pytest.approx([0.9, 0.06, 0.01])
    assert list(after.x) == pytest.approx([0.1, 0.75, 0.1])
    assert len(alone.data) == 1 and list(alone.data[0].x) == list(before.x)
    assert alone.layout.height == figure.layout.height
    assert alone.layout.yaxis.ticktext == figure.layout.yaxis.ticktext


def test_tokens_are_escaped_in_every_figure() -> None:
    tokens = [(2, " <b>")]
    for figure in (
        outcome_figure(BEFORE, AFTER, tokens, LIGHT),
        dose_figure((1.0, 0.0), [BEFORE, AFTER], tokens, LIGHT),
    ):
        assert "<b>" not in figure.to_json().replace("<b>:", "")


def test_a_sweep_marks_where_the_top_token_flips() -> None:
    third = dataclasses.replace(AFTER)
    figure = dose_figure((1.0, 0.0, -1.0), [BEFORE, AFTER, third], [(0, " Austin")], LIGHT)
    assert flips([BEFORE, AFTER, third]) == [1]
    [line] = figure.layout.shapes
    assert line.x0 == 0.5
    assert [a.text for a in figure.layout.annotations] == ["→ Sacramento"]
    assert list(figure.data[0].y) == pytest.approx([0.9, 0.1, 0.1])
    assert flips([BEFORE, BEFORE]) == []


def test_an_outcome_is_a_sentence_and_a_continuation_in_three_parts() -> None:
    assert outcome_sentence(BEFORE, AFTER) == "Austin 90 % → 10 %; top token: Sacramento (75 %)."
    assert outcome_sentence(BEFORE, BEFORE) == "Austin 90 % → 90 %, still the top token."
    assert continuation_parts(AFTER) == (" Austin", " was", " big")
    assert continuation_parts(BEFORE) == (" Austin is big", "", "")
