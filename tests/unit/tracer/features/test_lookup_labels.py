"""A card without a label gets one from the next source; a missing label is never an error."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from feature_files import known, save_index
from hub_server import HubServer
from neuronpedia_server import NeuronpediaServer, feature

from tracer.features import lookup
from tracer.features.cards import Label
from tracer.features.lookup import FeatureLookup
from tracer.hub import Reference, fetch
from tracer.types import FeatureId

F = FeatureId(0, 1)
SET = "model/0-set/1"
UNNAMED = FeatureId(0, 2)
UNNAMED_SET = "model/0-set/2"
FAR_LABEL = Label("Texan cities", None)


@pytest.fixture
def commit(hub: HubServer, tmp_path: Path) -> str:
    """Three features with examples on the hub, one of them with a label."""
    return hub.add("org/set", save_index(tmp_path / "published"))


def test_neuronpedia_labels_a_card_of_the_hub_that_has_no_label(
    commit: str, neuronpedia: NeuronpediaServer, opened: Callable[..., FeatureLookup]
) -> None:
    neuronpedia.answers[UNNAMED_SET] = feature()
    reader = opened(commit=commit)
    plain = known(opened(commit=commit, neuronpedia=False).card(UNNAMED))
    assert plain.label is None
    assert known(reader.card(UNNAMED)) == dataclasses.replace(plain, label=FAR_LABEL)
    assert reader.name(UNNAMED) == "Texan cities" and reader.search("texan") == (UNNAMED,)


def test_neuronpedia_is_not_asked_when_the_hub_has_a_label(
    commit: str, neuronpedia: NeuronpediaServer, opened: Callable[..., FeatureLookup]
) -> None:
    neuronpedia.answers[SET] = feature()
    assert known(opened(commit=commit).card(F)).label == Label("letters", 0.9)
    assert neuronpedia.requests == []


def test_an_index_on_this_disk_gets_labels_from_the_first_source_that_has_one(
    hub: HubServer,
    commit: str,
    neuronpedia: NeuronpediaServer,
    opened: Callable[..., FeatureLookup],
    tmp_path: Path,
) -> None:
    near = save_index(tmp_path / "near")
    (near / "features" / "labels.json.gz").unlink()
    neuronpedia.answers |= {SET: feature(), UNNAMED_SET: feature()}
    reader = opened(near, commit)
    assert known(reader.card(F)).label == Label("letters", 0.9)
    assert neuronpedia.requests == []
    assert known(reader.card(UNNAMED)).label == FAR_LABEL
    assert neuronpedia.requests == [UNNAMED_SET]


@pytest.mark.parametrize("answer", [feature(), feature(explanations=[]), None])
def test_a_label_or_its_absence_is_fetched_once(
    commit: str,
    neuronpedia: NeuronpediaServer,
    opened: Callable[..., FeatureLookup],
    monkeypatch: pytest.MonkeyPatch,
    answer: Any,
) -> None:
    if answer is not None:
        neuronpedia.answers[UNNAMED_SET] = answer
    expected = FAR_LABEL if answer is not None and answer["explanations"] else None
    first = opened(commit=commit)
    for reader in (first, first, opened(commit=commit)):
        assert known(reader.card(UNNAMED)).label == expected
    assert neuronpedia.requests == [UNNAMED_SET]
    monkeypatch.setenv("CIRCUIT_OFFLINE", "1")
    for reader in (first, opened(commit=commit)):
        assert known(reader.card(UNNAMED)).label == expected
        assert known(reader.cached_card(UNNAMED)).label == expected
    assert neuronpedia.requests == [UNNAMED_SET]


def test_no_label_is_fetched_offline_or_for_a_cached_card(
    commit: str,
    neuronpedia: NeuronpediaServer,
    opened: Callable[..., FeatureLookup],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known(opened(commit=commit, neuronpedia=False).card(UNNAMED))
    neuronpedia.answers[UNNAMED_SET] = feature()
    reader = opened(commit=commit)
    assert known(reader.cached_card(UNNAMED)).label is None
    assert reader.cached_name(UNNAMED) != "Texan cities"
    with monkeypatch.context() as context:
        context.setenv("HF_HUB_OFFLINE", "1")
        assert known(reader.card(UNNAMED)).label is None
    assert neuronpedia.requests == []
    assert known(reader.card(UNNAMED)).label == FAR_LABEL


def test_without_neuronpedia_only_the_label_is_missing(
    commit: str,
    neuronpedia: NeuronpediaServer,
    opened: Callable[..., FeatureLookup],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    neuronpedia.answers |= {"model/0-set/0": feature(), UNNAMED_SET: feature()}
    neuronpedia.status = 503
    reader = opened(commit=commit)
    for index in (2, 0, 2):
        card = known(reader.card(FeatureId(0, index)))
        assert card.label is None and card.act_max == 2.0 + index
    assert len(neuronpedia.requests) == 1
    neuronpedia.status = 200
    monkeypatch.setattr(lookup, "PAUSE", 0.0)
    assert known(opened(commit=commit).card(UNNAMED)).label == FAR_LABEL


def test_an_unreadable_answer_of_neuronpedia_only_costs_the_label(
    commit: str, neuronpedia: NeuronpediaServer, opened: Callable[..., FeatureLookup]
) -> None:
    neuronpedia.answers[UNNAMED_SET] = b"<html>maintenance</html>"
    reader = opened(commit=commit)
    assert known(reader.card(UNNAMED)).label is None
    neuronpedia.stop()
    features = [FeatureId(0, index) for index in range(3)]
    cards = reader.fetch_many(features)
    labels = [card.label for card in cards.values()]
    assert list(cards) == features and labels == [None, Label("letters", 0.9), None]


def test_an_unreachable_hub_does_not_cost_the_label(
    hub: HubServer,
    commit: str,
    neuronpedia: NeuronpediaServer,
    opened: Callable[..., FeatureLookup],
    tmp_path: Path,
) -> None:
    hub.stop()
    neuronpedia.answers[UNNAMED_SET] = feature()
    reader = opened(save_index(tmp_path / "near"), commit)
    assert known(reader.card(UNNAMED)).label == FAR_LABEL


def test_examples_downloaded_by_another_tool_are_read_offline(
    hub: HubServer,
    commit: str,
    neuronpedia: NeuronpediaServer,
    opened: Callable[..., FeatureLookup],
) -> None:
    names = ("index.json.gz", "labels.json.gz")
    fetch(Reference("org/set"), [f"features/{name}" for name in names], commit=commit)
    reader = opened(commit=commit)
    assert reader.cached_card(F) is None
    fetch(Reference("org/set"), ["features/layer_0.bin"], commit=commit)
    asked = len(hub.requests)
    assert known(reader.cached_card(F)).label == Label("letters", 0.9)
    assert len(hub.requests) == asked
