"""The claims made of the embedded model, measured on the weights that ship."""

from __future__ import annotations

import random
from functools import cache

import pytest
import torch

import tracer
from tracer.atlas.evaluation import (
    Evaluation,
    _active,
    _control_edits,
    _swap_edits,
    evaluate,
    state_carriers,
)
from tracer.atlas.gallery import GalleryPrompt, gallery
from tracer.features.cards import FeatureIndex
from tracer.model.model import Model
from tracer.types import NodeId

SETS = ("per-layer", "cross-layer")
FLAGSHIP = gallery()[0]


@cache
def atlas(transcoders: str) -> Model:
    return tracer.load("atlas", transcoders, device="cpu")


@cache
def measured(transcoders: str) -> Evaluation:
    return evaluate(atlas(transcoders), lambda line: None)


@pytest.mark.parametrize("entry", gallery(), ids=lambda entry: entry.title)
def test_the_gallery_is_answered_right(entry: GalleryPrompt) -> None:
    model = atlas("per-layer")
    logits = model.bridge.run(torch.tensor(model.encode(entry.prompt)))
    assert model.token_string(int(logits[-1].argmax())) == entry.answer


def test_held_out_questions_are_answered() -> None:
    found = measured("per-layer")
    assert found.two_hop_cities >= 30 and found.two_hop >= 0.95
    assert found.opposites >= 0.80
    assert found.sums >= 0.98


@pytest.mark.parametrize("transcoders", SETS)
def test_the_features_can_stand_in_for_the_mlps(transcoders: str) -> None:
    found = measured(transcoders)
    assert found.replacement_keeps_top >= 0.95
    assert found.active_per_token < 100


@pytest.mark.parametrize(("transcoders", "least"), [("per-layer", 0.9), ("cross-layer", 0.8)])
def test_another_states_features_give_its_capital(transcoders: str, least: float) -> None:
    found = measured(transcoders)
    assert found.swap >= least
    assert found.swap_control < 0.1


@pytest.mark.parametrize("transcoders", SETS)
def test_one_supernode_chooses_the_language(transcoders: str) -> None:
    found = measured(transcoders).languages
    assert found.language_swap >= 0.95
    assert found.language_swap_out_of_french >= 0.8
    assert found.language_swap_into_french >= 0.3


@pytest.mark.parametrize("transcoders", SETS)
def test_the_graphs_tell_the_truth(transcoders: str) -> None:
    found = measured(transcoders).truths
    assert "Dallas → Texas → Austin" in found.truth and len(found.truth) == 5
    assert min(found.truth.values()) >= 0.9
    assert found.truth_gallery_median >= 0.9


@pytest.mark.parametrize("transcoders", SETS)
def test_dallas_texas_austin_can_be_walked_in_the_flagship_graph(transcoders: str) -> None:
    """From the token over a feature labelled Texas to the answer, along kept positive edges."""
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
    assert texas, "no feature that Dallas drives is labelled Texas"
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
def test_the_index_tells_what_the_features_really_do(transcoders: str) -> None:
    """Examples are recomputed from the model: the activations are those of the transcoders."""
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


def test_the_control_swap_is_as_large_as_the_real_one() -> None:
    model = atlas("per-layer")
    carriers = state_carriers(model)
    pair = carriers["Texas"], carriers["Ohio"]
    present = _active(model, FLAGSHIP.prompt)
    edits = _swap_edits(present, *pair)
    control = _control_edits(model, edits, (present,), pair, random.Random(1))
    assert len(edits) > 20
    assert sorted((e.position, e.value) for e in control) == sorted(
        (e.position, e.value) for e in edits
    )
    places = {(e.position, e.layer, e.feature) for e in control}
    assert len(places) == len(control)
    assert not places & {(e.position, e.layer, e.feature) for e in edits}
