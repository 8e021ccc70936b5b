"""The shipped indexes are what the general builder makes of atlas's own corpus."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tracer
from tracer.atlas.__main__ import main
from tracer.atlas.build import SETS
from tracer.atlas.corpus import sentences
from tracer.atlas.feature_index import build_atlas_index
from tracer.atlas.prefixes import Prefixes, collect_prefixes
from tracer.features.cards import FeatureCard, FeatureIndex, Label
from tracer.model.model import Model
from tracer.paths import ATLAS_WEIGHTS
from tracer.types import FeatureId

N_FEATURES = 128
"""Features per layer that are compared: an eighth of all, which the builder handles one by one."""


@pytest.fixture(scope="module")
def model() -> Model:
    return tracer.load("atlas", "per-layer", device="cpu")


@pytest.fixture(scope="module")
def prefixes(model: Model) -> Prefixes:
    """The expensive part: every training prompt is run once, for all tests of this file."""
    return collect_prefixes(model.bridge, list(sentences()))


@pytest.fixture(scope="module")
def corpus(prefixes: Prefixes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("atlas") / "prompts.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tracer.atlas.build.collect_prefixes", lambda *_: prefixes)
        assert main(["corpus", str(path)]) == 0
    return path


def test_the_corpus_has_tags_for_every_new_prefix_only(corpus: Path) -> None:
    groups, *lines = [json.loads(line) for line in corpus.read_text(encoding="utf-8").splitlines()]
    assert list(groups["tag_groups"]) == ["place", "about", "say", "token"]
    assert len(lines) > 25_000
    assert all(len(line["tokens"]) == len(line["tags"]) for line in lines)
    seen: set[tuple[int, ...]] = set()
    for line in lines:
        ids = tuple(line["tokens"])
        assert line["tags"][0] == []
        for stop in range(1, len(ids)):
            assert bool(line["tags"][stop]) == (ids[: stop + 1] not in seen)
            seen.add(ids[: stop + 1])


class RecordedBridge:
    """A model that answers from recorded activations: they depend only on the prefix."""

    def __init__(self, model: Model, prefixes: Prefixes) -> None:
        self._bridge = model.bridge
        self._reads = {model.read_hook(layer): layer for layer in range(model.n_layers)}
        self._prefixes = prefixes
        self._number = {
            prefixes.prompts[prompt][: position + 1]: number
            for number, (prompt, position) in enumerate(prefixes.first_use)
        }

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bridge, name)

    def capture_batch(
        self, token_ids: Tensor, names: Iterable[str]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        logits = torch.zeros(*token_ids.shape, self._bridge.vocab_size)
        captured = {
            name: torch.zeros(*token_ids.shape, self._prefixes.inputs.shape[-1]) for name in names
        }
        cells = [
            (row, stop, self._number[prefix])
            for row, ids in enumerate(token_ids.tolist())
            for stop in range(1, len(ids))
            if (prefix := tuple(ids[: stop + 1])) in self._number
        ]
        rows, stops, numbers = torch.tensor(cells).unbind(1)
        for name, values in captured.items():
            values[rows, stops] = self._prefixes.inputs[self._reads[name]][numbers]
        logits[rows, stops, torch.tensor(self._prefixes.predicted)[numbers]] = 1
        return logits, captured


def test_recorded_activations_are_those_of_the_model(model: Model, prefixes: Prefixes) -> None:
    names = [model.read_hook(layer) for layer in range(model.n_layers)]
    recorded = RecordedBridge(model, prefixes)
    for number in (0, 1000, len(prefixes.prompts) - 1):
        ids = torch.tensor([prefixes.prompts[number]])
        logits, inputs = model.bridge.capture_batch(ids, names)
        best, read = recorded.capture_batch(ids, names)
        assert best.argmax(-1)[:, 1:].equal(logits.argmax(-1)[:, 1:])
        for name in names:
            assert torch.allclose(read[name][:, 1:], inputs[name][:, 1:], atol=1e-4)


def test_building_from_the_corpus_gives_the_shipped_index(
    model: Model, prefixes: Prefixes, corpus: Path, tmp_path: Path
) -> None:
    """Labels and counts exactly; activations up to the differences between processors."""
    bridge: Any = RecordedBridge(model, prefixes)
    layers = tuple(
        replace(
            layer,
            W_enc=layer.W_enc[:N_FEATURES],
            b_enc=layer.b_enc[:N_FEATURES],
            W_dec=layer.W_dec[:N_FEATURES],
            threshold=None if layer.threshold is None else layer.threshold[:N_FEATURES],
        )
        for layer in model.transcoders.layers
    )
    part = Model(model.source, bridge, replace(model.transcoders, layers=layers))
    build_atlas_index(part, corpus, tmp_path / "features")
    built, shipped = FeatureIndex.open(tmp_path), FeatureIndex.open(ATLAS_WEIGHTS / "per-layer")
    labels = {f: label.text for f, label in shipped.labels.items() if f.index < N_FEATURES}
    assert {f: label.text for f, label in built.labels.items()} == labels
    assert len(labels) > 300
    different = [
        feature
        for layer in range(model.n_layers)
        for number in range(N_FEATURES)
        if not same(built.card(feature := FeatureId(layer, number)), shipped.card(feature))
    ]
    assert len(different) <= 2, "some values are on the edge of a histogram's bin"


def same(one: FeatureCard | None, other: FeatureCard | None) -> bool:
    assert one is not None and other is not None

    def numbers(card: FeatureCard) -> list[float]:
        return [
            card.act_max,
            *card.quantile_values,
            *(v for group in card.groups for e in group.examples for v in e.activations),
        ]

    def rest(card: FeatureCard) -> Any:
        texts = [(g.name, [e.tokens for e in g.examples]) for g in card.groups]
        return texts, card.frequency, card.promoted, card.suppressed, card.histogram

    return rest(one) == rest(other) and numbers(one) == pytest.approx(numbers(other), abs=3e-3)


@pytest.mark.parametrize(("name", "labelled"), [("per-layer", 2888), ("cross-layer", 2530)])
def test_the_decision_record_has_the_right_number_of_labels(name: str, labelled: int) -> None:
    index = FeatureIndex.open(ATLAS_WEIGHTS / name)
    assert name in SETS and len(index.labels) == labelled
    decided = Path(__file__).resolve().parents[3] / "docs" / "atlas.md"
    assert f"{labelled:,} of" in decided.read_text(encoding="utf-8").replace("\n", " ")


def test_the_feature_that_the_tour_searches_for_keeps_its_label() -> None:
    label = FeatureIndex.open(ATLAS_WEIGHTS / "per-layer").labels[FeatureId(1, 887)]
    assert label == Label("about Texas", 0.957)


def test_a_corpus_is_not_written_into_a_missing_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["corpus", str(tmp_path / "nowhere" / "x.jsonl")]) == 2
    assert f"the folder {tmp_path / 'nowhere'} does not exist" in capsys.readouterr().err
