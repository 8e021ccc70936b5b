"""The claims about the embedded model, measured on the weights that ship."""

from __future__ import annotations

import random
from functools import cache

import pytest
import torch

import tracer
from tracer.atlas.build import build
from tracer.atlas.circuit_checks import LanguageSwaps, language_swaps
from tracer.atlas.evaluation import (
    LABELS,
    Evaluation,
    as_dict,
    evaluate,
    replacement_keeps_top,
    sparsity,
    table,
    test_questions,
)
from tracer.atlas.gallery import GalleryPrompt, gallery
from tracer.atlas.state_swaps import (
    active_features,
    control_edits,
    state_carriers,
    swap_edits,
    swap_success,
)
from tracer.features.cards import FeatureIndex
from tracer.interventions.gallery_checks import Faithfulness, gallery_faithfulness
from tracer.model.model import Model
from tracer.types import NodeId

test_questions.__test__ = False  # type: ignore[attr-defined]
SETS = ("per-layer", "cross-layer")
FLAGSHIP = gallery()[0]


@cache
def atlas(transcoders: str) -> Model:
    return tracer.load("atlas", transcoders, device="cpu")


@cache
def evaluation() -> Evaluation:
    """Everything, for the per-layer set: accuracies are the model's own, the same for both."""
    return evaluate(atlas("per-layer"), lambda line: None, thin=2)


@cache
def replacement(transcoders: str) -> tuple[float, float]:
    """Share of prompts that keep their top token, and active features per token."""
    if transcoders == "per-layer":
        return evaluation().replacement_keeps_top, evaluation().active_per_token
    model = atlas(transcoders)
    questions = [question.prompt for family in test_questions().values() for question in family]
    prompts = random.Random(3).sample(questions, 200)
    return replacement_keeps_top(model, prompts), sparsity(model, prompts)[0]


@cache
def swaps(transcoders: str) -> tuple[float, float]:
    if transcoders == "per-layer":
        return evaluation().swap, evaluation().swap_control
    return swap_success(atlas(transcoders), state_carriers(atlas(transcoders)), n_pairs=40)


@cache
def languages(transcoders: str) -> LanguageSwaps:
    if transcoders == "per-layer":
        return evaluation().languages
    return language_swaps(atlas(transcoders))


@cache
def faithfulness(transcoders: str) -> Faithfulness:
    if transcoders == "per-layer":
        return evaluation().faithfulness
    return gallery_faithfulness(atlas(transcoders))


@pytest.mark.parametrize("entry", gallery(), ids=lambda entry: entry.title)
def test_the_gallery_is_answered_correctly(entry: GalleryPrompt) -> None:
    model = atlas("per-layer")
    logits = model.bridge.run(torch.tensor(model.encode(entry.prompt)))
    assert model.token_string(int(logits[-1].argmax())) == entry.answer


def test_held_out_questions_are_answered() -> None:
    measured = evaluation()
    assert measured.two_hop_cities >= 30 and measured.two_hop >= 0.95
    assert measured.opposites >= 0.80
    assert measured.sums >= 0.98


def test_the_printed_table_has_a_labelled_row_for_every_figure() -> None:
    figures = as_dict(evaluation())
    rows = table({"per-layer": figures}).splitlines()[1:]
    labels = [row[:58].rstrip() for row in rows]
    assert len(labels) == len(figures) == len(set(labels))
    assert set(labels) == set(LABELS.values()) | {key for key in figures if key not in LABELS}
    assert all(key.startswith("faithfulness: ") for key in figures if key not in LABELS)


@pytest.mark.parametrize("transcoders", SETS)
def test_features_can_replace_the_mlps(transcoders: str) -> None:
    keeps_top, active_per_token = replacement(transcoders)
    assert keeps_top >= 0.95
    assert active_per_token < 100


@pytest.mark.parametrize(("transcoders", "least"), [("per-layer", 0.9), ("cross-layer", 0.8)])
def test_another_states_features_give_its_capital(transcoders: str, least: float) -> None:
    success, control = swaps(transcoders)
    assert success >= least
    assert control < 0.1


@pytest.mark.parametrize("transcoders", SETS)
def test_one_supernode_chooses_the_language(transcoders: str) -> None:
    measured = languages(transcoders)
    assert measured.language_swap >= 0.95
    assert measured.language_swap_out_of_french >= 0.8
    assert measured.language_swap_into_french >= 0.3


