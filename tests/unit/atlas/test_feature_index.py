"""The shipped indexes are what the general builder makes of atlas's own corpus."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tracer
from tracer.atlas.__main__ import main
from tracer.atlas.build import SETS
from tracer.atlas.feature_index import build_atlas_index
from tracer.features.cards import FeatureCard, FeatureIndex, Label
from tracer.paths import ATLAS_WEIGHTS
from tracer.types import FeatureId


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("atlas") / "prompts.jsonl"
    assert main(["corpus", str(path)]) == 0
    return path


def test_the_corpus_names_what_is_known_of_every_new_prefix(corpus: Path) -> None:
    groups, *lines = [json.loads(line) for line in corpus.read_text(encoding="utf-8").splitlines()]
    assert list(groups["tag_groups"]) == ["place", "about", "say", "token"]
    assert len(lines) > 25_000
    assert all(len(line["tokens"]) == len(line["tags"]) for line in lines)
    met: set[tuple[int, ...]] = set()
    for line in lines:
        ids = tuple(line["tokens"])
        assert line["tags"][0] == []
        for stop in range(1, len(ids)):
            assert bool(line["tags"][stop]) == (ids[: stop + 1] not in met)
            met.add(ids[: stop + 1])


def test_building_from_the_corpus_gives_the_shipped_index(corpus: Path, tmp_path: Path) -> None:
    """Labels and counts exactly; activations to what processors differ by."""
    model = tracer.load("atlas", "per-layer", device="cpu")
    build_atlas_index(model, corpus, tmp_path / "features")
    built, shipped = FeatureIndex.open(tmp_path), FeatureIndex.open(ATLAS_WEIGHTS / "per-layer")
    assert {f: label.text for f, label in built.labels.items()} == {
        f: label.text for f, label in shipped.labels.items()
    }
    differ = [
        feature
        for layer in range(model.n_layers)
        for number in range(1024)
        if not same(built.card(feature := FeatureId(layer, number)), shipped.card(feature))
    ]
    assert len(differ) <= 10, "but for numbers that stand on an edge"


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
def test_as_many_features_are_labelled_as_the_decision_record_says(
    name: str, labelled: int
) -> None:
    index = FeatureIndex.open(ATLAS_WEIGHTS / name)
    assert name in SETS and len(index.labels) == labelled
    decided = Path(__file__).resolve().parents[3] / "docs" / "atlas.md"
    assert f"{labelled:,} of" in decided.read_text(encoding="utf-8").replace("\n", " ")


def test_the_feature_that_the_tour_searches_for_keeps_its_label() -> None:
    label = FeatureIndex.open(ATLAS_WEIGHTS / "per-layer").labels[FeatureId(1, 887)]
    assert label == Label("about Texas", 0.957)


def test_a_corpus_is_not_written_into_a_folder_that_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["corpus", str(tmp_path / "nowhere" / "x.jsonl")]) == 2
    assert "there is no folder" in capsys.readouterr().err
