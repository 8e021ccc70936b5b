"""The shipped model of English: its gallery, its labels, and what carries a pronoun."""

from __future__ import annotations

from functools import cache

import pytest

import tracer
from tracer.catalog.embedded import EMBEDDED_SETS, NOVELS, gallery, installed
from tracer.novels.build import check_gallery
from tracer.types import NodeId


@cache
def novels(transcoders: str) -> tracer.Model:
    return tracer.load(NOVELS, transcoders, device="cpu")


def test_it_is_offered() -> None:
    assert NOVELS in [model.name for model in installed()]


def test_every_prompt_of_the_gallery_is_continued_as_stated() -> None:
    assert len(gallery(NOVELS)) >= 20
    assert check_gallery(novels("per-layer")) == []


def test_any_text_is_traced_and_features_are_few() -> None:
    graph = tracer.trace(novels("per-layer"), "My phone fell into the café’s Überraschungstüte 🎈")
    per_token = graph.index.n_features / len(graph.tokens)
    assert 20 < per_token < 120  # 56 on held-out text


@pytest.mark.parametrize("transcoders", EMBEDDED_SETS)
def test_a_boys_features_at_the_girl_make_her_a_he(transcoders: str) -> None:
    model, noun = novels(transcoders), 2

    def at_noun(prompt: str) -> dict[NodeId, float]:
        graph = tracer.trace(model, prompt)
        rows = graph.index.feature_rows
        nodes = {graph.index.node(row): row for row in range(rows.start, rows.stop)}
        return {
            node: float(graph.activations[row])
            for node, row in nodes.items()
            if node.position == noun
        }

    girl, boy = "The girl was so happy that", "The boy was so happy that"
    removed = [tracer.Edit.at(node, "scale", 0.0) for node in at_noun(girl)]
    put_in = [tracer.Edit.at(node, "set", value) for node, value in at_noun(boy).items()]
    edited = {edit.feature: edit for edit in (*removed, *put_in)}
    swap = tracer.Scenario("boy for girl", tuple(edited.values()))
    run = tracer.run_scenarios(model, girl, [swap])
    assert run.baseline.next_tokens[0].token == " she"
    assert run.outcomes[0].next_tokens[0].token == " he"


def test_labels_have_measured_precision() -> None:
    folder = novels("per-layer").source.transcoder_folder
    labels = tracer.FeatureIndex.open(folder).labels
    assert len(labels) > 1_000
    assert all(label.precision is not None and label.precision >= 0.8 for label in labels.values())