@pytest.mark.parametrize("transcoders", SETS)
def test_the_graphs_are_faithful(transcoders: str) -> None:
    measured = faithfulness(transcoders)
    assert "Dallas → Texas → Austin" in measured.by_title and len(measured.by_title) == 5
    assert min(measured.by_title.values()) >= 0.9
    assert measured.faithfulness_median >= 0.9


@pytest.mark.parametrize("transcoders", SETS)
def test_the_first_graph_has_a_path_from_dallas_through_texas_to_austin(transcoders: str) -> None:
    """Positive edges lead from the token to a feature labelled Texas, and from there to Austin."""
    model = atlas(transcoders)
    index = FeatureIndex.open(model.source.transcoder_folder)
    pruned = tracer.prune(tracer.trace(model, FLAGSHIP.prompt))
    graph = pruned.graph
    assert graph.next_tokens[0].token == FLAGSHIP.answer
    dallas = next(
        n for n in pruned.nodes if n.kind == "token" and graph.tokens[n.position] == " Dallas"
    )
    austin = next(n for n in pruned.nodes if n.kind == "logit")

    def is_texas(node: NodeId) -> bool:
        label = index.labels.get(node.feature) if node.kind == "feature" else None
        return label is not None and "Texas" in label.text

    texas = [node for node, weight in pruned.outputs(dallas) if weight > 0 and is_texas(node)]
    assert texas, "Dallas has no positive edge to a feature labelled Texas"
    reached, waiting = set(texas), list(texas)
    while waiting:
        for node, weight in pruned.outputs(waiting.pop()):
            if weight > 0 and node not in reached:
                reached.add(node)
                waiting.append(node)
    assert austin in reached
    assert pruned.replacement_score > 0.6 and pruned.completeness_score > 0.8
    assert len(pruned.nodes) - len(graph.tokens) < 60, "too many nodes to read"


@pytest.mark.parametrize("transcoders", SETS)
def test_examples_in_the_index_have_the_activations_of_the_model(transcoders: str) -> None:
    model = atlas(transcoders)
    index = FeatureIndex.open(model.source.transcoder_folder)
    assert len(index) == sum(layer.n_features for layer in model.transcoders.layers)
    checked = 0
    for feature in random.Random(5).sample(sorted(index.labels), 25):
        card = index.card(feature)
        assert card is not None and card.label is not None
        example = card.groups[0].examples[0]
        ids = (model.bridge.tokenizer.bos_token_id, *model.encode("".join(example.tokens[1:]))[1:])
        name = model.read_hook(feature.layer)
        _, seen = model.bridge.capture(torch.tensor(ids), [name])
        active = model.transcoders[feature.layer].activations(seen[name])[1:, feature.index]
        assert active.tolist() == pytest.approx(example.activations[1:], abs=2e-3)
        assert max(example.activations) == pytest.approx(card.act_max, abs=2e-3)
        checked += 1
    assert checked == 25


@pytest.mark.parametrize("transcoders", SETS)
def test_labels_are_earned(transcoders: str) -> None:
    index = FeatureIndex.open(atlas(transcoders).source.transcoder_folder)
    assert len(index.labels) > 300
    for label in index.labels.values():
        assert label.text and len(label.text) <= 40
        assert label.precision is not None and label.precision >= 0.8


def test_the_control_swap_has_the_same_values_at_other_features() -> None:
    model = atlas("per-layer")
    carriers = state_carriers(model)
    pair = carriers["Texas"], carriers["Ohio"]
    (present,) = active_features(model, [FLAGSHIP.prompt])
    edits = swap_edits(present, *pair)
    control = control_edits(model, edits, (present,), pair, random.Random(1))
    assert len(edits) > 20
    assert sorted((e.position, e.value) for e in control) == sorted(
        (e.position, e.value) for e in edits
    )
    places = {(e.position, e.layer, e.feature) for e in control}
    assert len(places) == len(control)
    assert not places & {(e.position, e.layer, e.feature) for e in edits}


def test_the_shipped_weights_count_as_built() -> None:
    reports: list[str] = []
    build(report=reports.append, threads=torch.get_num_threads())
    assert reports == []
